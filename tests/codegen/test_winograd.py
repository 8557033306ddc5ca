"""The Winograd kernels against torch's direct convolution in f64, with every epilogue step, maps that tiles
do not divide, and maps without their border, as they are or upsampled. The input transform as a kernel of its
own is compared with the matrices themselves, and what it prepares is what the convolution then reads.
"""

from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from math import sqrt

import numpy as np
import pytest

from sdcomp.codegen.kernels.contraction import panel_vectors
from sdcomp.codegen.kernels.winograd import WinogradConvolution
from sdcomp.codegen.kernels.winograd_input import WinogradInput
from sdcomp.codegen.kernels.winograd_tiles import Normalisation, Part, TileGrid
from sdcomp.codegen.targets import TARGETS, Target
from sdcomp.codegen.weights import Panels
from sdcomp.ir.types import Array, DType
from sdcomp.winograd.matrices import floats
from tests.codegen.case import ROUNDING, Case, Compiled, gapped, isa, random_normal
from tests.codegen.contractions import apply_step, convolve, kernel_step, packed_operand, step_operand

GROWTH = {(2, 1): 1.5, (4, 1): 2.5, (2, 2): 1.5, (4, 2): 1.5}
"""How much F(m, 3) amplifies roundings, about, by m and scale: its transforms add and subtract numbers larger
than the result.
"""


@dataclass(frozen=True)
class Shape:
    """A 3x3 convolution with a border of 1, of a map of height x width upsampled `scale` times.

    The border is in the operand if `bordered`, which V replaces if `prepared`; `blocks` are of tiles and of
    depth. With an `activation` ("none" is one) the map is normalised as it is read.
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
    blocks: tuple[int, int] | None = None
    scale: int = 1
    bordered: bool = True
    prepared: bool = False
    activation: str | None = None
    split: tuple[int, ...] = ()
    """Channels behind which another part of the operand begins."""

    @property
    def parts(self) -> tuple[Part, ...]:
        bounds = pairwise((0, *self.split, self.depth))
        return tuple(Part(stop - start, stop - start + self.gap) for start, stop in bounds)

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """Zeros in the operand, above, left, below and right: up to whole tiles."""
        step = self.m // self.scale
        below, beside = -self.height % step, -self.width % step
        return (1, 1, 1 + below, 1 + beside) if self.bordered else (0, 0, 0, 0)

    def kernel(self, target: Target) -> WinogradConvolution:
        vectors = panel_vectors(target, self.columns, False)
        top, left, bottom, right = self.padding
        grid = TileGrid(
            m=self.m, scale=self.scale, batches=self.batch,
            height=self.scale * self.height, width=self.scale * self.width,
            source_height=top + self.height + bottom, source_width=left + self.width + right,
            border=(1 - top, 1 - left), parts=self.parts, lanes=target.lanes,
            normalisation=None if self.activation is None else Normalisation(ACTIVATION[self.activation]),
        )  # fmt: skip
        steps = tuple(kernel_step(step, self.columns) for step in self.steps)
        kernel = WinogradConvolution(
            grid, self.columns, self.columns + self.out_gap, self.dtype, steps, vectors,
            tile_rows=target.tile_rows(vectors),
        ).tiled(target)  # fmt: skip
        if self.blocks is not None:
            kernel = replace(kernel, grid=replace(grid, block=self.blocks[0]), depth_block=self.blocks[1])
        return replace(kernel, prepared=self.prepared)

    def x(self) -> Array:
        """The map, with its border in it or not."""
        top, left, bottom, right = self.padding
        x = random_normal(1, self.batch, self.height, self.width, self.depth)
        return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))

    def x_parts(self) -> list[Array]:
        parts = np.split(self.x(), self.split, axis=-1)
        return [gapped(x, part.stride) for x, part in zip(parts, self.parts, strict=True)]

    def factors(self) -> list[Array]:
        """Mean, factor and offset of every sample and channel."""
        return [] if self.activation is None else [random_normal(9, self.batch, 3, self.depth)]

    def convolved(self) -> Array:
        """The map that is convolved, in f64: normalised, without its border, not yet upsampled."""
        x = random_normal(1, self.batch, self.height, self.width, self.depth).astype(np.float64)
        for factors in self.factors():
            mean, factor, offset = factors.astype(np.float64).transpose(1, 0, 2)[:, :, None, None]
            x = (x - mean) * factor + offset
            x = x / (1 + np.exp(-x)) if self.activation == "silu" else x
        return x

    def v(self, grid: TileGrid) -> Array:
        """B^T d B of every window as `TileGrid` lays it out, NaN where nothing is written."""
        size, step = grid.transform.inputs, grid.transform.step
        below, beside = grid.rows * step + 1 - self.height, grid.columns * step + 1 - self.width
        padded = np.pad(self.convolved(), ((0, 0), (1, below), (1, beside), (0, 0)))
        windows = np.stack([
            padded[b, i * step : i * step + size, j * step : j * step + size]
            for b in range(self.batch) for i in range(grid.rows) for j in range(grid.columns)
        ])  # fmt: skip
        matrix = np.array(floats(grid.transform.input))
        planes = np.einsum("si,tj,nijc->stnc", matrix, matrix, windows).reshape(grid.planes, grid.tiles, -1)
        memory = np.full((grid.blocks, grid.v_block), np.nan)
        filled = -(-self.depth // grid.lanes) * grid.lanes
        for tile in range(grid.tiles):
            block, row = divmod(tile, grid.block)
            for s in range(grid.planes):
                start = s * grid.v_plane + row * grid.v_row
                memory[block, start : start + filled] = 0
                memory[block, start : start + self.depth] = planes[s, tile]
        return memory


def build(shape: Shape, target: Target) -> Case:
    """The bound is that of a direct convolution, amplified."""
    kernel = shape.kernel(target)
    weights = random_normal(2, shape.columns, shape.depth, 3, 3) / sqrt(9 * shape.depth)
    weights = weights.astype(DType(shape.dtype).numpy)
    upsampled = shape.convolved().repeat(shape.scale, 1).repeat(shape.scale, 2)
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
    if shape.prepared:
        return Case(kernel, [shape.v(kernel.grid).astype(np.float32), packed, *given], 2, out, bound)
    first, *others = shape.x_parts()
    return Case(kernel, [first, packed, *given, *shape.factors(), *others], 2, out, bound)


def build_input(shape: Shape, target: Target) -> Case:
    """The input transform alone: sums of a window's pixels, weighted."""
    grid = shape.kernel(target).grid
    expected = shape.v(grid)
    kernel = WinogradInput(grid)
    assert expected.size * 4 == kernel.bytes
    first, *others = shape.x_parts()
    return Case(kernel, [first, *shape.factors(), *others], 1, expected, 4 * ROUNDING)


