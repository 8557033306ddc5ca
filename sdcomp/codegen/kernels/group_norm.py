"""Group normalisation in three kernels: statistics per chunk of rows, their combination per group, and the
application.

Statistics use shifted data (Chan, Golub and LeVeque 1983): sums of x - x0 and (x - x0)^2 per channel, x0
being the chunk's first row. A bare sum of squares would cancel where the mean is large. For the same reason
x0 and the mean of x - x0 are handed on apart, and the application subtracts a mean that f32 can hold, whose
remainder is part of the offset: no digits are lost, however large the mean is beside the deviation. Chunks
are fixed by the shape, so results do not depend on threads.
"""

from collections.abc import Callable
from dataclasses import dataclass

import llvmlite.ir as ir

from sdcomp.codegen.builder import F32, F64, Emitter, Value, i64
from sdcomp.codegen.kernels import vectormath
from sdcomp.codegen.kernels.base import Kernel, operand

FACTORS = 3
"""Per sample and channel, by `GroupNormCombine` for `apply_factors`: mean, factor and offset."""

_MOST_CHUNKS = 64
_LEAST_ROWS = 16


@dataclass(frozen=True)
class GroupNormStatistics(Kernel):
    """Operands: x, partials f32[batches][chunks][3][channels]: per channel x0, the mean of x - x0, and the
    sum of squared deviations from the mean.

    Of the channels only `width` are in x; the operand of the partials begins at the first of them.
    """

    batches: int
    rows: int
    channels: int
    width: int
    stride: int

    kind = "group_norm_statistics"

    @property
    def chunk_rows(self) -> int:
        return max(_LEAST_ROWS, -(-self.rows // _MOST_CHUNKS))

    @property
    def chunks(self) -> int:
        return -(-self.rows // self.chunk_rows)

    @property
    def tiles(self) -> int:
        return self.batches * self.chunks

    @property
    def partial_floats(self) -> int:
        """Elements of the partials."""
        return self.tiles * 3 * self.channels

    def emit_tile(self, e: Emitter, tile: Value) -> None:
        batch = e.b.sdiv(tile, i64(self.chunks))
        first = e.b.mul(e.b.srem(tile, i64(self.chunks)), i64(self.chunk_rows))
        last = e.minimum_integer(e.b.add(first, i64(self.chunk_rows)), i64(self.rows))
        count = e.b.sitofp(e.b.sub(last, first), F32)
        x = e.at(operand(e, 0), e.b.mul(e.b.add(e.b.mul(batch, i64(self.rows)), first), i64(self.stride)))
        shifts = e.at(operand(e, 1), e.b.mul(tile, i64(3 * self.channels)))
        means = e.at(shifts, self.channels)
        spreads = e.at(means, self.channels)
        end = e.b.mul(e.b.sub(last, first), i64(self.stride))

        def column(channel: Value, mask: Value | None) -> None:
            shift = e.load_masked(x, channel, mask)

            def add_row(at: Value, sums: list[Value]) -> list[Value]:
                d = e.b.fsub(e.load_masked(x, e.b.add(at, channel), mask), shift)
                return [e.b.fadd(sums[0], d), e.fma(d, d, sums[1])]

            total, squares = e.reduce(0, end, self.stride, [e.zeros(), e.zeros()], add_row)
            mean = e.b.fdiv(total, e.splat(count))
            e.store_masked(shift, shifts, channel, mask)
            e.store_masked(mean, means, channel, mask)
            e.store_masked(e.b.fsub(squares, e.b.fmul(total, mean)), spreads, channel, mask)

        e.columns(self.width, column)


@dataclass(frozen=True)
class GroupNormCombine(Kernel):
    """Operands: partials, gamma, beta, factors f32[batches][3][channels]: y = (x - mean) factor + offset per
    channel. The offset makes up for the rounding of the mean.

    In f64.
    """

    statistics: GroupNormStatistics
    groups: int
    eps: float

    kind = "group_norm_combine"

    @property
    def tiles(self) -> int:
        return self.statistics.batches * self.groups

    def emit_tile(self, e: Emitter, tile: Value) -> None:
        s = self.statistics
        size = s.channels // self.groups
        batch, group = e.b.sdiv(tile, i64(self.groups)), e.b.srem(tile, i64(self.groups))
        first = e.b.mul(group, i64(size))
        partials = e.at(operand(e, 0), e.b.add(e.b.mul(batch, i64(s.chunks * 3 * s.channels)), first))
        total = ir.Constant(F64, float(s.rows * size))

        def each(body: Callable[[Value, Value, Value], Value]) -> Value:
            """Sum over chunks and channels of `body(rows, mean, spread)`."""

            def chunk(index: Value, sums: list[Value]) -> list[Value]:
                left = e.b.sub(i64(s.rows), e.b.mul(index, i64(s.chunk_rows)))
                rows = e.b.sitofp(e.minimum_integer(left, i64(s.chunk_rows)), F64)
                base = e.at(partials, e.b.mul(index, i64(3 * s.channels)))

                def channel(c: Value, inner: list[Value]) -> list[Value]:
                    shift, mean, spread = (
                        e.b.fpext(e.load(base, e.b.add(c, i64(part * s.channels))), F64) for part in range(3)
                    )
                    return [e.b.fadd(inner[0], body(rows, e.b.fadd(shift, mean), spread))]

                return e.reduce(0, size, 1, sums, channel)

            return e.reduce(0, s.chunks, 1, [ir.Constant(F64, 0.0)], chunk)[0]

        mean = e.b.fdiv(each(lambda rows, m, spread: e.b.fmul(rows, m)), total)

        def deviation(rows: Value, m: Value, spread: Value) -> Value:
            d = e.b.fsub(m, mean)
            return e.b.fadd(spread, e.b.fmul(rows, e.b.fmul(d, d)))

        variance = e.b.fdiv(each(deviation), total)
        scale = e.b.fdiv(
            ir.Constant(F64, 1.0), e.intrinsic("sqrt", e.b.fadd(variance, ir.Constant(F64, self.eps)))
        )
        factors = e.at(operand(e, 3), e.b.mul(batch, i64(FACTORS * s.channels)))
        rounded = e.b.fptrunc(mean, F32)
        remainder = e.b.fsub(mean, e.b.fpext(rounded, F64))
        with e.loop(first, e.b.add(first, i64(size))) as c:
            factor = e.b.fmul(e.b.fpext(e.load(operand(e, 1), c), F64), scale)
            offset = e.b.fsub(e.b.fpext(e.load(operand(e, 2), c), F64), e.b.fmul(remainder, factor))
            e.store(rounded, factors, c)
            e.store(e.b.fptrunc(factor, F32), factors, e.b.add(c, i64(s.channels)))
            e.store(e.b.fptrunc(offset, F32), factors, e.b.add(c, i64(2 * s.channels)))


@dataclass(frozen=True)
class GroupNormApply(Kernel):
    """y = activation((x - mean) factor + offset), with a border of zeros. A tile is one row of the output.

    Operands: x [batches][height][width] rows of `stride`, factors, out with the padding (top, left, bottom,
    right).
    """

    batches: int
    height: int
    width: int
    channels: int
    stride: int
    out_stride: int
    padding: tuple[int, int, int, int]
    activation: str | None

    kind = "group_norm_apply"

    @property
    def out_height(self) -> int:
        return self.padding[0] + self.height + self.padding[2]

    @property
    def out_width(self) -> int:
        return self.padding[1] + self.width + self.padding[3]

    @property
    def tiles(self) -> int:
        return self.batches * self.out_height

    def emit_tile(self, e: Emitter, tile: Value) -> None:
        batch, row = e.b.sdiv(tile, i64(self.out_height)), e.b.srem(tile, i64(self.out_height))
        out = e.at(operand(e, 2), e.b.mul(tile, i64(self.out_width * self.out_stride)))
        factors = e.at(operand(e, 1), e.b.mul(batch, i64(FACTORS * self.channels)))
        source = e.b.add(e.b.mul(batch, i64(self.height)), e.b.sub(row, i64(self.padding[0])))
        x = e.at(operand(e, 0), e.b.mul(source, i64(self.width * self.stride)))

        def pixel(index: Value) -> None:
            into = e.at(out, e.b.mul(index, i64(self.out_stride)))
            pixel = e.at(x, e.b.mul(e.b.sub(index, i64(self.padding[1])), i64(self.stride)))

            def column(channel: Value, mask: Value | None) -> None:
                value = e.load_masked(pixel, channel, mask)
                value = apply_factors(e, value, factors, self.channels, channel, mask, self.activation)
                e.store_masked(value, into, channel, mask)

            e.columns(self.channels, column)

        bordered_row(
            e, row, self.padding, self.height, self.width, out, self.out_stride, self.channels, pixel
        )


def apply_factors(
    e: Emitter,
    value: Value,
    factors: Value,
    channels: int,
    channel: Value,
    mask: Value | None,
    activation: str | None,
) -> Value:
    """activation((x - mean) factor + offset) of a vector of channels; `factors` are those of its sample."""
    mean, factor, offset = (
        e.load_masked(factors, e.b.add(channel, i64(part * channels)), mask) for part in range(FACTORS)
    )
    value = e.fma(e.b.fsub(value, mean), factor, offset)
    return value if activation is None else vectormath.unary(e, activation, value)


def bordered_row(
    e: Emitter,
    row: Value,
    padding: tuple[int, int, int, int],
    height: int,
    width: int,
    out: Value,
    stride: int,
    channels: int,
    pixel: Callable[[Value], None],
) -> None:
    """One image row of a padded output: zeros in the border, `pixel(x)` for each x inside."""
    top, left, _, right = padding
    first, last = left, left + width

    def clear(begin: int, end: int) -> None:
        with e.loop(begin, end) as x:
            into = e.at(out, e.b.mul(x, i64(stride)))
            e.columns(channels, lambda c, mask: e.store_masked(e.zeros(), into, c, mask))

    inside = e.b.and_(e.b.icmp_signed(">=", row, i64(top)), e.b.icmp_signed("<", row, i64(top + height)))
    with e.b.if_else(inside) as (then, otherwise):
        with then:
            clear(0, first)
            with e.loop(first, last) as x:
                pixel(x)
            clear(last, last + right)
        with otherwise:
            clear(0, last + right)
