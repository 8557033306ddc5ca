"""The micro-kernel: its numbers against numpy, and its instructions counted in the emitted assembly."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

from sdcomp.codegen.builder import I1, I64, Emitter, Value, i64
from sdcomp.codegen.kernels.base import Kernel, operand
from sdcomp.codegen.kernels.microkernel import _UNROLL, MicroKernel, Partition
from sdcomp.codegen.targets import TARGETS, Target
from tests.codegen.assembly import assembly, function, fused, inner_loops, touches_stack
from tests.codegen.case import ROUNDING, Case, Compiled, isa, random_normal

STRIDES = {"along_rows": (320, 1), "transposed": (1, 320)}


@dataclass(frozen=True)
class OneCall(Kernel):
    """One call of a micro-kernel for each tile, over blocks of C. Operands: A, B, C's first values, depth,
    C.

    Even tiles start from zero, odd ones from the first values. The depth is in memory, so that no loop is
    unrolled for it.
    """

    micro: MicroKernel
    lanes: int
    tiles_: int = 2

    kind = "one_call"

    @property
    def tiles(self) -> int:
        return self.tiles_

    def emit_tile(self, e: Emitter, tile: Value) -> None:
        size = self.micro.rows * self.micro.vectors * self.lanes
        start = e.at(operand(e, 2), e.b.mul(tile, i64(size)))
        c = e.at(operand(e, 4), e.b.mul(tile, i64(size)))
        with e.loop(0, size, self.lanes) as at:
            e.store_vector(e.load_vector(start, at), c, at)
        depth = e.load(operand(e, 3), 0, I64)
        self.micro.call(e, operand(e, 0), operand(e, 1), c, depth, e.b.trunc(tile, I1))


def build(rows: int, vectors: int, strides: tuple[int, int], depth: int, target: Target) -> Case:
    """Every sum is a walk of `depth` roundings."""
    width = vectors * target.lanes
    extent = (rows - 1) * strides[0] + (depth - 1) * strides[1] + 1
    a, b, start = random_normal(1, extent), random_normal(2, depth, width), random_normal(3, 2, rows, width)
    read = a[np.arange(rows)[:, None] * strides[0] + np.arange(depth) * strides[1]].astype(np.float64)
    product = read @ b.astype(np.float64)
    kernel = OneCall(MicroKernel(rows, vectors, *strides), target.lanes)
    expected = np.stack([product, start[1] + product])
    return Case(kernel, [a, b, start, np.array([depth])], 4, expected, ROUNDING * (2 + np.sqrt(depth) / 2))


SIZES = ((1, 1), (2, 2), (5, 1), (6, 2))
DEPTHS = (1, 3, 4, 5, 36)
BUILDS = {
    f"{rows}x{vectors}-depth{depth}-{name}": partial(build, rows, vectors, strides, depth)
    for rows, vectors in SIZES
    for depth, (name, strides) in zip(DEPTHS, [*STRIDES.items()] * 3, strict=False)
}


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest) -> Compiled:
    return Compiled.once(BUILDS, request.param)


@isa
@pytest.mark.parametrize("name", BUILDS)
def test_microkernel(compiled: Compiled, name: str) -> None:
    compiled.check(name)


@dataclass(frozen=True)
class Loops:
    """The loops of a micro-kernel that multiply: over unrolled steps, and over the steps that are left."""

    fused: list[int]
    stack: int

    @staticmethod
    def of(micro: MicroKernel, target: Target) -> "Loops":
        text = assembly(OneCall(micro, target.lanes), target)
        loops = [loop for loop in inner_loops(function(text, micro.symbol)) if fused(loop, target)]
        stack = [line for loop in loops for line in touches_stack(loop, target)]
        return Loops([fused(loop, target) for loop in loops], len(stack))


@pytest.mark.parametrize("strides", STRIDES.values(), ids=STRIDES)
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_widest_panel_is_fused_and_in_registers(target: Target, strides: tuple[int, int]) -> None:
    """One fused multiply-add per accumulator and step, and nothing of it on the stack, for both row counts
    of a partition.

    A spill would cost a store and a load, and shows as an access to the stack inside of the loop.
    """
    vectors = target.panel_vectors
    most = target.tile_rows(vectors)
    for rows in (most, most - 1):
        loops = Loops.of(MicroKernel(rows, vectors, *strides), target)
        assert loops.fused == [_UNROLL * rows * vectors, rows * vectors]
        assert loops.stack == 0


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_narrow_panels_are_fused(target: Target) -> None:
    """Weights of a few columns only: LLVM hoists loads of four steps there and may spill, but less than one
    value per accumulator in all steps together.
    """
    for vectors in range(1, target.panel_vectors):
        micro = MicroKernel(target.tile_rows(vectors), vectors, *STRIDES["along_rows"])
        loops = Loops.of(micro, target)
        assert loops.fused == [_UNROLL * micro.rows * vectors, micro.rows * vectors]
        assert loops.stack <= micro.rows * vectors


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_tile_fills_the_registers(target: Target) -> None:
    """Accumulators, one row of the panel and one broadcast fit, and another row would not."""
    for vectors in range(2, target.panel_vectors + 1):
        rows = target.tile_rows(vectors)
        assert rows * vectors + vectors + 1 <= target.registers
        assert (rows + 1) * vectors + vectors + 1 > target.registers


@pytest.mark.parametrize("most", [1, 2, 5, 6, 14])
@pytest.mark.parametrize("count", [1, 2, 6, 7, 13, 64, 77, 333])
def test_partition(count: int, most: int) -> None:
    """As few groups as possible, of two sizes at most, and every row in one of them."""
    partition = Partition.of(count, most)
    assert partition.groups == -(-count // most)
    smaller = partition.groups - partition.full
    assert partition.full * partition.rows + smaller * (partition.rows - 1) == count
    assert partition.rows <= most
    assert partition.rows > 1 or not smaller
