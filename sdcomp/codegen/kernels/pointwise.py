"""A tree of pointwise operations as one loop, with numpy broadcasting of every operand."""

from dataclasses import dataclass

from sdcomp.codegen.builder import Emitter, Value
from sdcomp.codegen.kernels import vectormath
from sdcomp.codegen.kernels.base import operand
from sdcomp.codegen.kernels.movement import RowKernel, offset_of_row
from sdcomp.ir.ops import BINARY


@dataclass(frozen=True)
class Pointwise(RowKernel):
    """`program` is postfix: ("load", n) pushes operand n, ("constant", value) a number, (op, 0) applies an
    operation.

    `strides` per operand and axis of `shape`, 0 where it is broadcast. Operands: the sources, then out.
    """

    shape: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    out_strides: tuple[int, ...]
    program: tuple[tuple[str, float], ...]

    kind = "pointwise"
    tile_elements = 1 << 13

    def emit_row(self, e: Emitter, row: Value) -> None:
        sources = [
            e.at(operand(e, index), offset_of_row(e, row, self.shape, strides))
            for index, strides in enumerate(self.strides)
        ]
        out = e.at(operand(e, len(self.strides)), offset_of_row(e, row, self.shape, self.out_strides))
        e.columns(
            self.shape[-1],
            lambda at, mask: e.store_masked(self._evaluate(e, sources, at, mask), out, at, mask),
        )

    def _evaluate(self, e: Emitter, sources: list[Value], at: Value, mask: Value | None) -> Value:
        stack: list[Value] = []
        for op, argument in self.program:
            if op == "load":
                index = int(argument)
                repeated = self.strides[index][-1] == 0
                stack.append(
                    e.splat(e.load(sources[index])) if repeated else e.load_masked(sources[index], at, mask)
                )
            elif op == "constant":
                stack.append(e.splat(argument))
            elif op in BINARY:
                right, left = stack.pop(), stack.pop()
                stack.append(vectormath.binary(e, op, left, right))
            else:
                stack.append(vectormath.unary(e, op, stack.pop()))
        return stack.pop()
