"""The Winograd kernel against torch's direct convolution in f64, with every epilogue step, maps that tiles do
not divide, and maps without their border, as they are or upsampled.
"""

from dataclasses import dataclass, replace
from functools import partial
from math import sqrt

import numpy as np
import pytest

from sdcomp.codegen.kernels.contraction import panel_vectors
from sdcomp.codegen.kernels.winograd import WinogradConvolution
from sdcomp.codegen.targets import TARGETS, Target
from sdcomp.codegen.weights import Panels
from sdcomp.ir.types import DType
from tests.codegen.case import ROUNDING, Case, Compiled, gapped, isa, random_normal
from tests.codegen.contractions import apply_step, convolve, kernel_step, packed_operand, step_operand

GROWTH = {(2, 1): 1.5, (4, 1): 2.5, (2, 2): 1.5, (4, 2): 1.5}
"""How much F(m, 3) amplifies roundings, about, by m and scale: its transforms add and subtract numbers larger
than the result.
"""


@dataclass(frozen=True)
class Shape:
    """A 3x3 convolution with a border of 1, of a map of height x width upsampled `scale` times.

    The border is in the operand if `bordered`; `blocks` are tile_block, panel_block and depth_block.
    """

    m: int
    height: int
    width: int
    depth: int
    columns: int
    batch: int = 1
    dtype: str = "f16"
    steps: tuple[str, ...] = ()
    gap: int = 0
    out_gap: int = 0
    blocks: tuple[int, int, int] | None = None
    scale: int = 1
    bordered: bool = True

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """Zeros in the operand, above, left, below and right: up to whole tiles."""
        step = self.m // self.scale
        below, beside = -self.height % step, -self.width % step
        return (1, 1, 1 + below, 1 + beside) if self.bordered else (0, 0, 0, 0)

    def kernel(self, target: Target) -> WinogradConvolution:
        vectors = panel_vectors(target, self.columns, False)
        top, left, bottom, right = self.padding
        kernel = WinogradConvolution(
            m=self.m, scale=self.scale, batches=self.batch,
            height=self.scale * self.height, width=self.scale * self.width,
            source_height=top + self.height + bottom, source_width=left + self.width + right,
            border=(1 - top, 1 - left),
            stride=self.depth + self.gap, depth=self.depth, columns=self.columns,
            out_stride=self.columns + self.out_gap, weight_dtype=self.dtype,
            steps=tuple(kernel_step(step, self.columns) for step in self.steps), vectors=vectors,
            tile_rows=target.tile_rows(vectors), lanes=target.lanes,
        )  # fmt: skip
        if self.blocks is None:
            return kernel.tiled(target)
        tiles, panels, depth = self.blocks
        return replace(kernel, tile_block=tiles, panel_block=panels, depth_block=depth)


def build(shape: Shape, target: Target) -> Case:
    """The bound is that of a direct convolution, amplified."""
    kernel = shape.kernel(target)
    x = random_normal(1, shape.batch, shape.height, shape.width, shape.depth)
    top, left, bottom, right = shape.padding
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    weights = random_normal(2, shape.columns, shape.depth, 3, 3) / sqrt(9 * shape.depth)
    weights = weights.astype(DType(shape.dtype).numpy)
    upsampled = x.repeat(shape.scale, 1).repeat(shape.scale, 2)
    expected = convolve(np.pad(upsampled, ((0, 0), (1, 1), (1, 1), (0, 0))), weights, 1)
    extra = [step_operand(step, expected.shape, 3 + n) for n, step in enumerate(shape.steps)]
    for step, operand in zip(shape.steps, extra, strict=True):
        expected = apply_step(step, expected, operand)
    packed = Panels(kernel.panel_width, DType(shape.dtype), False).pack(weights)
    given = [
        packed_operand(step, e, kernel.panel_width)
        for step, e in zip(shape.steps, extra, strict=True)
        if e is not None
    ]
    bound = GROWTH[shape.m, shape.scale] * ROUNDING * (4 + sqrt(9 * shape.depth) / 3)
    out = gapped(expected.numpy(), shape.columns + shape.out_gap)
    return Case(kernel, [gapped(padded, shape.depth + shape.gap), packed, *given], 2, out, bound)


ALL = ("bias", "batch_vector", "shared", "silu")
SHAPES = {
    "one_tile": Shape(4, 4, 4, 16, 16),
    "whole_tiles": Shape(4, 8, 8, 32, 64, steps=("bias",)),
    "part_of_a_tile": Shape(4, 1, 3, 16, 5, dtype="f32"),
    "odd_map": Shape(4, 13, 18, 48, 70, batch=2, steps=ALL, gap=16, out_gap=3),
    "many_blocks": Shape(4, 9, 14, 48, 33, batch=2, steps=("bias", "tensor"), blocks=(5, 1, 16)),
    "many_panels": Shape(4, 6, 6, 32, 200, dtype="f32", steps=ALL, blocks=(3, 2, 32)),
    "deep": Shape(4, 8, 8, 320, 16),
    "small_tiles": Shape(2, 7, 6, 32, 40, steps=("batch_vector_1", "gelu")),
    "small_tiles_blocks": Shape(2, 5, 5, 48, 65, batch=2, steps=ALL, blocks=(7, 1, 32), gap=4),
    "no_border": Shape(4, 8, 8, 32, 16, bordered=False),
    "no_border_odd": Shape(4, 7, 9, 48, 33, batch=2, steps=ALL, gap=16, blocks=(5, 1, 16), bordered=False),
    "no_border_small_tiles": Shape(2, 1, 3, 16, 20, dtype="f32", bordered=False),
    "tail": Shape(4, 6, 9, 37, 20, batch=2, gap=3),
    "tail_of_a_few": Shape(2, 5, 4, 3, 64, dtype="f32", steps=("bias",), bordered=False),
    "tail_of_the_last_block": Shape(4, 9, 7, 41, 33, batch=2, blocks=(5, 1, 16), bordered=False),
    "upsampled_tail": Shape(4, 4, 3, 21, 40, scale=2, bordered=False),
    "upsampled": Shape(4, 8, 6, 64, 48, scale=2, bordered=False),
    "upsampled_odd": Shape(4, 5, 7, 48, 33, batch=2, steps=ALL, gap=16, out_gap=3, scale=2, bordered=False),
    "upsampled_blocks": Shape(4, 9, 3, 48, 70, blocks=(4, 1, 32), scale=2, bordered=False),
    "upsampled_bordered": Shape(4, 3, 5, 32, 16, batch=2, dtype="f32", scale=2),
    "upsampled_small_tiles": Shape(2, 3, 4, 16, 65, batch=2, steps=("bias",), scale=2, bordered=False),
}
BUILDS = {name: partial(build, shape) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest) -> Compiled:
    return Compiled.once(BUILDS, request.param)


@isa
@pytest.mark.parametrize("name", BUILDS)
def test_winograd(compiled: Compiled, name: str) -> None:
    compiled.check(name)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_filters_are_never_transformed_as_a_whole(target: Target) -> None:
    """Scratch holds a few blocks of channels, not 36/9 of the weights."""
    kernel = Shape(4, 16, 16, 1280, 1280).kernel(target)
    assert kernel.scratch_bytes(target) < 4 * kernel.planes * kernel.depth * kernel.columns / 50
