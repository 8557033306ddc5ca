"""The finished checkpoint in diffusers and transformers, read by diffusers' own converters."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from lycoris.kohya import LycorisNetworkKohya, create_network_from_weights
from safetensors import safe_open

from examples.tinyshapes.networks import make_vae
from examples.tinyshapes.train_adapter import TARGETS, TextModel
from examples.tinyshapes.train_model import Diffusion

TEXT = "cond_stage_model.transformer.text_model."


def load_reference(path: Path) -> tuple[Diffusion, AutoencoderKL, float]:
    """The networks in f32, and the scaling factor of the latents."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        factor = float(file.metadata()["sdcomp.vae.scaling_factor"])
    model, vae = Diffusion(), make_vae()
    config = dict(model.unet.config) | {"num_class_embeds": None}
    model.unet.load_state_dict(convert_ldm_unet_checkpoint(dict(tensors), config))
    vae.load_state_dict(convert_ldm_vae_checkpoint(dict(tensors), dict(vae.config)))
    text = {name.removeprefix(TEXT): value for name, value in tensors.items() if name.startswith(TEXT)}
    model.text.load_state_dict(text, strict=True)
    return freeze(model), freeze(vae), factor


def freeze(network: torch.nn.Module) -> torch.nn.Module:
    """For inference only."""
    return network.eval().requires_grad_(False)


def attach_adapter(model: Diffusion, path: Path) -> None:
    """Puts an adapter into the forward path of the networks, as the LyCORIS library reads it."""
    LycorisNetworkKohya.apply_preset(TARGETS)
    text = TextModel(model.text)
    network, _ = create_network_from_weights(1.0, str(path), None, text, model.unet, for_inference=True)
    network.apply_to(text, model.unet, True, True)
    freeze(network)
