"""Synthetic checkpoints: the architecture of a family, random weights that keep activations in range."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from benchmarks.cases import Array
from sdcomp.errors import UsageError
from sdcomp.frontend.config import ModelConfig, TextEncoderConfig, UNetConfig, VaeConfig
from sdcomp.frontend.family import expected_tensors
from sdcomp.frontend.names import TEXT, UNET, VAE

SD15 = ModelConfig(
    family="sd1",
    prediction="eps",
    unet=UNetConfig(
        prefix=UNET,
        in_channels=4,
        out_channels=4,
        model_channels=320,
        channel_mult=(1, 2, 4, 4),
        res_blocks=2,
        transformer_depth=(1, 1, 1, 0),
        middle_depth=1,
        context_channels=768,
        heads=8,
        head_channels=None,
        linear_projection=False,
    ),
    text=TextEncoderConfig(
        prefix=TEXT,
        width=768,
        layers=12,
        heads=12,
        mlp_width=3072,
        activation="quick_gelu",
        vocabulary=49408,
        positions=77,
    ),
    vae=VaeConfig(
        prefix=VAE,
        channels=128,
        channel_mult=(1, 2, 4, 4),
        encoder_res_blocks=2,
        decoder_res_blocks=3,
        latent_channels=4,
        image_channels=3,
        scaling_factor=0.18215,
        has_encoder=True,
    ),
)
"""Stable Diffusion 1.5."""

TINY = replace(
    SD15,
    unet=replace(
        SD15.unet, model_channels=32, channel_mult=(1, 2), transformer_depth=(1, 1), context_channels=64
    ),
    text=replace(SD15.text, width=64, layers=2, heads=1, mlp_width=256),
    vae=replace(SD15.vae, channels=32, channel_mult=(1, 2)),
)
"""The same architecture, small enough for tests."""

FAMILIES = {"sd15": SD15, "tiny": TINY}
DTYPES = {"f16": np.float16, "f32": np.float32}

_BRANCH_ENDS = ("out_layers.3", "proj_out", "to_out.0", "ff.net.2", "conv2", "out_proj", "fc2")
_BRANCH_GAIN = 0.35


def write_checkpoint(path: Path, family: str, dtype: str, seed: int) -> int:
    """Writes a checkpoint in CompVis' layout; returns its number of parameters. Raises UsageError."""
    tensors = dict(_tensors(FAMILIES[family], dtype, seed))
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from None
    return sum(tensor.size for tensor in tensors.values())


def _tensors(config: ModelConfig, dtype: str, seed: int) -> Iterator[tuple[str, Array]]:
    generator = np.random.default_rng(seed)
    for name, shape in expected_tensors(config).items():
        yield name, _values(name, shape, generator).astype(DTYPES[dtype])


def _values(name: str, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """Norms near one, biases and embeddings near zero, others of variance 1 / inputs, or less."""
    values = generator.standard_normal(shape, dtype=np.float32)
    if name.endswith(".bias") or ".embeddings." in name:
        return 0.02 * values
    if len(shape) == 1:
        return 1 + 0.1 * values
    gain = _BRANCH_GAIN if name.removesuffix(".weight").endswith(_BRANCH_ENDS) else 1.0
    return gain / math.sqrt(math.prod(shape[1:])) * values
