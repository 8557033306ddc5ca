"""What is done to finished sums on their way to memory: bias, time embedding, residual, activation."""

from collections.abc import Iterator
from dataclasses import dataclass

from sdcomp.codegen.builder import Emitter, Value, i64
from sdcomp.codegen.kernels import vectormath
from sdcomp.codegen.kernels.base import operand

_FIRST_OPERAND = 3
"""Epilogue operands follow x, w and out."""


@dataclass(frozen=True)
class Step:
    """One step of the epilogue.

    `bias`, `batch_vector` and `tensor` add the next operand, `scale` multiplies by it; the others are
    pointwise operations. bias: f32[columns padded to whole panels]; batch_vector: one f32 row of `stride` per
    sample; tensor: rows of `stride` like the output's, one sample of them serving all if `shared`; scale:
    f32[1].
    """

    kind: str
    stride: int = 0
    shared: bool = False

    @property
    def takes_operand(self) -> bool:
        return self.kind in ("bias", "batch_vector", "tensor", "scale")


def operand_behind(steps: tuple[Step, ...]) -> int:
    """Number of the first operand behind those of the steps."""
    return _FIRST_OPERAND + sum(step.takes_operand for step in steps)


@dataclass
class Epilogue:
    """The steps for one weight panel and one sample. Emits the loads that all rows share where it is made.

    A panel has `vectors` vectors, of which the first `kept` reach the output (half of them if it is gated),
    and the output has `columns` columns and `rows` rows per sample.
    """

    e: Emitter
    steps: tuple[Step, ...]
    vectors: int
    kept: int
    columns: int
    rows: int
    panel: Value
    batch: Value

    def __post_init__(self) -> None:
        lanes = self.e.target.lanes
        self.column = self.e.b.mul(self.panel, i64(self.kept * lanes))
        self.masks = self._masks()
        self.fixed: dict[int, list[Value]] = {}
        for number, step, index in self._numbered():
            if step.kind == "bias":
                pointer = panel_start(self.e, operand(self.e, index), self.panel, self.vectors)
                self.fixed[number] = [self.e.load_vector(pointer, v * lanes) for v in range(self.vectors)]
            if step.kind == "batch_vector":
                start = self.e.b.add(self.e.b.mul(self.batch, i64(step.stride)), self.column)
                self.fixed[number] = [self._load(operand(self.e, index), start, v) for v in range(self.kept)]
            if step.kind == "scale":
                self.fixed[number] = [self.e.splat(self.e.load(operand(self.e, index)))] * self.vectors

    def apply(self, v: int, value: Value, row: Value) -> Value:
        """All steps on vector `v` of the panel, for output row `row`."""
        e = self.e
        for number, step, index in self._numbered():
            if step.kind == "scale":
                value = e.b.fmul(value, self.fixed[number][v])
            elif number in self.fixed:
                value = e.b.fadd(value, self.fixed[number][v])
            elif step.kind == "tensor":
                source = e.b.srem(row, i64(self.rows)) if step.shared else row
                start = e.b.add(e.b.mul(source, i64(step.stride)), self.column)
                value = e.b.fadd(value, self._load(operand(e, index), start, v))
            else:
                value = vectormath.unary(e, step.kind, value)
        return value

    def store(self, v: int, value: Value, out: Value, row: Value, stride: int) -> None:
        """Vector `v` of the panel to row `row` of the output."""
        start = self.e.b.add(self.e.b.mul(row, i64(stride)), self.column)
        self.e.store_masked(value, out, self.e.b.add(start, i64(v * self.e.target.lanes)), self.masks[v])

    def _numbered(self) -> Iterator[tuple[int, Step, int]]:
        index = _FIRST_OPERAND
        for number, step in enumerate(self.steps):
            yield number, step, index
            index += step.takes_operand

    def _masks(self) -> list[Value | None]:
        """One per vector; None where every panel is full."""
        e, lanes = self.e, self.e.target.lanes
        if self.columns % (self.kept * lanes) == 0:
            return [None] * self.kept
        left = e.b.sub(i64(self.columns), self.column)
        return [e.mask(e.b.sub(left, i64(v * lanes))) for v in range(self.kept)]

    def _load(self, pointer: Value, offset: Value, v: int) -> Value:
        return self.e.load_masked(pointer, self.e.b.add(offset, i64(v * self.e.target.lanes)), self.masks[v])


def panel_start(e: Emitter, pointer: Value, panel: Value, vectors: int) -> Value:
    """Where a panel's columns start in a vector of all columns."""
    return e.at(pointer, e.b.mul(panel, i64(vectors * e.target.lanes)))
