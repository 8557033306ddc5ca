"""The demonstration: the example model with and without its LoKr adapters, and a sheet of what they draw."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdcomp import load
from sdcomp.compiler import AdapterFile, BuildOptions, build
from sdcomp.errors import UsageError
from sdcomp.runtime.images import save_png
from sdcomp.runtime.pipeline import GenerateOptions
from sdcomp.sheet import contact_sheet

if TYPE_CHECKING:
    from PIL.Image import Image

MODEL = Path(__file__).parent / "data" / "tinyshapes"
CHECKPOINT = MODEL / "tinyshapes.safetensors"
STYLE, CONCEPT = MODEL / "style-lokr.safetensors", MODEL / "concept-lokr.safetensors"
"""The trained files that examples/tinyshapes describes."""

SIZE = (64, 64)
COLUMNS = {
    "without adapter": (),
    "style adapter": (STYLE,),
    "concept adapter": (CONCEPT,),
    "both": (STYLE, CONCEPT),
}
PROMPTS = (
    "a red circle on a yellow background",
    "a large white star on a blue background",
    "a pink heart on a black background",
    "a green ring and a blue square on a white background",
)

Progress = Callable[[str, int, int], None]
"""Stage, parts done, parts in all."""


@dataclass(frozen=True)
class Demo:
    """What `make_demo` wrote: the sheet and one artifact per column. Seconds are by column, those of pictures
    in the order of `PROMPTS`.
    """

    sheet: Path
    artifacts: dict[str, Path]
    build_seconds: dict[str, float]
    picture_seconds: dict[str, list[float]]


def make_demo(folder: Path, progress: Progress) -> Demo:
    """Builds an artifact per column into `folder`, made if missing, and draws every prompt with each.

    Raises UsageError where the folder cannot be written, and what `build` and `load` raise.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be written: {error.strerror or error}; choose another folder"
        ) from None
    demo = Demo(folder / "demo.png", {}, {}, {})
    drawn = [_column(label, demo, progress) for label in COLUMNS]
    sheet = contact_sheet(PROMPTS, dict(zip(COLUMNS, drawn, strict=True)))
    save_png(sheet, demo.sheet, f"{'; '.join(PROMPTS)}. Columns: {', '.join(COLUMNS)}")
    return demo


def _column(label: str, demo: Demo, progress: Progress) -> "list[Image]":
    """Builds the artifact of a column and draws its pictures; notes how long each took."""
    artifact = demo.sheet.with_name(f"{label.replace(' ', '-')}.so")
    begin = time.perf_counter()
    options = BuildOptions([AdapterFile(path) for path in COLUMNS[label]], (SIZE,))
    build(CHECKPOINT, artifact, options, lambda stage, *parts: progress(f"{label}: {stage}", *parts))
    demo.artifacts[label], demo.build_seconds[label] = artifact, time.perf_counter() - begin
    demo.picture_seconds[label] = []
    pictures = []
    with load(artifact) as model:
        for number, prompt in enumerate(PROMPTS):
            progress(f"{label}: pictures", number, len(PROMPTS))
            begin = time.perf_counter()
            pictures += model.generate(options_of(prompt)).images
            demo.picture_seconds[label].append(time.perf_counter() - begin)
    return pictures


def options_of(prompt: str) -> GenerateOptions:
    """How the pictures of the sheet are sampled."""
    return GenerateOptions(prompt, steps=20, cfg_scale=3.0, sampler="euler")
