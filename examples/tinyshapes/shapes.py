"""Draws the training pictures: flat shapes with smooth edges on flat backgrounds, any side, sRGB bytes."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDE = 64
OVERSAMPLING = 4

COLOURS = {
    "red": (225, 35, 40),
    "green": (35, 150, 60),
    "blue": (40, 75, 215),
    "yellow": (250, 215, 45),
    "pink": (240, 120, 190),
    "cyan": (60, 200, 215),
    "black": (20, 20, 20),
    "white": (245, 245, 245),
}

STYLES = ("plain", "hatched")
HATCH_PERIOD = 8.0
"""Pixels from one stripe of a hatched shape to the next, across."""

Point = tuple[float, float]
Draw = Callable[[ImageDraw.ImageDraw, Point, float], None]


@dataclass(frozen=True)
class Shape:
    """One shape of a scene: a key of `SHAPES` and of `COLOURS`; centre and radius in pixels."""

    kind: str
    colour: str
    centre: Point
    radius: float


@dataclass(frozen=True)
class Scene:
    """Shapes on a background, a key of `COLOURS`; `style` is one of `STYLES`."""

    background: str
    shapes: tuple[Shape, ...]
    style: str = "plain"


def draw_scene(scene: Scene, side: int = SIDE) -> NDArray[np.uint8]:
    """The picture of a scene, uint8 [side, side, 3]."""
    picture = np.broadcast_to(np.float32(COLOURS[scene.background]), (side, side, 3))
    for shape in scene.shapes:
        cover = shape_mask(shape, side)
        if scene.style == "hatched":
            cover = cover * hatching(side)
        picture = picture + cover[..., None] * (np.float32(COLOURS[shape.colour]) - picture)
    rounded: NDArray[np.uint8] = np.rint(picture).astype(np.uint8)
    return rounded


def shape_mask(shape: Shape, side: int = SIDE) -> NDArray[np.float32]:
    """How much of each pixel the shape covers, 0 to 1, f32 [side, side]."""
    large = Image.new("L", (side * OVERSAMPLING, side * OVERSAMPLING))
    centre = (shape.centre[0] * OVERSAMPLING, shape.centre[1] * OVERSAMPLING)
    SHAPES[shape.kind](ImageDraw.Draw(large), centre, shape.radius * OVERSAMPLING)
    return np.asarray(large.reduce(OVERSAMPLING), np.float32) / 255


def hatching(side: int = SIDE) -> NDArray[np.float32]:
    """Soft diagonal stripes between 0 and 1, f32 [side, side]."""
    rows, columns = np.mgrid[:side, :side]
    wave = np.sin((rows + columns) * (2 * math.pi / (HATCH_PERIOD * math.sqrt(2))))
    return np.clip(0.5 + 1.5 * wave, 0, 1).astype(np.float32)


def _circle(draw: ImageDraw.ImageDraw, centre: Point, radius: float, fill: int = 255) -> None:
    x, y = centre
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def _ring(draw: ImageDraw.ImageDraw, centre: Point, radius: float) -> None:
    _circle(draw, centre, radius)
    _circle(draw, centre, 0.5 * radius, fill=0)


def _square(draw: ImageDraw.ImageDraw, centre: Point, radius: float) -> None:
    x, y = centre
    half = 0.85 * radius
    draw.rectangle((x - half, y - half, x + half, y + half), fill=255)


def _cross(draw: ImageDraw.ImageDraw, centre: Point, radius: float) -> None:
    x, y = centre
    arm = 0.34 * radius
    draw.rectangle((x - radius, y - arm, x + radius, y + arm), fill=255)
    draw.rectangle((x - arm, y - radius, x + arm, y + radius), fill=255)


def _triangle(draw: ImageDraw.ImageDraw, centre: Point, radius: float) -> None:
    x, y = centre
    half = 0.95 * radius
    draw.polygon([(x, y - half), (x + radius, y + half), (x - radius, y + half)], fill=255)


def _star(draw: ImageDraw.ImageDraw, centre: Point, radius: float) -> None:
    x, y = centre
    corners = []
    for index in range(10):
        angle = index * math.pi / 5
        reach = 1.1 * radius if index % 2 == 0 else 0.48 * radius
        corners.append((x + reach * math.sin(angle), y - reach * math.cos(angle)))
    draw.polygon(corners, fill=255)


def _heart(draw: ImageDraw.ImageDraw, centre: Point, radius: float) -> None:
    x, y = centre
    corners = []
    for angle in np.linspace(0, 2 * math.pi, 60, endpoint=False):
        across = 16 * math.sin(angle) ** 3
        up = 13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle) - math.cos(4 * angle)
        corners.append((x + radius * across / 16, y - radius * (up + 2) / 16))
    draw.polygon(corners, fill=255)


SHAPES: dict[str, Draw] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
    "heart": _heart,
}
CONCEPT = "heart"
"""The shape that only the concept adapter learns."""

BASE_SHAPES = tuple(kind for kind in SHAPES if kind != CONCEPT)
