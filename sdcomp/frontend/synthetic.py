"""Synthetic Stable Diffusion 1.x checkpoints: random weights, activations in range.

For demonstrations and tests: complete files of the real layout, as small as one likes.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from sdcomp.frontend.config import ModelConfig, TextEncoderConfig, UNetConfig, VaeConfig
from sdcomp.frontend.family import expected_tensors
from sdcomp.frontend.names import TEXT, UNET, VAE
from sdcomp.ir.types import Shape

SMALL = ModelConfig(
    family="sd1",
    prediction="eps",
    unet=UNetConfig(
        prefix=UNET,
        in_channels=4,
        out_channels=4,
        model_channels=32,
        channel_mult=(1, 2),
        res_blocks=2,
        transformer_depth=(1, 1),
        middle_depth=1,
        context_channels=64,
        heads=8,
        head_channels=None,
        linear_projection=False,
    ),
    text=TextEncoderConfig(
        prefix=TEXT,
        width=64,
        layers=2,
        heads=1,
        mlp_width=256,
        activation="quick_gelu",
        vocabulary=49408,
        positions=77,
    ),
    vae=VaeConfig(
        prefix=VAE,
        channels=32,
        channel_mult=(1, 2),
        encoder_res_blocks=2,
        decoder_res_blocks=3,
        latent_channels=4,
        image_channels=3,
        scaling_factor=0.18215,
        has_encoder=True,
    ),
)
"""A complete model of the family, as small as it gets with the real vocabulary."""

RESIDUAL_OUTPUTS = ("out_layers.3", "proj_out", "to_out.0", "ff.net.2", "conv2", "out_proj", "fc2")
RESIDUAL_GAIN = 0.35

Options = Mapping[str, Any]
Tensors = dict[str, npt.NDArray[Any]]


def small_config(
    unet: Options | None = None, vae: Options | None = None, text: Options | None = None
) -> ModelConfig:
    """`SMALL` with some fields of its parts replaced, such as `unet={"channel_mult": (1, 2, 4)}`."""
    return replace(
        SMALL,
        unet=replace(SMALL.unet, **(unet or {})),
        vae=replace(SMALL.vae, **(vae or {})),
        text=replace(SMALL.text, **(text or {})),
    )


def random_tensors(config: ModelConfig, dtype: str = "f16", seed: int = 0) -> Tensors:
    """A random value for every tensor of `config`, by canonical name, as float16 or float32."""
    generator = np.random.default_rng(seed)
    stored = {"f16": np.float16, "f32": np.float32}[dtype]
    return {
        name: random_tensor(name, shape, generator).astype(stored)
        for name, shape in expected_tensors(config).items()
    }


def random_tensor(name: str, shape: Shape, generator: np.random.Generator) -> npt.NDArray[np.float32]:
    """Norms near one, biases and embeddings near zero, others 1/sqrt(fan-in), less where a branch ends."""
    values = generator.standard_normal(shape, dtype=np.float32)
    if name.endswith(".bias") or ".embeddings." in name:
        return 0.02 * values
    if len(shape) == 1:
        return 1 + 0.1 * values
    gain = RESIDUAL_GAIN if name.endswith(tuple(f"{layer}.weight" for layer in RESIDUAL_OUTPUTS)) else 1.0
    return gain / math.sqrt(math.prod(shape[1:])) * values


def write_random_checkpoint(path: Path | str, config: ModelConfig, dtype: str = "f16", seed: int = 0) -> None:
    """Writes a checkpoint with CompVis' names. Raises OSError where it cannot be written."""
    save_file(random_tensors(config, dtype, seed), str(path), metadata={"format": "pt"})