ACTIVATION = {"none": None, "silu": "silu"}
ALL = ("bias", "batch_vector", "shared", "silu")
SHAPES = {
    "one_tile": Shape(4, 4, 4, 16, 16),
    "whole_tiles": Shape(4, 8, 8, 32, 64, steps=("bias",)),
    "part_of_a_tile": Shape(4, 1, 3, 16, 5, dtype="f32"),
    "odd_map": Shape(4, 13, 18, 48, 70, batch=2, steps=ALL, gap=16, out_gap=3),
    "many_blocks": Shape(4, 9, 14, 48, 33, batch=2, steps=("bias", "tensor"), blocks=(5, 16)),
    "many_panels": Shape(4, 6, 6, 32, 200, dtype="f32", steps=ALL, blocks=(3, 32)),
    "deep": Shape(4, 8, 8, 320, 16),
    "small_tiles": Shape(2, 7, 6, 32, 40, steps=("batch_vector_1", "gelu")),
    "small_tiles_blocks": Shape(2, 5, 5, 48, 65, batch=2, steps=ALL, blocks=(7, 32), gap=4),
    "no_border": Shape(4, 8, 8, 32, 16, bordered=False),
    "no_border_odd": Shape(4, 7, 9, 48, 33, batch=2, steps=ALL, gap=16, blocks=(5, 16), bordered=False),
    "no_border_small_tiles": Shape(2, 1, 3, 16, 20, dtype="f32", bordered=False),
    "tail": Shape(4, 6, 9, 37, 20, batch=2, gap=3),
    "tail_of_a_few": Shape(2, 5, 4, 3, 64, dtype="f32", steps=("bias",), bordered=False),
    "tail_of_the_last_block": Shape(4, 9, 7, 41, 33, batch=2, blocks=(5, 16), bordered=False),
    "upsampled_tail": Shape(4, 4, 3, 21, 40, scale=2, bordered=False),
    "upsampled": Shape(4, 8, 6, 64, 48, scale=2, bordered=False),
    "upsampled_odd": Shape(4, 5, 7, 48, 33, batch=2, steps=ALL, gap=16, out_gap=3, scale=2, bordered=False),
    "upsampled_blocks": Shape(4, 9, 3, 48, 70, blocks=(4, 32), scale=2, bordered=False),
    "upsampled_bordered": Shape(4, 3, 5, 32, 16, batch=2, dtype="f32", scale=2),
    "upsampled_small_tiles": Shape(2, 3, 4, 16, 65, batch=2, steps=("bias",), scale=2, bordered=False),
    "normalised": Shape(4, 9, 13, 37, 33, batch=2, gap=3, bordered=False, activation="none"),
    "activated": Shape(4, 6, 18, 48, 20, steps=ALL, blocks=(3, 16), bordered=False, activation="silu"),
    "activated_prepared": Shape(4, 6, 7, 32, 33, bordered=False, activation="silu", prepared=True),
    "parts": Shape(4, 9, 13, 67, 33, batch=2, gap=5, steps=ALL, bordered=False, split=(16, 64)),
    "parts_activated": Shape(4, 5, 6, 80, 20, gap=16, bordered=False, activation="silu", split=(48,)),
    "prepared": Shape(4, 13, 18, 48, 70, batch=2, steps=ALL, out_gap=3, bordered=False, prepared=True),
    "prepared_blocks": Shape(4, 9, 14, 41, 150, blocks=(5, 16), bordered=False, prepared=True),
    "prepared_small_tiles": Shape(2, 5, 5, 64, 20, dtype="f32", blocks=(4, 16), prepared=True),
    "prepared_upsampled": Shape(4, 5, 7, 33, 70, blocks=(7, 32), scale=2, bordered=False, prepared=True),
}
INPUTS = {
    "input_of_" + name: SHAPES[name]
    for name in (
        "odd_map",
        "no_border_odd",
        "tail",
        "upsampled_odd",
        "normalised",
        "activated",
        "parts",
        "parts_activated",
        "prepared_blocks",
        "prepared_small_tiles",
    )
}
BUILDS = {name: partial(build, shape) for name, shape in SHAPES.items()} | {
    name: partial(build_input, shape) for name, shape in INPUTS.items()
}


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
    assert kernel.scratch_bytes(target) < 4 * kernel.grid.planes * kernel.grid.depth * kernel.columns / 50
