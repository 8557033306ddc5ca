"""Live adapters inside of a kernel: W + s kron(w1, w2) for a panel of a weight as it is read.

Adapters that are applied at run time leave the stored weight alone. Where a kernel reads a block of a panel,
which it does once for all rows of a tile, each term adds

    W[i o + c, j n + d, tap] += s w1[i, j] w2[c, d, tap]

with the vectors over the columns i o + c: one multiply-accumulate per element, however many rows read it. In
the payload w1 is laid out per column (`OuterFactor`) and w2 such that its columns start over (`InnerFactor`),
so that a vector may begin anywhere in a block of o columns and reach into the next one.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

from sdcomp.codegen.builder import Emitter, Value, i64
from sdcomp.codegen.kernels.base import operand

OPERANDS = 3
"""Of each term: the strength f32[1], w1 and w2."""


Read = Callable[[Value], Value]


@dataclass(frozen=True)
class KroneckerTerm:
    """One term: w1 has `blocks` columns, w2[columns, depth] the others.

    It changes columns `start` to `stop` of the weight; for others w1 is laid out as zeros.
    """

    blocks: int
    columns: int
    depth: int
    start: int
    stop: int


@dataclass
class LiveWeights:
    """The terms of one kernel for one panel. Operands of the terms begin with number `first_operand`."""

    e: Emitter
    terms: tuple[KroneckerTerm, ...]
    first_operand: int
    panel: Value

    def __post_init__(self) -> None:
        indices = range(self.first_operand, self.first_operand + OPERANDS * len(self.terms), OPERANDS)
        self.strengths = [self.e.splat(self.e.load(operand(self.e, index))) for index in indices]
        self.outers = [operand(self.e, index + 1) for index in indices]
        self.inners = [operand(self.e, index + 2) for index in indices]

    def add_rows(
        self, target: Value, columns: list[Value], read: Read, tap: Value, start: Value, count: Value
    ) -> None:
        """Writes `count` adapted rows of a tap, from row `start` of the weight on: [count][width].

        `read(at)` is a vector of the weight itself, at its offset in `target`; `columns` is where each vector
        of the panel starts, in columns of the weight.
        """
        e, end = self.e, self.e.b.add(start, count)
        if len({(term.start, term.stop) for term in self.terms}) > 1:
            with e.loop(0, e.b.mul(count, i64(len(columns) * e.target.lanes)), e.target.lanes) as at:
                e.store_vector(read(at), target, at)
            read = partial(e.load_vector, target)
        for number, term in enumerate(self.terms):
            last = e.b.add(self._block(term, e.b.sub(end, i64(1))), i64(1))
            with (
                self._where_it_changes(term, columns),
                e.loop(self._block(term, start), last) as block,
            ):
                self._add_block(number, block, target, columns, read, tap, start, end)
            read = partial(e.load_vector, target)

    def _where_it_changes(self, term: KroneckerTerm, columns: list[Value]) -> AbstractContextManager[None]:
        """Only for panels that hold columns of the term, if terms change different ones."""
        e = self.e
        if len({(other.start, other.stop) for other in self.terms}) == 1:
            return nullcontext()
        begins = e.b.icmp_signed("<", columns[0], i64(term.stop))
        last = e.b.add(columns[-1], i64(e.target.lanes))
        return e.when(e.b.and_(begins, e.b.icmp_signed(">", last, i64(term.start))))

    def _add_block(
        self,
        number: int,
        block: Value,
        target: Value,
        columns: list[Value],
        read: Read,
        tap: Value,
        start: Value,
        end: Value,
    ) -> None:
        """The rows of one block of `depth` inputs, which share their row of w1."""
        e, term, lanes = self.e, self.terms[number], self.e.target.lanes
        width = lanes * len(columns)
        factors = [self._factor(number, block, i64(v * lanes), width) for v in range(len(columns))]
        places = [self._place(term, column) for column in columns]
        origin = e.b.mul(block, i64(term.depth))
        stop = e.minimum_integer(end, e.b.add(origin, i64(term.depth)))
        with e.loop(e.maximum_integer(start, origin), stop) as k:
            inner = self._inner(number, tap, e.b.sub(k, origin))
            into = e.b.mul(e.b.sub(k, start), i64(width))
            for v, (factor, place) in enumerate(zip(factors, places, strict=True)):
                at = e.b.add(into, i64(v * lanes))
                e.store_vector(e.fma(factor, e.load_vector(inner, place), read(at)), target, at)

    def adapt(self, weights: list[Value], k: Value, column: Value, width: int) -> list[Value]:
        """One vector of every tap, from column `column` of the panel on, at row `k` of the weight."""
        e, lanes = self.e, self.e.target.lanes
        for number, term in enumerate(self.terms):
            block = self._block(term, k)
            factor = self._factor(number, block, column, width)
            place = self._place(term, e.b.add(e.b.mul(self.panel, i64(width)), column))
            inner = self._inner(number, i64(0), e.b.sub(k, e.b.mul(block, i64(term.depth))))
            tap = term.depth * (term.columns + lanes)
            values = [e.load_vector(e.at(inner, place), n * tap) for n in range(len(weights))]
            weights = [e.fma(factor, value, weight) for value, weight in zip(values, weights, strict=True)]
        return weights

    def _block(self, term: KroneckerTerm, k: Value) -> Value:
        return self.e.b.udiv(k, i64(term.depth))

    def _place(self, term: KroneckerTerm, column: Value) -> Value:
        """Where a column of the weight is in its row of w2; a term's first one begins a row."""
        shifted = self.e.b.add(column, i64(-term.start % term.columns))
        return self.e.b.urem(shifted, i64(term.columns))

    def _factor(self, number: int, block: Value, column: Value, width: int) -> Value:
        """s w1 of the columns of a vector and a block of rows."""
        e, blocks = self.e, self.terms[number].blocks
        row = e.b.add(e.b.mul(self.panel, i64(blocks)), block)
        at = e.b.add(e.b.mul(row, i64(width)), column)
        return e.b.fmul(self.strengths[number], e.load_vector(self.outers[number], at))

    def _inner(self, number: int, tap: Value, row: Value) -> Value:
        """A row of w2."""
        e, term = self.e, self.terms[number]
        row = e.b.add(e.b.mul(tap, i64(term.depth)), row)
        return e.at(self.inners[number], e.b.mul(row, i64(term.columns + e.target.lanes)))


def panel_columns(e: Emitter, panel: Value, vectors: int, gated_columns: int | None = None) -> list[Value]:
    """Where each vector of a panel starts, in columns of the weight.

    A gated panel has half of its vectors in the first half of all `gated_columns` columns.
    """
    lanes = e.target.lanes
    kept = vectors if gated_columns is None else vectors // 2
    start = e.b.mul(panel, i64(kept * lanes))
    gate = 0 if gated_columns is None else gated_columns // 2
    return [e.b.add(start, i64(v % kept * lanes + v // kept * gate)) for v in range(vectors)]
