"""The input transform of a Winograd convolution as a kernel of its own: V = B^T d B of a whole map."""

from collections.abc import Mapping
from dataclasses import dataclass

from sdcomp.codegen.builder import Emitter, Value, i64
from sdcomp.codegen.kernels.base import Kernel, operand, scratch
from sdcomp.codegen.kernels.winograd_run import Run
from sdcomp.codegen.kernels.winograd_tiles import TileGrid
from sdcomp.codegen.targets import Target

_GRAIN_ELEMENTS = 1 << 18
"""Of V, that are not worth splitting between workers: about 0.1 ms of one core."""


@dataclass(frozen=True)
class WinogradInput(Kernel):
    """Operands: the first part of x, v, the factors if the grid is normalised, and the other parts of x. V is
    laid out as `TileGrid` says, block by block. A tile of work is a run of tiles of the map.
    """

    grid: TileGrid

    kind = "winograd_input"

    @property
    def runs(self) -> int:
        """Per row of tiles."""
        return -(-self.grid.columns // self.grid.run)

    @property
    def tiles(self) -> int:
        return self.grid.batches * self.grid.rows * self.runs

    @property
    def grain(self) -> int:
        return max(1, _GRAIN_ELEMENTS * self.tiles // self.grid.elements)

    @property
    def bytes(self) -> int:
        """Of V."""
        return 4 * self.grid.blocks * self.grid.v_block

    @property
    def work(self) -> Mapping[str, int]:
        return {"input": self.grid.elements}

    def scratch_bytes(self, target: Target) -> int:
        return 4 * self.grid.run_floats

    def emit_tile(self, e: Emitter, tile: Value) -> None:
        grid, v = self.grid, operand(e, 1)
        column = e.b.mul(e.b.srem(tile, i64(self.runs)), i64(grid.run))
        first = e.b.add(e.b.mul(e.b.sdiv(tile, i64(self.runs)), i64(grid.columns)), column)
        count = e.minimum_integer(i64(grid.run), e.b.sub(i64(grid.columns), column))

        def row(index: Value) -> Value:
            number = e.b.add(first, index)
            block, within = e.b.sdiv(number, i64(grid.block)), e.b.srem(number, i64(grid.block))
            return e.at(v, e.b.add(e.b.mul(block, i64(grid.v_block)), e.b.mul(within, i64(grid.v_row))))

        x = [operand(e, number) for number in grid.part_operands(2 + (grid.normalisation is not None))]
        factors = operand(e, 2) if grid.normalisation else None
        Run(e, grid, x, factors, scratch(e), first, count, row).transform()
