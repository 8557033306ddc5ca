"""How far two arrays are apart, block by block, so that nothing is copied as a whole."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite

import numpy as np

from sdcomp.ir.types import Array

_BLOCK_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class Difference:
    """Sums of squares, in f64, of found - expected and of expected, and the largest absolute difference."""

    squares: float = 0.0
    expected: float = 0.0
    greatest: float = 0.0

    def __add__(self, other: "Difference") -> "Difference":
        greatest = float(np.maximum(self.greatest, other.greatest))  # a NaN stays one
        return Difference(self.squares + other.squares, self.expected + other.expected, greatest)

    @property
    def error(self) -> float:
        """norm(found - expected) / norm(expected); infinite where anything is not a number."""
        if not isfinite(self.squares) or not isfinite(self.expected):
            return float("inf")
        return (self.squares / self.expected) ** 0.5 if self.expected else float(self.squares > 0)

    @property
    def largest(self) -> float:
        """Infinite where anything is not a number."""
        return self.greatest if isfinite(self.error) else float("inf")


def difference(found: Array, expected: Array) -> Difference:
    """Of two arrays of one shape."""
    assert found.shape == expected.shape
    total = Difference()
    for a, b in _blocks(np.atleast_1d(found), np.atleast_1d(expected)):
        delta, reference = a.astype(np.float64) - b, b.astype(np.float64)
        squares = float(np.vdot(delta, delta))
        total += Difference(
            squares, float(np.vdot(reference, reference)), float(np.abs(delta).max(initial=0))
        )
    return total


def _blocks(a: Array, b: Array) -> Iterator[tuple[Array, Array]]:
    """Equal parts of both along the first axis, recursively where one row is too large."""
    rows = max(1, _BLOCK_ELEMENTS * len(a) // max(1, a.size))
    for start in range(0, len(a), rows):
        one, other = a[start : start + rows], b[start : start + rows]
        if one.size > _BLOCK_ELEMENTS and one.ndim > 1:
            yield from _blocks(one[0], other[0])
        else:
            yield one, other
