"""Random scenes with their captions: what the model is trained to draw."""

from collections.abc import Sequence

import numpy as np

from examples.tinyshapes.shapes import BASE_SHAPES, COLOURS, SIDE, Point, Scene, Shape

RADII = {"small": 14.0, "": 19.0, "large": 25.0}
PLACES = {"left": (-14.0, 0.0), "right": (14.0, 0.0), "top": (0.0, -14.0), "bottom": (0.0, 14.0)}

PLACED_SHARE = 0.25
"""Of small shapes, how many stand beside the centre, with words for it."""

PAIR_SHARE = 0.1
PAIR_RADIUS = 13.5
PAIR_OFFSET = 15.5
JITTER = 2.5


def random_scene(
    generator: np.random.Generator, kinds: Sequence[str] = BASE_SHAPES, style: str = "plain"
) -> tuple[Scene, str]:
    """A scene and its caption, such as "a small red circle at the left on a blue background"."""
    background, first, second = generator.choice(list(COLOURS), 3, replace=False)
    if generator.random() < PAIR_SHARE:
        return _pair(generator, kinds, style, (background, first, second))
    size = str(generator.choice(list(RADII)))
    kind = str(generator.choice(kinds))
    offset, words = (0.0, 0.0), ""
    if size == "small" and generator.random() < PLACED_SHARE:
        place = str(generator.choice(list(PLACES)))
        offset, words = PLACES[place], f" at the {place}"
    shape = _place(generator, kind, str(first), offset, RADII[size])
    caption = f"a {size} {first} {kind}{words} on a {background} background".replace("  ", " ")
    return Scene(str(background), (shape,), style), caption


def _pair(
    generator: np.random.Generator, kinds: Sequence[str], style: str, colours: tuple[str, str, str]
) -> tuple[Scene, str]:
    background, first, second = map(str, colours)
    left, right = (str(kind) for kind in generator.choice(kinds, 2))
    shapes = (
        _place(generator, left, first, (-PAIR_OFFSET, 0.0), PAIR_RADIUS),
        _place(generator, right, second, (PAIR_OFFSET, 0.0), PAIR_RADIUS),
    )
    return Scene(
        background, shapes, style
    ), f"a {first} {left} and a {second} {right} on a {background} background"


def _place(generator: np.random.Generator, kind: str, colour: str, offset: Point, radius: float) -> Shape:
    """A shape near the given place, a little moved and resized."""
    x, y = (SIDE / 2 + part + generator.uniform(-JITTER, JITTER) for part in offset)
    return Shape(kind, colour, (x, y), radius * generator.uniform(0.93, 1.07))
