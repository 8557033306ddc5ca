"""Judges the 40 pictures of the table: PyTorch's own and those of the compiled artifact, side by side.

Says also what the adapters change.

    python -m examples.tinyshapes.evaluate [--checkpoint FILE]
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from examples.tinyshapes.judge import judge, roughness
from examples.tinyshapes.reference import attach_adapter, load_reference
from examples.tinyshapes.sampling import sample_pictures
from examples.tinyshapes.shapes import CONCEPT as CONCEPT_KIND
from examples.tinyshapes.table import CFG_SCALE, SAMPLER, STEPS, Row, heart_rows, report, rows
from sdcomp import load
from sdcomp.compiler import AdapterFile, BuildOptions, build
from sdcomp.demo import CHECKPOINT, CONCEPT, SIZE, STYLE
from sdcomp.runtime.pipeline import GenerateOptions, Pipeline

BATCH = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    checkpoint = parser.parse_args().checkpoint
    torch.set_flush_denormal(True)
    table = rows()
    theirs = reference_pictures(checkpoint, table)
    print(f"PyTorch: {report(theirs, print)} of {len(table)} pictures right", flush=True)
    ours, _ = compiled(checkpoint)
    print(f"compiled: {report(ours, print)} of {len(table)} pictures right")
    differences = np.abs(np.stack(ours).astype(int) - np.stack(theirs))
    print(f"their pixels differ by {differences.mean():.3f} of 255 on average, at most {differences.max()}")
    for adapters in ((), (STYLE,), (CONCEPT,), (STYLE, CONCEPT)):
        pictures, hearts = compiled(checkpoint, *adapters)
        rough = np.mean([roughness(picture) for picture in pictures])
        names = " and ".join(path.stem for path in adapters) or "no adapter"
        print(f"{names}: roughness {rough:.1f}, {hearts} of {len(heart_rows())} hearts", flush=True)


def compiled(checkpoint: Path, *adapters: Path) -> tuple[list[NDArray[np.uint8]], int]:
    """The pictures of the table by an artifact with these adapters, and how many hearts it draws as such."""
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / "tinyshapes.so"
        build(checkpoint, artifact, BuildOptions([AdapterFile(path) for path in adapters], (SIZE,)))
        with load(artifact) as model:
            pictures = [compiled_picture(model, row) for row in rows()]
            hearts = [judge(compiled_picture(model, row)) for row in heart_rows()]
    return pictures, sum(verdict.kind == CONCEPT_KIND for verdict in hearts)


def reference_pictures(
    checkpoint: Path, table: list[Row], adapter: Path | None = None
) -> list[NDArray[np.uint8]]:
    """One picture per row, by diffusers and transformers alone, and LyCORIS for an adapter."""
    model, vae, factor = load_reference(checkpoint)
    if adapter is not None:
        attach_adapter(model, adapter)
    pictures: list[NDArray[np.uint8]] = []
    for first in range(0, len(table), BATCH):
        part = table[first : first + BATCH]
        prompts, seeds = [row.prompt for row in part], [row.seed for row in part]
        pictures += list(sample_pictures(model, vae, factor, prompts, seeds, STEPS, CFG_SCALE))
    return pictures


def compiled_picture(model: Pipeline, row: Row, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """The picture of one row by an artifact, uint8 [height, width, 3]."""
    options = GenerateOptions(
        row.prompt, steps=STEPS, cfg_scale=CFG_SCALE, seed=row.seed, sampler=SAMPLER, size=size
    )
    return np.asarray(model.generate(options).images[0])


if __name__ == "__main__":
    main()
