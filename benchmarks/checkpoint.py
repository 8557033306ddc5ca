"""Synthetic checkpoints: the architecture of a family, random weights that keep activations in range."""

from math import prod
from pathlib import Path

from sdcomp.errors import UsageError
from sdcomp.frontend.checkpoint import Checkpoint
from sdcomp.frontend.synthetic import SMALL, small_config, write_random_checkpoint

SD15 = small_config(
    unet={
        "model_channels": 320,
        "channel_mult": (1, 2, 4, 4),
        "transformer_depth": (1, 1, 1, 0),
        "context_channels": 768,
    },
    text={"width": 768, "layers": 12, "heads": 12, "mlp_width": 3072},
    vae={"channels": 128, "channel_mult": (1, 2, 4, 4)},
)
"""Stable Diffusion 1.5."""

TINY = SMALL
"""The same architecture, small enough for tests."""

FAMILIES = {"sd15": SD15, "tiny": TINY}


def write_checkpoint(path: Path, family: str, dtype: str, seed: int) -> int:
    """Writes a checkpoint in CompVis' layout; returns its number of parameters. Raises UsageError."""
    try:
        write_random_checkpoint(path, FAMILIES[family], dtype, seed)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from None
    with Checkpoint.open(path) as checkpoint:
        return sum(prod(tensor.shape) for tensor in checkpoint.tensors.values())
