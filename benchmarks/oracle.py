"""The networks of a checkpoint as models of diffusers and transformers, on the checkpoint's own weights.

Models are built from configurations that are derived from the checkpoint, never downloaded. Inputs and
outputs are those of the compiled programs, in the same order.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.cases import Array
from sdcomp.frontend.config import ModelConfig, TextEncoderConfig, UNetConfig, VaeConfig
from sdcomp.frontend.names import Layer, text_layers, unet_layers, vae_layers

Reader = Callable[[str], Array]
"""From a tensor's canonical name to its values."""

_UNET: Any = UNet2DConditionModel
_VAE: Any = AutoencoderKL
"""diffusers' constructors have no type hints."""


class TextEncoder(torch.nn.Module):
    """tokens [batch, positions] i32 to hidden states [batch, positions, width]."""

    def __init__(self, config: ModelConfig, read: Reader, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model = CLIPTextModel(_clip_config(config.text))
        nested = any(name.startswith("text_model.") for name in self.model.state_dict())
        names = _names(config.text.prefix, text_layers(config.text), "" if nested else "text_model.")
        _load(self.model, names, read, dtype)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden_states: torch.Tensor = self.model(input_ids=tokens).last_hidden_state
        return hidden_states


class UNet(torch.nn.Module):
    """latents [1, channels, height, width], timestep [1], context [batch, tokens, width] to noise."""

    def __init__(self, config: ModelConfig, read: Reader, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        with torch.device("meta"):
            self.model: torch.nn.Module = _UNET(**_unet_config(config.unet))
        _load(self.model, _names(config.unet.prefix, unet_layers(config.unet)), read, dtype)

    def forward(self, latents: torch.Tensor, timestep: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        batch = context.shape[0]
        latents = latents.expand(batch, -1, -1, -1)
        timestep = timestep.expand(batch)
        noise: torch.Tensor = self.model(latents, timestep, encoder_hidden_states=context, return_dict=False)[
            0
        ]
        return noise


class VaeDecoder(torch.nn.Module):
    """latents [1, channels, height, width], unscaled, to an image [1, 3, ...], about -1 to 1."""

    def __init__(self, config: ModelConfig, read: Reader, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        model = _vae_on_meta(config.vae)
        self.post_quant_conv, self.decoder = model.post_quant_conv, model.decoder
        _load(self, _vae_names(config.vae, ("post_quant_conv", "decoder")), read, dtype)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        image: torch.Tensor = self.decoder(self.post_quant_conv(latents))
        return image


class VaeEncoder(torch.nn.Module):
    """image [1, 3, height, width] to mean and log variance of the latents, unscaled."""

    def __init__(self, config: ModelConfig, read: Reader, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        model = _vae_on_meta(config.vae)
        self.quant_conv, self.encoder = model.quant_conv, model.encoder
        _load(self, _vae_names(config.vae, ("quant_conv", "encoder")), read, dtype)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_variance = self.quant_conv(self.encoder(image)).chunk(2, dim=1)
        return mean, log_variance


def _clip_config(config: TextEncoderConfig) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=config.vocabulary,
        hidden_size=config.width,
        intermediate_size=config.mlp_width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        max_position_embeddings=config.positions,
        hidden_act=config.activation,
    )


def _unet_config(config: UNetConfig) -> dict[str, object]:
    """`attention_head_dim` is diffusers' name for the number of heads."""
    channels = [config.model_channels * multiplier for multiplier in config.channel_mult]
    kinds = ["CrossAttn{}Block2D" if depth else "{}Block2D" for depth in config.transformer_depth]
    return {
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": channels,
        "down_block_types": [kind.format("Down") for kind in kinds],
        "up_block_types": [kind.format("Up") for kind in kinds[::-1]],
        "layers_per_block": config.res_blocks,
        "attention_head_dim": [config.head_count(width) for width in channels],
        "cross_attention_dim": config.context_channels,
        "use_linear_projection": config.linear_projection,
        "transformer_layers_per_block": [
            *(depth or 1 for depth in config.transformer_depth[:-1]),
            config.middle_depth,
        ],
    }


def _vae_on_meta(config: VaeConfig) -> Any:
    levels = len(config.channel_mult)
    with torch.device("meta"):
        return _VAE(
            block_out_channels=[config.channels * multiplier for multiplier in config.channel_mult],
            down_block_types=["DownEncoderBlock2D"] * levels,
            up_block_types=["UpDecoderBlock2D"] * levels,
            layers_per_block=config.encoder_res_blocks,
            latent_channels=config.latent_channels,
        )


def _vae_names(config: VaeConfig, modules: tuple[str, ...]) -> dict[str, str]:
    names = _names(config.prefix, vae_layers(config))
    return {name: canonical for name, canonical in names.items() if name.split(".")[0] in modules}


def _names(prefix: str, layers: Iterable[Layer], removed: str = "") -> dict[str, str]:
    """The reference model's own names of tensors, without the prefix `removed`, to canonical ones."""
    return {
        (layer.alias + name.removeprefix(layer.path)).removeprefix(removed): prefix + name
        for layer in layers
        for name, _ in layer.tensors()
    }


def _load(model: torch.nn.Module, names: dict[str, str], read: Reader, dtype: torch.dtype) -> None:
    """Replaces every parameter of `model`. 1x1 convolutions of the file may be linear layers there."""
    expected = model.state_dict()
    tensors = {name: torch.from_numpy(read(canonical)).to(dtype) for name, canonical in names.items()}
    for name, tensor in tensors.items():
        if expected[name].ndim == 2 and tensor.shape[2:] == (1, 1):
            tensors[name] = tensor[:, :, 0, 0]
    model.load_state_dict(tensors, strict=True, assign=True)
    model.eval().requires_grad_(False)
