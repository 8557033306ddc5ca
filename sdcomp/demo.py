"""The demonstration: a small random model, a LoKr adapter, and a picture without and with it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdcomp import load
from sdcomp.compiler import AdapterFile, BuildOptions, build
from sdcomp.errors import UsageError
from sdcomp.frontend.synthetic import small_config, write_random_checkpoint
from sdcomp.frontend.synthetic_lokr import write_random_lokr
from sdcomp.runtime.images import save_png
from sdcomp.runtime.pipeline import GenerateOptions

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = (256, 256)
OPTIONS = GenerateOptions("a lighthouse above the sea at dusk", steps=8)
CONFIG = small_config(
    unet={"res_blocks": 1},
    vae={"channel_mult": (1, 1, 2, 2), "decoder_res_blocks": 2, "has_encoder": False},
)
"""The family's structure and the VAE's factor of 8, with as few layers as can be."""

_GAP = 16

Progress = Callable[[str, int, int], None]
"""Stage, parts done, parts in all."""


@dataclass(frozen=True)
class Demo:
    """The pictures that `make_demo` wrote, `sheet` showing both side by side, and seconds per stage."""

    plain: Path
    adapted: Path
    sheet: Path
    seconds: dict[str, float]


def make_demo(folder: Path, progress: Progress) -> Demo:
    """Writes checkpoint, adapter, two artifacts and their pictures into `folder`, made if missing.

    Raises UsageError where the folder cannot be written, and what `build` and `load` raise.
    """
    checkpoint, adapter = folder / "model.safetensors", folder / "lokr.safetensors"
    plain, adapted, sheet = folder / "plain.png", folder / "lokr.png", folder / "demo.png"
    seconds: dict[str, float] = {}
    begin = time.perf_counter()
    progress("random checkpoint and adapter", 0, 1)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_random_checkpoint(checkpoint, CONFIG)
        write_random_lokr(adapter, CONFIG)
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be written: {error.strerror or error}; choose another folder"
        ) from None
    seconds["random checkpoint and adapter"] = time.perf_counter() - begin
    pictures = [
        _make("without adapter", checkpoint, (), plain, progress, seconds),
        _make("with adapter", checkpoint, (AdapterFile(adapter),), adapted, progress, seconds),
    ]
    save_png(
        side_by_side(pictures), sheet, f"{OPTIONS.prompt}: without and with a LoKr adapter; random weights"
    )
    return Demo(plain, adapted, sheet, seconds)


def _make(
    label: str,
    checkpoint: Path,
    adapters: Sequence[AdapterFile],
    picture: Path,
    progress: Progress,
    seconds: dict[str, float],
) -> "Image":
    """Builds an artifact beside `picture`, and the picture with it."""
    artifact = picture.with_suffix(".so")
    begin = time.perf_counter()

    def report(stage: str, done: int, total: int, seconds: float = 0.0) -> None:
        del seconds
        progress(f"{label}: {stage}", done, total)

    build(checkpoint, artifact, BuildOptions(adapters, (SIZE,)), report)
    built = time.perf_counter()
    with load(artifact) as model:
        made = model.generate(OPTIONS, report)
    save_png(made.images[0], picture, made.parameters[0])
    seconds[f"build {label}"] = built - begin
    seconds[f"picture {label}"] = time.perf_counter() - built
    return made.images[0]


def side_by_side(pictures: Sequence["Image"]) -> "Image":
    """One picture with all of them from left to right, white between."""
    from PIL import Image

    width = sum(picture.width + _GAP for picture in pictures) + _GAP
    sheet = Image.new("RGB", (width, max(picture.height for picture in pictures) + 2 * _GAP), "white")
    left = _GAP
    for picture in pictures:
        sheet.paste(picture, (left, _GAP))
        left += picture.width + _GAP
    return sheet
