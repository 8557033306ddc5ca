"""Strided copies and upsampling move bits: the result is exact."""

from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np
import pytest

from sdcomp.codegen.kernels.movement import Resample, StridedCopy
from sdcomp.codegen.targets import Target
from tests.codegen.case import Case, Compiled, gapped, isa, random_normal


@dataclass(frozen=True)
class Copy:
    """A copy between two layouts of `shape`; memory beyond what strides reach is there to be left alone."""

    shape: tuple[int, ...]
    source_strides: tuple[int, ...]
    out_strides: tuple[int, ...]


def extent(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Elements from the start of memory to the last one that is reached."""
    return 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))


def build_copy(copy: Copy, target: Target) -> Case:
    source = random_normal(1, extent(copy.shape, copy.source_strides))
    expected = np.full(extent(copy.shape, copy.out_strides), np.nan)
    for index in np.ndindex(copy.shape):
        expected[np.dot(index, copy.out_strides)] = source[np.dot(index, copy.source_strides)]
    kernel = StridedCopy(copy.shape, copy.source_strides, copy.out_strides)
    return Case(kernel, [source], 1, expected, 0.0)


@dataclass(frozen=True)
class Upsample:
    batches: int
    height: int
    width: int
    channels: int
    scale: int
    gap: int = 0
    out_gap: int = 0
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)


def build_upsample(shape: Upsample, target: Target) -> Case:
    x = random_normal(1, shape.batches, shape.height, shape.width, shape.channels)
    top, left, bottom, right = shape.padding
    large = x.repeat(shape.scale, 1).repeat(shape.scale, 2).astype(np.float64)
    expected = np.pad(large, ((0, 0), (top, bottom), (left, right), (0, 0)))
    stride, out_stride = shape.channels + shape.gap, shape.channels + shape.out_gap
    kernel = Resample(
        shape.batches, shape.height, shape.width, shape.channels, shape.scale, stride, out_stride,
        shape.padding,
    )  # fmt: skip
    return Case(kernel, [gapped(x, stride)], 1, gapped(expected, out_stride), 0.0)


COPIES = {
    "vector": Copy((5,), (1,), (1,)),
    "reversed_axes": Copy((3, 5), (1, 3), (5, 1)),
    "nchw_to_nhwc": Copy((2, 4, 5, 3), (60, 5, 1, 20), (60, 15, 3, 1)),
    "concatenated_columns": Copy((6, 33), (33, 1), (50, 1)),
    "sliced_columns": Copy((6, 20), (64, 1), (20, 1)),
    "broadcast": Copy((2, 3, 17), (0, 0, 1), (51, 17, 1)),
    "repeated_value": Copy((4, 9), (1, 0), (9, 1)),
    "one_column": Copy((11, 1), (5, 1), (1, 1)),
    "several_tiles": Copy((300, 65), (65, 1), (70, 1)),
    "long_rows": Copy((2, 9000), (9000, 1), (9001, 1)),
    "rank_six": Copy((2, 1, 3, 2, 2, 5), (60, 60, 5, 30, 15, 1), (60, 60, 20, 10, 5, 1)),
}
UPSAMPLES = {
    "same": Upsample(1, 2, 3, 4, 1),
    "double": Upsample(2, 3, 4, 33, 2, gap=2, out_gap=1),
    "triple": Upsample(1, 1, 2, 3, 3, padding=(1, 0, 2, 1)),
    "border": Upsample(2, 2, 5, 20, 2, padding=(1, 1, 1, 1), out_gap=4),
    "only_border": Upsample(1, 1, 1, 1, 1, padding=(2, 3, 0, 1)),
}
BUILDS = {name: partial(build_copy, copy) for name, copy in COPIES.items()} | {
    name: partial(build_upsample, shape) for name, shape in UPSAMPLES.items()
}


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest) -> Compiled:
    return Compiled.once(BUILDS, request.param)


@isa
@pytest.mark.parametrize("name", BUILDS)
def test_movement(compiled: Compiled, name: str) -> None:
    compiled.check(name)


def test_several_tiles_are_several() -> None:
    """The cases above that are meant to have more than one tile do."""
    copy = COPIES["several_tiles"]
    assert StridedCopy(copy.shape, copy.source_strides, copy.out_strides).tiles > 1
    assert prod(copy.shape) > 1 << 14
