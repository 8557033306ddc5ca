"""Softmax against torch in f64, also where scores are far from zero or far from each other."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch

from sdcomp.codegen.kernels.rows import Softmax
from sdcomp.codegen.targets import Target
from tests.codegen.case import ROUNDING, Case, Compiled, gapped, isa, random_normal


@dataclass(frozen=True)
class Shape:
    """x[rows, channels] = offset + gain * normal."""

    rows: int
    channels: int
    offset: float = 0.0
    gain: float = 1.0
    gap: int = 0
    out_gap: int = 0


def build(shape: Shape, target: Target) -> Case:
    """x - max is exact to a rounding, times log2(e) to another: a power of 2 to the -s is off by s
    roundings; the sum and the division add some. Powers that matter have an s of a few.
    """
    x = random_normal(1, shape.rows, shape.channels) * np.float32(shape.gain) + np.float32(shape.offset)
    expected = torch.softmax(torch.from_numpy(x.astype(np.float64)), -1).numpy()
    stride, out_stride = shape.channels + shape.gap, shape.channels + shape.out_gap
    kernel = Softmax(shape.rows, shape.channels, stride, out_stride)
    return Case(kernel, [gapped(x, stride)], 1, gapped(expected, out_stride), 8 * ROUNDING)


SHAPES = {
    "one_value": Shape(1, 1),
    "three": Shape(2, 3, gap=1),
    "one_vector": Shape(16, 8, out_gap=3),
    "prompt": Shape(17, 77),
    "tail": Shape(40, 333, gap=3, out_gap=5),
    "large_positive": Shape(5, 77, offset=1e4),
    "large_negative": Shape(5, 77, offset=-1e4),
    "large_spread": Shape(9, 65, gain=1e4),
    "wide_spread": Shape(9, 65, gain=30.0),
    "equal": Shape(3, 33, gain=0.0),
}
BUILDS = {name: partial(build, shape) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest) -> Compiled:
    return Compiled.once(BUILDS, request.param)


@isa
@pytest.mark.parametrize("name", BUILDS)
def test_softmax(compiled: Compiled, name: str) -> None:
    compiled.check(name)


@isa
@pytest.mark.parametrize("name", BUILDS)
def test_rows_sum_to_one(compiled: Compiled, name: str) -> None:
    found = compiled.run(name)[:, : SHAPES[name].channels].astype(np.float64)
    np.testing.assert_allclose(found.sum(-1), 1.0, rtol=0, atol=8 * ROUNDING)
