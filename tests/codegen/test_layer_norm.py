"""Layer normalisation against torch in f64."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional

from sdcomp.codegen.kernels.rows import LayerNorm
from sdcomp.codegen.targets import Target
from tests.codegen.case import ROUNDING, Case, Compiled, gapped, isa, random_normal

EPS = 1e-5


@dataclass(frozen=True)
class Shape:
    """x[rows, channels] around `mean` with a spread of 1."""

    rows: int
    channels: int
    mean: float = 0.0
    gap: int = 0
    out_gap: int = 0


def build(shape: Shape, target: Target) -> Case:
    """The mean is the pairwise sum of lanes, each a walk over channels / lanes additions: its error is a
    few roundings of the mean, and enters every normalised value beside a spread of 1.
    """
    x = random_normal(1, shape.rows, shape.channels) + np.float32(shape.mean)
    gamma, beta = 1 + random_normal(2, shape.channels) / 10, random_normal(3, shape.channels)
    wide = [torch.from_numpy(a.astype(np.float64)) for a in (x, gamma, beta)]
    expected = functional.layer_norm(wide[0], (shape.channels,), wide[1], wide[2], EPS).numpy()
    stride, out_stride = shape.channels + shape.gap, shape.channels + shape.out_gap
    kernel = LayerNorm(shape.rows, shape.channels, stride, out_stride, EPS)
    bound = ROUNDING * (4 + 2 * abs(shape.mean))
    return Case(kernel, [gapped(x, stride), gamma, beta], 3, gapped(expected, out_stride), bound)


SHAPES = {
    "one_value": Shape(1, 1),
    "one_row": Shape(1, 33),
    "three_channels": Shape(5, 3, gap=2),
    "one_vector": Shape(16, 16),
    "rows_of_two_tiles": Shape(17, 65, out_gap=4),
    "several_tiles": Shape(77, 320, gap=16, out_gap=1),
    "wide": Shape(2, 1280),
    "large_mean": Shape(19, 320, mean=1e3),
    "large_negative_mean": Shape(3, 77, mean=-1e3),
}
BUILDS = {name: partial(build, shape) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest) -> Compiled:
    return Compiled.once(BUILDS, request.param)


@isa
@pytest.mark.parametrize("name", BUILDS)
def test_layer_norm(compiled: Compiled, name: str) -> None:
    compiled.check(name)
