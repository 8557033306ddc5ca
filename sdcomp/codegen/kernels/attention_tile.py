"""The work of one tile of attention: a block of queries of one head, against all keys."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import reduce
from math import sqrt
from typing import TYPE_CHECKING

import llvmlite.ir as ir

from sdcomp.codegen.builder import I1, Emitter, Value, i64
from sdcomp.codegen.kernels import vectormath
from sdcomp.codegen.kernels.attention_scores import score_block
from sdcomp.codegen.kernels.base import operand, scratch
from sdcomp.codegen.kernels.microkernel import Partition, call_by_group
from sdcomp.codegen.kernels.transpose import transpose

if TYPE_CHECKING:
    from sdcomp.codegen.kernels.attention import Attention

_EXP_DEGREE = 5
_FLOOR = -1e30
_SLACK = 8.0
"""Powers may grow to 2^8 before m follows the maximum: sums keep their precision and are seldom rescaled."""


@dataclass
class AttentionTile:
    """Emits the steps of one tile; `first_query` counts from the first of the head."""

    kernel: "Attention"
    e: Emitter
    batch: Value
    head: Value
    first_query: Value

    def __post_init__(self) -> None:
        e, k = self.e, self.kernel
        at = k.layout
        self.queries, self.sums = scratch(e, at.queries), scratch(e, at.sums)
        self.shifts, self.totals = scratch(e, at.shifts), scratch(e, at.totals)
        self.scores = scratch(e, at.scores)
        self.keys, self.values = scratch(e, at.keys), scratch(e, at.values)
        column = e.b.mul(self.head, i64(k.channels))

        def base(index: int, batches: int, rows: int, stride: int) -> Value:
            start = i64(0) if batches == 1 else e.b.mul(self.batch, i64(rows * stride))
            return e.at(operand(e, index), e.b.add(start, column))

        self.q = base(0, k.query_batches, k.queries, k.query_stride)
        self.k = base(1, k.key_batches, k.keys, k.key_stride)
        self.v = base(2, k.key_batches, k.keys, k.value_stride)
        self.out = base(3, k.batches, k.queries, k.out_stride)

    # Panels

    def each_panel(self) -> AbstractContextManager[Value]:
        """The loop over the tile's panels that hold any query."""
        e, k = self.e, self.kernel
        left = e.b.sub(i64(k.queries), self.first_query)
        used = e.b.sdiv(e.b.add(left, i64(k.width - 1)), i64(k.width))
        return e.loop(0, e.minimum_integer(used, i64(k.panels)))

    def _panel(self, base: Value, panel: Value, floats: int) -> Value:
        return self.e.at(base, self.e.b.mul(panel, i64(floats)))

    def _panel_channels(self, base: Value, panel: Value) -> Value:
        return self._panel(base, panel, self.kernel.channels * self.kernel.width)

    def _query(self, panel: Value) -> Value:
        return self.e.b.add(self.first_query, self.e.b.mul(panel, i64(self.kernel.width)))

    def _lanes(self) -> list[int]:
        """First query of each vector of a panel."""
        return [v * self.kernel.lanes for v in range(self.kernel.vectors)]

    # Queries in, results out

    def load_queries(self, panel: Value) -> None:
        """Qt, scaled. Also m = 0, l = 0, Ot = 0. Lanes past the last query repeat it."""
        e, k = self.e, self.kernel
        sums = self._panel_channels(self.sums, panel)
        with e.loop(0, k.channels * k.width, k.lanes) as at:
            e.store_vector(e.zeros(), sums, at)
        for at in self._lanes():
            e.store_vector(e.zeros(), self._panel(self.shifts, panel, 2 * k.width), at)
            e.store_vector(e.zeros(), self._panel(self.totals, panel, k.width), at)
        with e.loop(0, k.width, k.lanes) as lane:
            self._load_vector_of_queries(panel, lane)

    def _load_vector_of_queries(self, panel: Value, lane: Value) -> None:
        e, k = self.e, self.kernel
        first = e.b.add(self._query(panel), lane)
        rows = [
            e.at(
                self.q,
                e.b.mul(e.minimum_integer(e.b.add(first, i64(n)), i64(k.queries - 1)), i64(k.query_stride)),
            )
            for n in range(k.lanes)
        ]
        into = e.at(self._panel_channels(self.queries, panel), lane)
        scale = e.splat(vectormath.LOG2_E / sqrt(k.channels))

        def block(channel: Value, mask: Value | None) -> None:
            vectors = [e.b.fmul(e.load_masked(row, channel, mask), scale) for row in rows]
            count = k.lanes if mask is None else k.channels % k.lanes
            for n, vector in enumerate(transpose(e, vectors)[:count]):
                e.store_vector(vector, into, e.b.mul(e.b.add(channel, i64(n)), i64(k.width)))

        e.columns(k.channels, block)

    def store_output(self, panel: Value) -> None:
        """out[query][channel] = Ot[channel][query] / l[query]"""
        e, k = self.e, self.kernel
        valid = e.b.sub(i64(k.queries), self._query(panel))
        with e.loop(0, e.minimum_integer(valid, i64(k.width)), k.lanes) as lane:
            self._store_vector_of_queries(panel, lane, e.minimum_integer(e.b.sub(valid, lane), i64(k.lanes)))

    def _store_vector_of_queries(self, panel: Value, lane: Value, count: Value) -> None:
        """Through a square of scratch memory, so that rows past the last query need no branch each."""
        e, k = self.e, self.kernel
        sums = e.at(self._panel_channels(self.sums, panel), lane)
        total = e.load_vector(self._panel(self.totals, panel, k.width), lane)
        inverse = e.b.fdiv(e.splat(1.0), total)
        first = e.at(self.out, e.b.mul(e.b.add(self._query(panel), lane), i64(k.out_stride)))

        def block(channel: Value, mask: Value | None) -> None:
            used = k.lanes if mask is None else k.channels % k.lanes
            vectors = [
                e.b.fmul(e.load_vector(sums, e.b.mul(e.b.add(channel, i64(n)), i64(k.width))), inverse)
                for n in range(used)
            ]
            square = transpose(e, vectors + [e.zeros()] * (k.lanes - used))
            for n, vector in enumerate(square):
                e.store_vector(vector, self.scores, n * k.lanes)
            with e.loop(0, count) as row:
                value = e.load_vector(self.scores, e.b.mul(row, i64(k.lanes)))
                e.store_masked(value, e.at(first, e.b.mul(row, i64(k.out_stride))), channel, mask)

        e.columns(k.channels, block)

    # A block of keys

    def attend(self, first_key: Value, keys: int) -> None:
        """One block of keys for every panel; panels that causality hides it from skip it."""
        e, k = self.e, self.kernel
        self._copy_rows(self.k, k.key_stride, first_key, keys, self.keys)
        self._copy_rows(self.v, k.value_stride, first_key, keys, self.values)
        with self.each_panel() as panel:
            last_query = e.b.add(self._query(panel), i64(k.width - 1))
            visible = e.b.icmp_signed("<=", first_key, last_query) if k.causal else ir.Constant(I1, 1)
            with e.when(visible):
                self._attend(panel, first_key, keys)

    def _copy_rows(self, source: Value, stride: int, first: Value, count: int, target: Value) -> None:
        """The head's columns of `count` rows, with no gaps between them."""
        e, k = self.e, self.kernel
        with e.loop(0, count) as row:
            line = e.at(source, e.b.mul(e.b.add(first, row), i64(stride)))
            into = e.at(target, e.b.mul(row, i64(k.channels)))
            e.columns(
                k.channels, lambda at, mask: e.store_masked(e.load_masked(line, at, mask), into, at, mask)
            )

    def _attend(self, panel: Value, first_key: Value, keys: int) -> None:
        e, k = self.e, self.kernel
        shift = self._panel(self.shifts, panel, 2 * k.width)
        for lane in self._lanes():
            e.store_vector(e.splat(_FLOOR), shift, k.width + lane)
        transposed = self._panel_channels(self.queries, panel)
        partition = Partition.of(keys, k.tile_rows)
        score_block(e, partition, k.vectors, k.channels, self.keys, transposed, self.scores, shift)
        if k.causal:
            self._hide_future(panel, first_key, keys, shift)
        highest = [e.load_vector(shift, k.width + lane) for lane in self._lanes()]
        first = e.b.icmp_signed("==", first_key, i64(0))
        with e.when(e.b.or_(first, self._any_above(highest))):
            lowest = e.b.select(first, e.splat(_FLOOR), e.zeros())
            self._shift(panel, keys, [e.maximum(h, lowest) for h in highest])
        self._powers(panel, keys)
        self._mix(self._panel_channels(self.sums, panel), keys)

    def _any_above(self, highest: list[Value]) -> Value:
        """Whether any query has a score too far above its m."""
        e = self.e
        top = reduce(e.maximum, highest)
        above = e.b.fcmp_ordered(">", top, e.splat(_SLACK))
        return e.b.icmp_unsigned(
            "!=", e.b.bitcast(above, ir.IntType(e.target.lanes)), ir.Constant(ir.IntType(e.target.lanes), 0)
        )

    def _shift(self, panel: Value, keys: int, by: list[Value]) -> None:
        """m' = m + by; scores, l and Ot as if m had been m' all along."""
        e, k = self.e, self.kernel
        shift, totals = self._panel(self.shifts, panel, 2 * k.width), self._panel(self.totals, panel, k.width)
        sums = self._panel_channels(self.sums, panel)
        factors = [vectormath.exp2(e, e.b.fneg(b)) for b in by]
        for lane, b, factor in zip(self._lanes(), by, factors, strict=True):
            e.store_vector(e.b.fadd(e.load_vector(shift, lane), b), shift, lane)
            e.store_vector(e.b.fmul(e.load_vector(totals, lane), factor), totals, lane)
        self._each_row(self.scores, keys, by, e.b.fsub)
        self._each_row(sums, k.channels, factors, e.b.fmul)

    def _each_row(
        self, base: Value, rows: int, operands: list[Value], combine: Callable[[Value, Value], Value]
    ) -> None:
        """row = combine(row, operands), in place, for rows of a panel's width."""
        e, k = self.e, self.kernel
        with e.loop(0, rows * k.width, k.width) as at:
            for lane, operand_ in zip(self._lanes(), operands, strict=True):
                to = e.b.add(at, i64(lane))
                e.store_vector(combine(e.load_vector(base, to), operand_), base, to)

    def _powers(self, panel: Value, keys: int) -> None:
        """P = 2^S in place, and l += sum P"""
        e, k = self.e, self.kernel
        totals, lanes = self._panel(self.totals, panel, k.width), self._lanes()

        def power(at: Value, total: list[Value]) -> list[Value]:
            sums = []
            for t, lane in zip(total, lanes, strict=True):
                to = e.b.add(at, i64(lane))
                p = vectormath.exp2(e, e.load_vector(self.scores, to), _EXP_DEGREE, negative=True)
                e.store_vector(p, self.scores, to)
                sums.append(e.b.fadd(t, p))
            return sums

        before = [e.load_vector(totals, lane) for lane in lanes]
        for lane, total in zip(lanes, e.reduce(0, keys * k.width, k.width, before, power), strict=True):
            e.store_vector(total, totals, lane)

    def _mix(self, sums: Value, keys: int) -> None:
        """Ot += Vt P"""
        e, k = self.e, self.kernel
        partition = Partition.of(k.channels, k.tile_rows)
        with e.loop(0, partition.groups) as group:
            start = partition.start(e, group)
            a, into = e.at(self.values, start), e.at(sums, e.b.mul(start, i64(k.width)))
            yes = ir.Constant(I1, 1)
            call_by_group(e, partition, k.vectors, 1, k.channels, group, a, self.scores, into, keys, yes)

    def _hide_future(self, panel: Value, first_key: Value, keys: int, shift: Value) -> None:
        """Scores of keys after the query become the floor; the maxima are found anew."""
        e, k = self.e, self.kernel

        def hide(key: Value, highest: list[Value]) -> list[Value]:
            ahead = e.b.sub(e.b.add(first_key, key), self._query(panel))
            found = []
            for high, lane in zip(highest, self._lanes(), strict=True):
                at = e.b.add(e.b.mul(key, i64(k.width)), i64(lane))
                hidden = e.mask(e.b.sub(ahead, i64(lane)))
                score = e.b.select(hidden, e.splat(_FLOOR), e.load_vector(self.scores, at))
                e.store_vector(score, self.scores, at)
                found.append(e.maximum(high, score))
            return found

        highest = e.reduce(0, keys, 1, [e.splat(_FLOOR)] * k.vectors, hide)
        for lane, high in zip(self._lanes(), highest, strict=True):
            e.store_vector(high, shift, k.width + lane)
