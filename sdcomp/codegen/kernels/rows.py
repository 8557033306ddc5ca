"""Kernels over independent rows: layer normalisation, softmax, look-up of embeddings, timestep embedding."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import llvmlite.ir as ir
import numpy as np

from sdcomp.codegen.builder import ELEMENT, F32, I32, I64, Emitter, Value, constant_table, i64
from sdcomp.codegen.kernels import vectormath
from sdcomp.codegen.kernels.base import Kernel, operand

_ROWS_PER_TILE = 16


@dataclass(frozen=True)
class LayerNorm(Kernel):
    """Operands: x, gamma, beta, out. Two passes over the row: mean, then variance about it."""

    rows: int
    channels: int
    stride: int
    out_stride: int
    eps: float

    kind = "layer_norm"

    @property
    def tiles(self) -> int:
        return -(-self.rows // _ROWS_PER_TILE)

    def emit_tile(self, e: Emitter, tile: Value) -> None:
        with _rows_of(e, tile, self.rows) as row:
            self._row(e, row)

    def _row(self, e: Emitter, row: Value) -> None:
        x = e.at(operand(e, 0), e.b.mul(row, i64(self.stride)))
        out = e.at(operand(e, 3), e.b.mul(row, i64(self.out_stride)))
        count = ir.Constant(F32, float(self.channels))

        def add(at: Value, mask: Value | None, sums: list[Value]) -> list[Value]:
            return [e.b.fadd(sums[0], e.load_masked(x, at, mask))]

        mean = e.splat(e.b.fdiv(e.sum_lanes(e.reduce_columns(self.channels, [e.zeros()], add)[0]), count))

        def deviate(at: Value, mask: Value | None, sums: list[Value]) -> list[Value]:
            d = e.b.fsub(e.load_masked(x, at, mask), mean)
            d = d if mask is None else e.b.select(mask, d, e.zeros())
            return [e.fma(d, d, sums[0])]

        spread = e.sum_lanes(e.reduce_columns(self.channels, [e.zeros()], deviate)[0])
        variance = e.b.fadd(e.b.fdiv(spread, count), ir.Constant(F32, self.eps))
        scale = e.splat(e.b.fdiv(ir.Constant(F32, 1.0), e.intrinsic("sqrt", variance)))

        def write(at: Value, mask: Value | None) -> None:
            normal = e.b.fmul(e.b.fsub(e.load_masked(x, at, mask), mean), scale)
            gamma, beta = (e.load_masked(operand(e, index), at, mask) for index in (1, 2))
            e.store_masked(e.fma(normal, gamma, beta), out, at, mask)

        e.columns(self.channels, write)


@dataclass(frozen=True)
class Softmax(Kernel):
    """Operands: x, out. exp(x - max) over its sum, row by row."""

    rows: int
    channels: int
    stride: int
    out_stride: int

    kind = "softmax"

    @property
    def tiles(self) -> int:
        return -(-self.rows // _ROWS_PER_TILE)

    def emit_tile(self, e: Emitter, tile: Value) -> None:
        with _rows_of(e, tile, self.rows) as row:
            self._row(e, row)

    def _row(self, e: Emitter, row: Value) -> None:
        x = e.at(operand(e, 0), e.b.mul(row, i64(self.stride)))
        out = e.at(operand(e, 1), e.b.mul(row, i64(self.out_stride)))

        def larger(at: Value, found: list[Value]) -> list[Value]:
            value = e.load(x, at)
            return [e.b.select(e.b.fcmp_ordered(">", value, found[0]), value, found[0])]

        highest = e.splat(e.reduce(1, self.channels, 1, [e.load(x)], larger)[0])

        def power(at: Value, mask: Value | None, sums: list[Value]) -> list[Value]:
            shifted = e.b.fmul(e.b.fsub(e.load_masked(x, at, mask), highest), e.splat(vectormath.LOG2_E))
            value = vectormath.exp2(e, shifted)
            e.store_masked(value, out, at, mask)
            kept = value if mask is None else e.b.select(mask, value, e.zeros())
            return [e.b.fadd(sums[0], kept)]

        total = e.sum_lanes(e.reduce_columns(self.channels, [e.zeros()], power)[0])
        inverse = e.splat(e.b.fdiv(ir.Constant(F32, 1.0), total))
        e.columns(
            self.channels,
            lambda at, mask: e.store_masked(e.b.fmul(e.load_masked(out, at, mask), inverse), out, at, mask),
        )


@dataclass(frozen=True)
class Gather(Kernel):
    """Operands: table [entries][channels] as stored, indices i32[rows], out.

    Indices are clamped into the table.
    """

    rows: int
    entries: int
    channels: int
    table_dtype: str
    out_stride: int

    kind = "gather"

    @property
    def tiles(self) -> int:
        return self.rows

    def emit_tile(self, e: Emitter, tile: Value) -> None:
        index = e.b.sext(e.load(operand(e, 1), tile, I32), I64)
        index = e.b.select(e.b.icmp_signed("<", index, i64(0)), i64(0), index)
        index = e.minimum_integer(index, i64(self.entries - 1))
        element = ELEMENT[self.table_dtype]
        row = e.at(operand(e, 0), e.b.mul(index, i64(self.channels)), element)
        out = e.at(operand(e, 2), e.b.mul(tile, i64(self.out_stride)))
        whole = self.channels // e.target.lanes * e.target.lanes
        with e.loop(0, whole, e.target.lanes) as at:
            e.store_vector(e.load_vector(row, at, self.table_dtype), out, at)
        with e.loop(whole, self.channels) as at:
            value = e.load(row, at, element)
            e.store(e.b.fpext(value, F32) if self.table_dtype == "f16" else value, out, at)


@dataclass(frozen=True)
class TimestepEmbedding(Kernel):
    """Operands: t f32[rows], out: cosines of t f_i, then sines. In f64: the angle reaches 1000."""

    rows: int
    channels: int
    max_period: float
    out_stride: int

    kind = "timestep_embedding"

    @property
    def tiles(self) -> int:
        return self.rows

    def emit_tile(self, e: Emitter, tile: Value) -> None:
        half = self.channels // 2
        frequencies = self.max_period ** (-np.arange(half) / half)
        table = constant_table(
            e.module,
            f"frequencies_{half}_{self.max_period!r}",
            ir.DoubleType(),
            [float(f) for f in frequencies],
        )
        time = e.b.fpext(e.load(operand(e, 0), tile), ir.DoubleType())
        out = e.at(operand(e, 1), e.b.mul(tile, i64(self.out_stride)))
        with e.loop(0, half) as i:
            angle = e.b.fmul(time, e.load(table, i, ir.DoubleType()))
            e.store(e.b.fptrunc(e.intrinsic("cos", angle), F32), out, i)
            e.store(e.b.fptrunc(e.intrinsic("sin", angle), F32), out, e.b.add(i, i64(half)))


def _rows_of(e: Emitter, tile: Value, rows: int) -> AbstractContextManager[Value]:
    """The loop over the rows of one tile."""
    first = e.b.mul(tile, i64(_ROWS_PER_TILE))
    return e.loop(first, e.minimum_integer(e.b.add(first, i64(_ROWS_PER_TILE)), i64(rows)))
