"""Writes small synthetic Stable Diffusion 1.x checkpoints, in every layout that tests need."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
from safetensors.numpy import save_file

from sdcomp.frontend.config import ModelConfig
from sdcomp.frontend.names import TEXT, UNET, VAE, text_layers, unet_layers, vae_layers
from sdcomp.frontend.synthetic import SMALL, Options, random_tensor, random_tensors, small_config

__all__ = ["SMALL", "random_tensor", "random_tensors", "small_config", "write_checkpoint"]


def write_checkpoint(
    path: Path | str,
    *,
    unet: Options | None = None,
    vae: Options | None = None,
    text: Options | None = None,
    dtype: str = "f16",
    seed: int = 0,
    layout: str = "ldm",
    metadata: Mapping[str, str] | None = None,
) -> ModelConfig:
    """Write a complete checkpoint and return what is in it.

    `unet`, `vae` and `text` replace fields of `SMALL`'s parts; `dtype` is "f16" or "f32";
    `layout` is "ldm" (CompVis' names) or "diffusers" (the names of the diffusers library in one file).
    """
    config = small_config(unet, vae, text)
    tensors = random_tensors(config, dtype, seed)
    if layout == "diffusers":
        tensors = diffusers_layout(config, tensors)
    save_file(tensors, str(path), metadata=dict(metadata or {"format": "pt"}))
    return config


def diffusers_layout(
    config: ModelConfig, tensors: Mapping[str, npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    """The same tensors under `unet.`, `vae.`, `text_encoder.`, with the VAE's attention as linear layers."""
    networks = (
        (UNET, "unet.", unet_layers(config.unet)),
        (VAE, "vae.", vae_layers(config.vae)),
        (TEXT, "text_encoder.", text_layers(config.text)),
    )
    renamed: dict[str, npt.NDArray[Any]] = {}
    for prefix, new_prefix, layers in networks:
        for layer in layers:
            for name, shape in layer.tensors():
                new_name = new_prefix + layer.alias + name[len(layer.path) :]
                value = tensors[prefix + name]
                linear = "mid_block.attentions" in new_name and prefix == VAE and len(shape) == 4
                renamed[new_name] = value.reshape(shape[:2]) if linear else value
    return renamed
