"""Attention without a score matrix: online softmax over blocks of keys, queries in the vector lanes.

With queries in the lanes and keys in the rows, the running maximum and sum of softmax are plain vectors:
nothing is ever summed across lanes. Per panel of `width` queries and block of keys (Milakov and Gimelshein
2018; Dao et al. 2022):

    S[key][query]     = K[key][:] Qt[:][query]           micro-kernel; 1/sqrt(d) and log2(e) are folded into
    Qt
    m' = max(m, max S),  P = 2^(S - m'),  l = l 2^(m - m') + sum P
    Ot[channel][query] = Ot 2^(m - m') + Vt[channel][:] P micro-kernel; V is read transposed, in place
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import sqrt

import llvmlite.ir as ir

from sdcomp.codegen.builder import I1, Emitter, Value, f32, i64
from sdcomp.codegen.kernels import vectormath
from sdcomp.codegen.kernels.base import Kernel, operand, scratch
from sdcomp.codegen.kernels.microkernel import Partition, call_by_group
from sdcomp.codegen.targets import Target

_EXP_DEGREE = 5
_FLOOR = -1e30
_MOST_KEYS = 256
_QUERIES_PER_TILE = 128


@dataclass(frozen=True)
class Attention(Kernel):
    """Static shape. Operands: q, k, v, out; rows of all heads with the given strides; a batch of 1 serves
    every sample.
    """

    batches: int
    query_batches: int
    key_batches: int
    heads: int
    queries: int
    keys: int
    channels: int
    query_stride: int
    key_stride: int
    value_stride: int
    out_stride: int
    causal: bool
    vectors: int
    tile_rows: int
    lanes: int
    most_keys: int
    """Keys per block at most: see `most_keys`."""

    kind = "attention"

    @property
    def width(self) -> int:
        """Queries per panel."""
        return self.vectors * self.lanes

    @property
    def panels(self) -> int:
        """Panels per tile."""
        return max(1, min(_QUERIES_PER_TILE, self.queries + self.width - 1) // self.width)

    @property
    def query_blocks(self) -> int:
        return -(-self.queries // (self.panels * self.width))

    @property
    def key_block(self) -> int:
        """The largest divisor of the keys that fits, if it is not too small."""
        most = min(self.most_keys, self.keys)
        fits = [n for n in range(self.most_keys // 2, most + 1) if self.keys % n == 0]
        return max(fits, default=most)

    @property
    def tiles(self) -> int:
        return self.batches * self.heads * self.query_blocks

    @property
    def multiplies(self) -> int:
        return 2 * self.batches * self.heads * self.queries * self.keys * self.channels

    def _layout(self) -> tuple[int, int, int, int, int]:
        """Scratch offsets in floats: Qt, Ot, S, m, l."""
        panel = self.channels * self.width
        transposed = self.panels * panel
        scores = 2 * transposed
        running = scores + self.key_block * self.width
        return 0, transposed, scores, running, running + self.panels * self.width

    def scratch_bytes(self, target: Target) -> int:
        return 4 * (self._layout()[-1] + self.panels * self.width)

    def emit_tile(self, e: Emitter, tile: Value) -> None:
        block = e.b.srem(tile, i64(self.query_blocks))
        head = e.b.srem(e.b.sdiv(tile, i64(self.query_blocks)), i64(self.heads))
        batch = e.b.sdiv(tile, i64(self.query_blocks * self.heads))
        work = _Tile(self, e, batch, head, e.b.mul(block, i64(self.panels * self.width)))
        with work.each_panel() as panel:
            work.load_queries(panel)
        whole = self.keys // self.key_block * self.key_block
        with e.loop(0, whole, self.key_block) as first_key:
            work.attend(first_key, self.key_block)
        if self.keys > whole:
            work.attend(i64(whole), self.keys - whole)
        with work.each_panel() as panel:
            work.store_output(panel)


def most_keys(target: Target, vectors: int) -> int:
    """Keys whose scores for one panel of queries fill two thirds of the first-level cache: they are read
    three times.
    """
    return min(_MOST_KEYS, target.l1_bytes * 2 // 3 // (4 * vectors * target.lanes))


@dataclass
class _Tile:
    """One block of queries of one head."""

    kernel: Attention
    e: Emitter
    batch: Value
    head: Value
    first_query: Value

    def __post_init__(self) -> None:
        e, k = self.e, self.kernel
        self.queries, self.sums, self.scores, self.maxima, self.totals = (
            scratch(e, at) for at in k._layout()
        )
        column = e.b.mul(self.head, i64(k.channels))

        def base(index: int, batches: int, rows: int, stride: int) -> Value:
            start = i64(0) if batches == 1 else e.b.mul(self.batch, i64(rows * stride))
            return e.at(operand(e, index), e.b.add(start, column))

        self.q = base(0, k.query_batches, k.queries, k.query_stride)
        self.k = base(1, k.key_batches, k.keys, k.key_stride)
        self.v = base(2, k.key_batches, k.keys, k.value_stride)
        self.out = base(3, k.batches, k.queries, k.out_stride)

    def each_panel(self) -> AbstractContextManager[Value]:
        """The loop over the tile's panels that hold any query."""
        e, k = self.e, self.kernel
        left = e.b.sub(i64(k.queries), self.first_query)
        used = e.b.sdiv(e.b.add(left, i64(k.width - 1)), i64(k.width))
        return e.loop(0, e.minimum_integer(used, i64(k.panels)))

    def _panel(self, base: Value, panel: Value, floats: int) -> Value:
        return self.e.at(base, self.e.b.mul(panel, i64(floats)))

    def _query(self, panel: Value) -> Value:
        return self.e.b.add(self.first_query, self.e.b.mul(panel, i64(self.kernel.width)))

    def _valid(self, panel: Value) -> Value:
        left = self.e.b.sub(i64(self.kernel.queries), self._query(panel))
        return self.e.minimum_integer(left, i64(self.kernel.width))

    def load_queries(self, panel: Value) -> None:
        """Qt, scaled; unused lanes are zero. Also m = floor, l = 0, Ot = 0."""
        e, k = self.e, self.kernel
        transposed = self._panel(self.queries, panel, k.channels * k.width)
        sums = self._panel(self.sums, panel, k.channels * k.width)
        with e.loop(0, k.channels * k.width, k.lanes) as at:
            e.store_vector(e.zeros(), transposed, at)
            e.store_vector(e.zeros(), sums, at)
        for v in range(k.vectors):
            e.store_vector(e.splat(_FLOOR), self._panel(self.maxima, panel, k.width), v * k.lanes)
            e.store_vector(e.zeros(), self._panel(self.totals, panel, k.width), v * k.lanes)
        scale = f32(vectormath.LOG2_E / sqrt(k.channels))
        with e.loop(0, self._valid(panel)) as lane:
            row = e.at(self.q, e.b.mul(e.b.add(self._query(panel), lane), i64(k.query_stride)))
            with e.loop(0, k.channels) as channel:
                to = e.b.add(e.b.mul(channel, i64(k.width)), lane)
                e.store(e.b.fmul(e.load(row, channel), scale), transposed, to)

    def attend(self, first_key: Value, keys: int) -> None:
        """One block of keys for every panel; blocks that causality hides from the whole tile are skipped."""
        e, k = self.e, self.kernel
        with self.each_panel() as panel:
            last_query = e.b.add(self._query(panel), i64(k.width - 1))
            visible = e.b.icmp_signed("<=", first_key, last_query) if k.causal else ir.Constant(I1, 1)
            with e.when(visible):
                self._attend(panel, first_key, keys)

    def _attend(self, panel: Value, first_key: Value, keys: int) -> None:
        e, k = self.e, self.kernel
        self._score(panel, first_key, keys)
        if k.causal:
            self._hide_future(panel, first_key, keys)
        rescale = self._softmax(panel, keys)
        sums = self._panel(self.sums, panel, k.channels * k.width)
        with e.loop(0, k.channels * k.width, k.width) as at:
            for v, factor in enumerate(rescale):
                to = e.b.add(at, i64(v * k.lanes))
                e.store_vector(e.b.fmul(e.load_vector(sums, to), factor), sums, to)
        values = e.at(self.v, e.b.mul(first_key, i64(k.value_stride)))
        partition = Partition.of(k.channels, k.tile_rows)
        with e.loop(0, partition.groups) as group:
            start = partition.start(e, group)
            into = e.at(sums, e.b.mul(start, i64(k.width)))
            yes = ir.Constant(I1, 1)
            call_by_group(
                e,
                partition,
                k.vectors,
                1,
                k.value_stride,
                group,
                e.at(values, start),
                self.scores,
                into,
                keys,
                yes,
            )

    def _score(self, panel: Value, first_key: Value, keys: int) -> None:
        e, k = self.e, self.kernel
        block = e.at(self.k, e.b.mul(first_key, i64(k.key_stride)))
        transposed = self._panel(self.queries, panel, k.channels * k.width)
        partition = Partition.of(keys, k.tile_rows)
        with e.loop(0, partition.groups) as group:
            start = partition.start(e, group)
            a = e.at(block, e.b.mul(start, i64(k.key_stride)))
            into = e.at(self.scores, e.b.mul(start, i64(k.width)))
            no = ir.Constant(I1, 0)
            call_by_group(
                e, partition, k.vectors, k.key_stride, 1, group, a, transposed, into, k.channels, no
            )

    def _hide_future(self, panel: Value, first_key: Value, keys: int) -> None:
        """Scores of keys after the query become the floor."""
        e, k = self.e, self.kernel
        with e.loop(0, keys) as key:
            ahead = e.b.sub(e.b.add(first_key, key), self._query(panel))
            for v in range(k.vectors):
                at = e.b.add(e.b.mul(key, i64(k.width)), i64(v * k.lanes))
                hidden = e.mask(e.b.sub(ahead, i64(v * k.lanes)))
                e.store_vector(
                    e.b.select(hidden, e.splat(_FLOOR), e.load_vector(self.scores, at)), self.scores, at
                )

    def _softmax(self, panel: Value, keys: int) -> list[Value]:
        """S becomes P; returns the factors 2^(m - m') by which earlier sums shrink."""
        e, k = self.e, self.kernel
        maxima = self._panel(self.maxima, panel, k.width)
        totals = self._panel(self.totals, panel, k.width)
        lanes = [v * k.lanes for v in range(k.vectors)]
        old = [e.load_vector(maxima, at) for at in lanes]

        def highest(at: Value, found: list[Value]) -> list[Value]:
            return [
                e.maximum(f, e.load_vector(self.scores, e.b.add(at, i64(v))))
                for f, v in zip(found, lanes, strict=True)
            ]

        new = e.reduce(0, keys * k.width, k.width, old, highest)
        rescale = [self._power(e.b.fsub(o, n)) for o, n in zip(old, new, strict=True)]

        def power(at: Value, total: list[Value]) -> list[Value]:
            sums = []
            for t, n, v in zip(total, new, lanes, strict=True):
                p = self._power(e.b.fsub(e.load_vector(self.scores, e.b.add(at, i64(v))), n))
                e.store_vector(p, self.scores, e.b.add(at, i64(v)))
                sums.append(e.b.fadd(t, p))
            return sums

        before = [e.b.fmul(e.load_vector(totals, at), r) for at, r in zip(lanes, rescale, strict=True)]
        after = e.reduce(0, keys * k.width, k.width, before, power)
        for at, n, total in zip(lanes, new, after, strict=True):
            e.store_vector(n, maxima, at)
            e.store_vector(total, totals, at)
        return rescale

    def _power(self, x: Value) -> Value:
        return vectormath.exp2(self.e, x, _EXP_DEGREE, negative=True)

    def store_output(self, panel: Value) -> None:
        """out[query][channel] = Ot[channel][query] / l[query]"""
        e, k = self.e, self.kernel
        sums = self._panel(self.sums, panel, k.channels * k.width)
        totals = self._panel(self.totals, panel, k.width)
        inverse = [e.b.fdiv(e.splat(1.0), e.load_vector(totals, v * k.lanes)) for v in range(k.vectors)]
        with e.loop(0, k.channels * k.width, k.width) as at:
            for v, factor in enumerate(inverse):
                to = e.b.add(at, i64(v * k.lanes))
                e.store_vector(e.b.fmul(e.load_vector(sums, to), factor), sums, to)
        with e.loop(0, self._valid(panel)) as lane:
            row = e.at(self.out, e.b.mul(e.b.add(self._query(panel), lane), i64(k.out_stride)))
            with e.loop(0, k.channels) as channel:
                e.store(e.load(sums, e.b.add(e.b.mul(channel, i64(k.width)), lane)), row, channel)
