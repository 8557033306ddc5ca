"""Says what a picture shows, by geometry alone: background, colour and kind of the one shape in it.

The shape is the largest connected area that differs from the border. Its kind follows from measures that do
not depend on size: how much of its convex hull and of its bounding box's corners it fills, whether it has a
hole, where its centre of mass lies.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from examples.tinyshapes.shapes import COLOURS

CONTRAST = 0.5
"""How far from the background a pixel of the shape is, as a share of how far the farthest are."""

SMALLEST_SHARE = 0.01
HOLE_SHARE = 0.06

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Verdict:
    """Names from `COLOURS` and `SHAPES`; kind and colour are "none" in a picture without a shape."""

    background: str
    colour: str
    kind: str


@dataclass(frozen=True)
class Measures:
    """Shares from 0 to 1: the hole of the outline's area, how much of the bounding box's four corners and of
    the convex hull is filled, and how far down in the box the centre of mass lies.
    """

    hole: float
    corners: float
    hull: float
    centre: float


def judge(picture: NDArray[np.uint8]) -> Verdict:
    """The verdict on uint8 [height, width, 3]."""
    background = np.median(_border(picture), axis=0)
    mask = shape_area(picture)
    if mask.mean() < SMALLEST_SHARE:
        return Verdict(nearest_colour(background), "none", "none")
    colour = np.median(picture[_inside(mask)], axis=0)
    return Verdict(nearest_colour(background), nearest_colour(colour), kind_of(measure(mask)))


def shape_area(picture: NDArray[np.uint8]) -> Mask:
    """Which pixels are the largest shape, bool [height, width]."""
    background = np.median(_border(picture), axis=0)
    distance = np.linalg.norm(picture - background, axis=2)
    return largest_area(distance > CONTRAST * max(float(np.percentile(distance, 99)), 50.0))


def nearest_colour(colour: NDArray[np.floating]) -> str:
    """The named colour at the smallest distance in RGB."""
    return min(COLOURS, key=lambda name: float(np.linalg.norm(colour - np.array(COLOURS[name]))))


def measure(mask: Mask) -> Measures:
    """The measures of one connected area."""
    rows, columns = np.nonzero(mask)
    box = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    outside = _outside(mask)
    hole = largest_area(~mask & ~outside).sum()
    return Measures(
        hole=float(hole / (~outside).sum()),
        corners=corner_share(box),
        hull=float(mask.sum() / hull_area(mask)),
        centre=float((rows.mean() - rows.min() + 0.5) / len(box)),
    )


def kind_of(measures: Measures) -> str:
    """The kind of shape with these measures."""
    if measures.hole > HOLE_SHARE:
        return "ring"
    if measures.centre > 0.59:
        return "triangle"
    if measures.hull < 0.66 or (measures.hull < 0.8 and measures.centre > 0.523):
        return "star"
    if measures.centre < 0.44:
        return "heart"
    if measures.corners > 0.4:
        return "square"
    return "cross" if measures.hull < 0.85 else "circle"


def corner_share(box: Mask) -> float:
    """How much of the four corners is filled, each a sixth of the box's sides: those that a circle misses."""
    height, width = (max(1, side // 6) for side in box.shape)
    corners = (box[:height, :width], box[:height, -width:], box[-height:, :width], box[-height:, -width:])
    return float(np.mean([corner.mean() for corner in corners]))


def largest_area(mask: Mask) -> Mask:
    """The largest part of `mask` whose pixels are neighbours along sides."""
    left, best = mask.copy(), np.zeros_like(mask)
    while left.sum() > best.sum():
        row, column = np.argwhere(left)[0]
        part = _flooded(left, int(row), int(column))
        left &= ~part
        best = part if part.sum() > best.sum() else best
    return best


def hull_area(mask: Mask) -> float:
    """The area of the convex hull of the pixels' squares (Andrew's monotone chain)."""
    corners = set()
    for row in np.nonzero(mask.any(axis=1))[0]:
        columns = np.nonzero(mask[row])[0]
        corners |= {(int(x), int(y)) for x in (columns[0], columns[-1] + 1) for y in (row, row + 1)}
    points = sorted(corners)
    hull = np.array(_half_hull(points)[:-1] + _half_hull(points[::-1])[:-1], float)
    following = np.roll(hull, -1, axis=0)
    return abs(float((hull[:, 0] * following[:, 1] - hull[:, 1] * following[:, 0]).sum())) / 2


def roughness(picture: NDArray[np.uint8]) -> float:
    """How much neighbouring pixels differ inside the shape's bounding box: the mean of RGB differences."""
    rows, columns = np.nonzero(shape_area(picture))
    if not len(rows):
        return 0.0
    part = picture[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].astype(float)
    return float((np.abs(np.diff(part, axis=0)).mean() + np.abs(np.diff(part, axis=1)).mean()) / 2)


def _half_hull(points: list[tuple[int, int]]) -> list[tuple[int, int]]:
    chain: list[tuple[int, int]] = []
    for point in points:
        while len(chain) > 1 and _turn(chain[-2], chain[-1], point) <= 0:
            chain.pop()
        chain.append(point)
    return chain


def _turn(first: tuple[int, int], second: tuple[int, int], third: tuple[int, int]) -> int:
    return (second[0] - first[0]) * (third[1] - first[1]) - (second[1] - first[1]) * (third[0] - first[0])


def _border(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    sides = (picture[:2], picture[-2:], picture[:, :2], picture[:, -2:])
    return np.concatenate([side.reshape(-1, 3) for side in sides])


def _inside(mask: Mask) -> Mask:
    """The mask without its rim, where colours mix; the mask itself where it is all rim."""
    padded = np.pad(mask, 1)
    core = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return core if core.any() else mask


def _outside(mask: Mask) -> Mask:
    """What is connected with the border, beyond it included, without crossing the mask."""
    free = np.pad(~mask, 1, constant_values=True)
    return _flooded(free, 0, 0)[1:-1, 1:-1]


def _flooded(mask: Mask, row: int, column: int) -> Mask:
    """The part of `mask` that is connected with one of its pixels, found by growing."""
    part = np.zeros_like(mask)
    part[row, column] = mask[row, column]
    while True:
        grown = part.copy()
        grown[1:] |= part[:-1]
        grown[:-1] |= part[1:]
        grown[:, 1:] |= part[:, :-1]
        grown[:, :-1] |= part[:, 1:]
        grown &= mask
        if (grown == part).all():
            return part
        part = grown
