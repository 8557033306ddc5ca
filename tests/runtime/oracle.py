"""A checkpoint's networks as torch models of diffusers and transformers; LoKr files that LyCORIS writes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKL
from lycoris.kohya import create_network  # type: ignore[import-untyped]
from safetensors.numpy import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from sdcomp.frontend.config import ModelConfig, TextEncoderConfig, VaeConfig
from tests.frontend import test_unet, test_vae

torch.set_num_threads(1)

Array = npt.NDArray[Any]

LYCORIS_PRESET = """
unet_target_module = ["Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D"]
unet_target_name = ["conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"]
text_encoder_target_module = ["CLIPAttention", "CLIPMLP"]
"""
ENCODER = ("encoder.", "quant_conv.")
"""Tensors of the VAE that a checkpoint may leave out."""

DELTA_GAIN = 0.5
"""Standard deviation of an adapter's change of a weight, relative to the weight's."""


@dataclass(frozen=True)
class Oracle:
    """Torch models in float32 with a checkpoint's weights. Arrays go in and out as `Model` has them."""

    unet: Any
    vae: Any
    text: Any
    scaling_factor: float

    def hidden_states(self, ids: Array) -> Array:
        """f32[n,77,width] of token ids i32[n,77]."""
        with torch.no_grad():
            return _array(self.text(input_ids=torch.from_numpy(ids)).last_hidden_state)

    def noise(self, latents: Array, timestep: float, context: Array) -> Array:
        time = torch.tensor([timestep], dtype=torch.float32)
        with torch.no_grad():
            text = torch.from_numpy(context)
            return _array(self.unet(torch.from_numpy(latents), time, encoder_hidden_states=text).sample)

    def decode(self, latents: Array) -> Array:
        with torch.no_grad():
            return _array(self.vae.decode(torch.from_numpy(latents) / self.scaling_factor).sample)

    def encode(self, images: Array) -> Array:
        with torch.no_grad():
            mean = self.vae.encode(torch.from_numpy(images)).latent_dist.mean
            return _array(mean * self.scaling_factor)

    def merge_lokr(self, path: Path, strength: float) -> int:
        """Adds an adapter's differences, computed in float64; returns how many weights it changed."""
        tensors = load_file(path)
        modules = {f"lora_unet_{_flat(name)}": module for name, module in self.unet.named_modules()}
        modules |= {f"lora_te_{_flat(name)}": module for name, module in self.text.named_modules()}
        names = dict.fromkeys(key.partition(".")[0] for key in tensors)
        for name in names:
            weight = modules[name].weight
            delta = lokr_difference(dict(_below(name, tensors)), tuple(weight.shape))
            weight.data = (weight.data.double() + strength * torch.from_numpy(delta)).float()
        return len(names)


def lokr_difference(factors: dict[str, Array], shape: tuple[int, ...]) -> Array:
    """The definition: gamma kron(w1, w2), gamma = alpha / rank, or 1 where no factor is a product."""
    f = {name: values.astype(np.float64) for name, values in factors.items()}
    first = f["lokr_w1"] if "lokr_w1" in f else f["lokr_w1_a"] @ f["lokr_w1_b"]
    if "lokr_t2" in f:
        second = np.einsum("ijuv,ip,jq->pquv", f["lokr_t2"], f["lokr_w2_a"], f["lokr_w2_b"])
    else:
        second = f["lokr_w2"] if "lokr_w2" in f else np.tensordot(f["lokr_w2_a"], f["lokr_w2_b"], 1)
    second = second.reshape(second.shape[0], -1, *shape[2:])
    first = first.reshape(*first.shape, *(1 for _ in shape[2:]))
    rank = next((len(f[name]) for name in ("lokr_t2", "lokr_w2_b", "lokr_w1_b") if name in f), None)
    gamma = 1.0 if rank is None else float(f["alpha"].reshape(())) / rank
    difference: Array = gamma * np.kron(first, second).reshape(shape)
    return difference


def make_oracle(config: ModelConfig, checkpoint: Path) -> Oracle:
    """The models with the weights of a checkpoint in CompVis' layout."""
    tensors = {name: torch.from_numpy(values).float() for name, values in load_file(checkpoint).items()}
    unet: Any = test_unet.oracle_model(config.unet)
    _fill(unet, config.unet.prefix, test_unet.translator(config.unet), tensors)
    vae = _vae_model(config.vae)
    _fill(vae, config.vae.prefix, test_vae.translator(config.vae), tensors)
    text = _text_model(config.text)
    nested = any(name.startswith("text_model.") for name in text.state_dict())
    _fill(text, config.text.prefix, lambda n: n if nested else n.removeprefix("text_model."), tensors)
    return Oracle(unet.eval(), vae.eval(), text.eval(), config.vae.scaling_factor)


def write_lycoris(path: Path, config: ModelConfig, folder: Path, seed: int = 0, **options: Any) -> None:
    """A LoKr for kohya, as LyCORIS makes and saves it, with random factors of moderate size."""
    preset = folder / "preset.toml"
    preset.write_text(LYCORIS_PRESET)
    torch.manual_seed(seed)
    unet, text = test_unet.oracle_model(config.unet), _text_model(config.text)
    settings = {"algo": "lokr", "preset": str(preset), "factor": 4, "conv_dim": 2, **options}
    rank = settings.pop("network_dim", 3)
    network = create_network(1.0, rank, 0.7, None, text, unet, **settings)
    network.apply_to(None, None, True, True)
    with torch.no_grad():
        for module in network.loras:
            _randomise(module)
    network.save_weights(str(path), torch.float16, {})


def _randomise(module: Any) -> None:
    for parameter in module.parameters():
        parameter.normal_()
    weight = module.org_module[0].weight
    first = next(value for name, value in module.named_parameters() if name.startswith("lokr_w1"))
    deviation = 1 / np.sqrt(weight[0].numel())
    first.mul_(DELTA_GAIN * deviation / module.get_weight(weight.shape).std())


def relative_error(found: Array, expected: Array) -> float:
    """norm(found - expected) / norm(expected)."""
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _fill(model: torch.nn.Module, prefix: str, translate: Any, tensors: dict[str, torch.Tensor]) -> None:
    own = model.state_dict()
    named = {translate(k.removeprefix(prefix)): v for k, v in tensors.items() if k.startswith(prefix)}
    fitting = {name: value.reshape(own[name].shape) for name, value in named.items()}
    missing = model.load_state_dict(fitting, strict=False).missing_keys
    assert all(name.startswith(ENCODER) for name in missing), missing


def _vae_model(config: VaeConfig) -> Any:
    levels = len(config.channel_mult)
    return AutoencoderKL(  # type: ignore[no-untyped-call]
        block_out_channels=[config.channels * multiplier for multiplier in config.channel_mult],
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        layers_per_block=config.decoder_res_blocks - 1,
        latent_channels=config.latent_channels,
    )


def _text_model(config: TextEncoderConfig) -> Any:
    settings = CLIPTextConfig(
        vocab_size=config.vocabulary,
        hidden_size=config.width,
        intermediate_size=config.mlp_width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        max_position_embeddings=config.positions,
        hidden_act=config.activation,
    )
    return CLIPTextModel(settings)


def _below(module: str, tensors: dict[str, Array]) -> Iterator[tuple[str, Array]]:
    prefix = f"{module}."
    return ((k.removeprefix(prefix), v) for k, v in tensors.items() if k.startswith(prefix))


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _array(tensor: torch.Tensor) -> Array:
    return tensor.contiguous().numpy()
