"""Evaluates a weight expression by blocks of rows: what lies between stored tensors and the result never
exists as a whole.

A row is an index of the first axis. An expression such as W + s kron(w1, w2) of a few large tensors and many
small ones is then as cheap in memory as its largest stored tensor, and its blocks stay in the cache from one
operation to the next. What cannot be cut, such as a transpose, is evaluated whole, once.
"""

from collections.abc import Iterator

import numpy as np

from sdcomp.ir.graph import Node
from sdcomp.ir.interpret import WeightReader, evaluate
from sdcomp.ir.ops import OPS
from sdcomp.ir.types import Array, DType

BLOCK_ELEMENTS = 1 << 19
"""Of the result, per block: 2 MiB in f32."""

_POINTWISE = ("add", "mul", "div", "minimum", "cast")


def evaluate_rows(
    node: Node, weights: WeightReader, block_elements: int = BLOCK_ELEMENTS
) -> Iterator[tuple[int, Array]]:
    """The value of a weight expression from top to bottom: number of the first row, and a block of rows.

    Raises what `evaluate` raises.
    """
    count = node.shape[0]
    step = max(1, block_elements * count // node.type.elements)
    reader = _Rows(weights)
    for start in range(0, count, step):
        yield start, reader.block(node, start, min(start + step, count))


class _Rows:
    def __init__(self, weights: WeightReader) -> None:
        self._weights = weights
        self._stored: dict[Node, Array] = {}
        self._wide: dict[Node, Array] = {}
        self._known: dict[tuple[Node, int, int], Array] = {}

    def block(self, node: Node, start: int, stop: int) -> Array:
        """Rows `start` to `stop`; each shared expression is computed once per block."""
        self._known.clear()
        return self._rows(node, start, stop)

    def _rows(self, node: Node, start: int, stop: int) -> Array:
        key = node, start, stop
        if key not in self._known:
            self._known[key] = self._cut(node, start, stop)
        return self._known[key]

    def _cut(self, node: Node, start: int, stop: int) -> Array:
        if node.op == "kron":
            return self._kron(node, start, stop)
        if node.op == "concat" and node.integer("axis") == 0:
            return self._concat(node, start, stop)
        if node.op == "reshape" and node.operands[0].shape[:1] == node.shape[:1]:
            return self._rows(node.operands[0], start, stop).reshape(stop - start, *node.shape[1:])
        cut = _cut_operands(node)
        if True not in cut:
            return self._whole(node)[start:stop]
        operands = tuple(
            self._rows(operand, start, stop) if is_cut else self._widened(operand)
            for operand, is_cut in zip(node.operands, cut, strict=True)
        )
        reference = OPS[node.op].reference
        assert reference is not None
        return reference(operands, node.attributes)

    def _kron(self, node: Node, start: int, stop: int) -> Array:
        """Row i K + k of kron(a, b), b of K rows, is kron(a[i], b[k]): parts of two rows of a, and between
        them whole ones.
        """
        a, b = (self._widened(operand) for operand in node.operands)
        parts = []
        while start < stop:
            (i, k), whole = divmod(start, len(b)), (stop - start) // len(b)
            if k == 0 and whole:
                parts.append(_kron(node, a[i : i + whole], b))
            else:
                parts.append(_kron(node, a[i : i + 1], b[k : k + stop - start]))
            start += len(parts[-1])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _concat(self, node: Node, start: int, stop: int) -> Array:
        """Matrices on top of each other: the rows of each that lie within the block."""
        parts, top = [], 0
        for operand in node.operands:
            first, last = max(start - top, 0), min(stop - top, operand.shape[0])
            if first < last:
                parts.append(self._rows(operand, first, last))
            top += operand.shape[0]
        return np.concatenate(parts)

    def _whole(self, node: Node) -> Array:
        if node not in self._stored:
            self._stored[node] = evaluate(node, self._weights)
        return self._stored[node]

    def _widened(self, node: Node) -> Array:
        """A whole operand, as references would widen it for every block."""
        if node not in self._wide:
            value = evaluate(node, self._weights)
            self._wide[node] = value.astype(np.float32) if value.dtype == DType.F16.numpy else value
        return self._wide[node]


def _kron(node: Node, a: Array, b: Array) -> Array:
    reference = OPS["kron"].reference
    assert reference is not None
    return reference((a, b), node.attributes)


def _cut_operands(node: Node) -> list[bool]:
    """Which operands' rows are those of the node; the others are needed whole."""
    rank = len(node.shape)
    if node.op in _POINTWISE:
        return [len(operand.shape) == rank and operand.shape[0] == node.shape[0] for operand in node.operands]
    keeps_rows = (
        (node.op == "matmul" and rank > 1)
        or (node.op == "norm" and 0 not in node.integers("axes"))
        or (node.op == "transpose" and node.integers("permutation")[0] == 0)
    )
    return [keeps_rows and index == 0 for index in range(len(node.operands))]
