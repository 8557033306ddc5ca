"""Kernels that move data: strided copies of any rank, and nearest-neighbour upsampling with a border of
zeros.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from sdcomp.codegen.builder import Emitter, Value, i64
from sdcomp.codegen.kernels.base import Kernel, operand
from sdcomp.codegen.kernels.group_norm import bordered_row


class RowKernel(Kernel):
    """A kernel over the rows of the last axis of `shape`; a tile is about `tile_elements` of its elements."""

    shape: tuple[int, ...]
    tile_elements: ClassVar[int]

    @property
    def rows(self) -> int:
        return prod(self.shape[:-1])

    @property
    def rows_per_tile(self) -> int:
        return max(1, self.tile_elements // self.shape[-1])

    @property
    def tiles(self) -> int:
        return -(-self.rows // self.rows_per_tile)

    def emit_tile(self, e: Emitter, tile: Value) -> None:
        first = e.b.mul(tile, i64(self.rows_per_tile))
        last = e.minimum_integer(e.b.add(first, i64(self.rows_per_tile)), i64(self.rows))
        with e.loop(first, last) as row:
            self.emit_row(e, row)

    @abstractmethod
    def emit_row(self, e: Emitter, row: Value) -> None:
        """Emits the work of row number `row` (row-major over all axes but the last)."""


@dataclass(frozen=True)
class StridedCopy(RowKernel):
    """out[i, j, ...] = x[i, j, ...], each with its own strides in elements; a source stride of 0 repeats.

    A tile is some rows of the last axis. Operands: x, out.
    """

    shape: tuple[int, ...]
    source_strides: tuple[int, ...]
    out_strides: tuple[int, ...]

    kind = "copy"
    tile_elements = 1 << 14

    def emit_row(self, e: Emitter, row: Value) -> None:
        source = e.at(operand(e, 0), offset_of_row(e, row, self.shape, self.source_strides))
        out = e.at(operand(e, 1), offset_of_row(e, row, self.shape, self.out_strides))
        self._row(e, source, out)

    def _row(self, e: Emitter, source: Value, out: Value) -> None:
        count, step, out_step = self.shape[-1], self.source_strides[-1], self.out_strides[-1]
        if step == out_step == 1:
            e.columns(count, lambda at, mask: e.store_masked(e.load_masked(source, at, mask), out, at, mask))
            return
        with e.loop(0, count) as at:
            e.store(e.load(source, e.b.mul(at, i64(step))), out, e.b.mul(at, i64(out_step)))


def offset_of_row(e: Emitter, row: Value, shape: tuple[int, ...], strides: tuple[int, ...]) -> Value:
    """Element offset of row number `row` (row-major over all axes but the last)."""
    offset = i64(0)
    for extent, stride in reversed(list(zip(shape[:-1], strides[:-1], strict=True))):
        offset = e.b.add(offset, e.b.mul(e.b.srem(row, i64(extent)), i64(stride)))
        row = e.b.sdiv(row, i64(extent))
    return offset


@dataclass(frozen=True)
class Resample(Kernel):
    """Each pixel repeated scale x scale times, with a border of zeros (top, left, bottom, right). Operands:
    x, out.
    """

    batches: int
    height: int
    width: int
    channels: int
    scale: int
    stride: int
    out_stride: int
    padding: tuple[int, int, int, int]

    kind = "resample"

    @property
    def out_height(self) -> int:
        return self.padding[0] + self.height * self.scale + self.padding[2]

    @property
    def out_width(self) -> int:
        return self.padding[1] + self.width * self.scale + self.padding[3]

    @property
    def tiles(self) -> int:
        return self.batches * self.out_height

    @property
    def work(self) -> Mapping[str, int]:
        """Elements written."""
        return {"output": self.tiles * self.out_width * self.channels}

    def emit_tile(self, e: Emitter, tile: Value) -> None:
        batch, row = e.b.sdiv(tile, i64(self.out_height)), e.b.srem(tile, i64(self.out_height))
        out = e.at(operand(e, 1), e.b.mul(tile, i64(self.out_width * self.out_stride)))
        source_row = e.b.sdiv(e.b.sub(row, i64(self.padding[0])), i64(self.scale))
        source_row = e.b.add(e.b.mul(batch, i64(self.height)), source_row)
        x = e.at(operand(e, 0), e.b.mul(source_row, i64(self.width * self.stride)))

        def pixel(index: Value) -> None:
            into = e.at(out, e.b.mul(index, i64(self.out_stride)))
            column = e.b.sdiv(e.b.sub(index, i64(self.padding[1])), i64(self.scale))
            source = e.at(x, e.b.mul(column, i64(self.stride)))
            e.columns(
                self.channels, lambda c, mask: e.store_masked(e.load_masked(source, c, mask), into, c, mask)
            )

        height, width = self.height * self.scale, self.width * self.scale
        bordered_row(e, row, self.padding, height, width, out, self.out_stride, self.channels, pixel)
