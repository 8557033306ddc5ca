"""Finds weights that adapters make too large for their stored type before anything is planned.

Folding finds every one of them, but in its turn: in a model of gigabytes that may be half a minute away.
"""

from dataclasses import dataclass, field
from math import prod

import numpy as np

from sdcomp.codegen.fold import fold
from sdcomp.codegen.weights import PackedWeight, Rows, matrix_dtype
from sdcomp.ir.graph import Module, Node, is_constant, topological_order
from sdcomp.ir.interpret import WeightReader
from sdcomp.passes.apply_adapters import CHECKPOINT
from sdcomp.passes.live import split_live

_MATRIX_READERS = ("matmul", "conv2d")
_SAME = ("reshape", "transpose", "slice", "concat", "broadcast_to", "cast", "pad")
_TYPICAL = 1.0
"""The magnitude of a checkpoint's own weights, which are not read for this."""


def check_magnitudes(module: Module, read_weight: WeightReader, policy: str) -> None:
    """Folds those adapted matrices whose factors are large enough that they might not fit.

    Raises AdapterError for one that does not.
    """
    bounds = _Bounds(read_weight)
    for weight in _adapted(module):
        dtype = matrix_dtype(weight, policy)
        if bounds.of(weight) > float(np.finfo(dtype.numpy).max):
            fold(PackedWeight(weight, Rows(dtype)), read_weight)


def _adapted(module: Module) -> list[Node]:
    """The expressions of matrices and filters that folded adapters change, each once, packed ones apart."""
    readers = (node for graph in module for node in graph.nodes() if node.op in _MATRIX_READERS)
    weights = (split_live(node.operands[1])[0] for node in readers)
    parts = (part for node in weights for part in (node.operands if node.op == "concat" else (node,)))
    return [part for part in dict.fromkeys(parts) if part.op != "weight" and is_constant(part)]


@dataclass
class _Bounds:
    """Upper bounds of magnitudes of expressions, from the largest value of each factor.

    0 for an operation that has no simple bound: folding is left to find it.
    """

    read_weight: WeightReader
    known: dict[Node, float] = field(default_factory=dict)

    def of(self, root: Node) -> float:
        for node in topological_order([root]):
            if node not in self.known:
                self.known[node] = self._bound(node)
        return self.known[root]

    def _bound(self, node: Node) -> float:
        operands = [self.known[operand] for operand in node.operands]
        if node.op == "weight":
            is_own = node.text("file") == CHECKPOINT
            return _TYPICAL if is_own else float(np.abs(self.read_weight(node)).max(initial=0))
        if node.op == "constant":
            values = node.attributes["values"]
            assert isinstance(values, tuple)
            return float(np.abs(values).max(initial=0))
        if node.op in ("mul", "kron"):
            return prod(operands)
        if node.op == "matmul":
            return prod(operands) * node.operands[0].shape[-1]
        if node.op == "add" or node.op in _SAME:
            return sum(operands) if node.op == "add" else max(operands)
        return 0.0
