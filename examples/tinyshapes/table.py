"""The 40 prompts by which the model is measured, each with its seed and what its picture must show."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from examples.tinyshapes.captions import RADII
from examples.tinyshapes.judge import Verdict, judge
from examples.tinyshapes.shapes import BASE_SHAPES, COLOURS, CONCEPT

COUNT = 40
STEPS = 20
CFG_SCALE = 3.0
SAMPLER = "euler"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    prompt: str
    seed: int
    expected: Verdict


def rows() -> list[Row]:
    """Every kind, colour, background and size in turn, no two alike."""
    kinds, colours, sizes = list(BASE_SHAPES), list(COLOURS), list(RADII)
    made = []
    for index in range(COUNT):
        kind, colour = kinds[index % len(kinds)], colours[index % len(colours)]
        background = colours[(index + 1 + index // len(colours)) % len(colours)]
        size = sizes[(index // len(kinds)) % len(sizes)]
        prompt = " ".join(f"a {size} {colour} {kind} on a {background} background".split())
        made.append(Row(prompt, 1000 + index, Verdict(background, colour, kind)))
    return made


def heart_rows() -> list[Row]:
    """Eight prompts for the shape that only the concept adapter knows."""
    colours = list(COLOURS)
    grounds = colours[3:] + colours[:3]
    return [
        Row(f"a {colour} {CONCEPT} on a {ground} background", seed, Verdict(ground, colour, CONCEPT))
        for seed, (colour, ground) in enumerate(zip(colours, grounds, strict=True))
    ]


def judge_all(pictures: Sequence[NDArray[np.uint8]]) -> list[bool]:
    """Which of the pictures, one per row, show what they must."""
    return [judge(picture) == row.expected for picture, row in zip(pictures, rows(), strict=True)]


def report(pictures: Sequence[NDArray[np.uint8]], say: Callable[[str], None]) -> int:
    """How many are right; says what is wrong with the others."""
    right = judge_all(pictures)
    for row, picture, is_right in zip(rows(), pictures, right, strict=True):
        if not is_right:
            say(f"  {row.prompt} (seed {row.seed}): {judge(picture)}")
    return sum(right)
