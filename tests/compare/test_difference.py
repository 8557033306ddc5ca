"""Errors of arrays of every size and stride, against numpy on the whole."""

from math import inf, nan

import numpy as np
import pytest

from sdcomp.compare.difference import Difference, difference


@pytest.mark.parametrize("shape", [(), (3,), (5, 0), (2, 700, 900), (1, 1100, 1, 1000), (3_000_000,)])
def test_blocks_add_up(shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    found, expected = generator.standard_normal((2, *shape)).astype(np.float32)
    apart = difference(found, expected)
    delta = found.astype(np.float64) - expected
    assert apart.squares == pytest.approx((delta**2).sum())
    assert apart.expected == pytest.approx((expected.astype(np.float64) ** 2).sum())
    assert apart.largest == np.abs(delta).max(initial=0)


def test_views() -> None:
    expected = np.arange(24.0).reshape(4, 6)
    found = np.pad(expected, ((0, 0), (0, 2)))[:, :6]
    assert difference(found, expected).error == 0
    assert difference(expected.T + 1, expected.T).largest == 1


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_what_is_no_number_is_infinitely_wrong(bad: float) -> None:
    good = np.ones(3)
    apart = difference(np.array([1, bad, 1]), good) + difference(good, good)
    assert (apart.error, apart.largest) == (inf, inf)


def test_of_nothing() -> None:
    assert Difference().error == 0
    assert Difference(1.0, 0.0, 1.0).error == 1
