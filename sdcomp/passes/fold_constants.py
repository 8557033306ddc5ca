"""Evaluates expressions of constants, and drops nodes that do nothing.

Canonical form afterwards: no node of at most `limit` elements has only constants for operands, and no rule of
the table below applies. Weights are never read: an expression over a `weight` node stays an expression.

Every rule preserves shape and element type; x + 0 turns -0.0 into -0.0 instead of 0.0, everything else is
exact.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sdcomp.ir.graph import Module, Node
from sdcomp.ir.ops import OPS, build
from sdcomp.ir.types import Array, TensorType
from sdcomp.passes.base import Pass, rewrite_module

DEFAULT_LIMIT = 4096


@dataclass(frozen=True)
class FoldConstants(Pass):
    """`limit`: number of elements up to which an expression of constants becomes a constant."""

    name: ClassVar[str] = "fold_constants"
    limit: int = DEFAULT_LIMIT

    def apply(self, module: Module) -> Module:
        return rewrite_module(module, self._fold)

    def _fold(self, node: Node) -> Node:
        simpler = _simplified(node)
        while simpler is not None:
            node, simpler = simpler, _simplified(simpler)
        return self._evaluated(node) or node

    def _evaluated(self, node: Node) -> Node | None:
        reference = OPS[node.op].reference
        if not node.operands or reference is None or node.type.elements > self.limit:
            return None
        if any(operand.op != "constant" or operand.type.elements > self.limit for operand in node.operands):
            return None
        with np.errstate(all="ignore"):
            value = reference(tuple(_array(operand) for operand in node.operands), node.attributes)
        return constant(value, node.type)


def constant(value: Array, type_: TensorType) -> Node:
    """A constant node of these values, one value where all are the same bits."""
    flat = np.ascontiguousarray(np.broadcast_to(value, type_.shape), type_.dtype.numpy).reshape(-1)
    uniform = flat.size > 0 and flat.tobytes() == flat[:1].tobytes() * flat.size
    values = tuple((flat[:1] if uniform else flat).tolist())
    return build("constant", values=values, shape=type_.shape, dtype=type_.dtype.value)


def _array(node: Node) -> Array:
    reference = OPS["constant"].reference
    assert reference is not None
    return reference((), node.attributes)


def _simplified(node: Node) -> Node | None:
    for rule in _RULES.get(node.op, ()):
        simpler = rule(node)
        if simpler is not None:
            return simpler
    return None


def _identity(node: Node) -> Node | None:
    x = node.operands[0]
    return x if x.type == node.type else None


def _identity_transpose(node: Node) -> Node | None:
    permutation = node.integers("permutation")
    return node.operands[0] if permutation == tuple(range(len(permutation))) else None


def _identity_concat(node: Node) -> Node | None:
    return node.operands[0] if len(node.operands) == 1 else None


def _nested(node: Node) -> Node | None:
    (x,) = node.operands
    return build(node.op, x.operands[0], shape=node.shape) if x.op == node.op else None


def _nested_transpose(node: Node) -> Node | None:
    (x,) = node.operands
    if x.op != "transpose":
        return None
    inner = x.integers("permutation")
    return build(
        "transpose", x.operands[0], permutation=tuple(inner[axis] for axis in node.integers("permutation"))
    )


def _nested_slice(node: Node) -> Node | None:
    (x,) = node.operands
    axis, start, stop = node.integer("axis"), node.integer("start"), node.integer("stop")
    if x.op != "slice" or x.integer("axis") != axis:
        return None
    offset = x.integer("start")
    return build("slice", x.operands[0], axis=axis, start=offset + start, stop=offset + stop)


def _moved_uniform(node: Node) -> Node | None:
    (x,) = node.operands
    if x.op != "constant" or len(_values(x)) != 1:
        return None
    return build("constant", values=_values(x), shape=node.shape, dtype=node.dtype.value)


def _neutral(value: float) -> Callable[[Node], Node | None]:
    def drop(node: Node) -> Node | None:
        a, b = node.operands
        for x, other in ((a, b), (b, a)):
            if _is_uniform(other, value) and x.type == node.type:
                return x
        return None

    return drop


def _is_uniform(node: Node, value: float) -> bool:
    return node.op == "constant" and all(v == value for v in _values(node))


def _values(node: Node) -> tuple[float, ...]:
    values = node.attributes["values"]
    assert isinstance(values, tuple)
    return values


_RULES: dict[str, tuple[Callable[[Node], Node | None], ...]] = {
    # x + 0 = x
    "add": (_neutral(0.0),),
    # 1 x = x
    "mul": (_neutral(1.0),),
    # cast(x) = x to the type that x has; exact, unlike cast(cast(x)), which may round twice
    "cast": (_identity,),
    # reshape(x) = x to the shape that x has; reshape(reshape(x)) = reshape(x); a uniform constant has any
    # shape
    "reshape": (_identity, _nested, _moved_uniform),
    # broadcast_to(x) = x to the shape that x has; broadcast_to(broadcast_to(x)) = broadcast_to(x); likewise
    "broadcast_to": (_identity, _nested, _moved_uniform),
    # transpose(x){0, 1, ...} = x; transpose(transpose(x){p}){q} = transpose(x){p[q]}; likewise
    "transpose": (_identity_transpose, _nested_transpose, _moved_uniform),
    # slice(x) = x over all of an axis; slice(slice(x)) = slice(x) along one axis; likewise
    "slice": (_identity, _nested_slice, _moved_uniform),
    # concat(x) = x
    "concat": (_identity_concat,),
    # pad(x){0} = x
    "pad": (_identity,),
    # upsample_nearest(x){1} = x
    "upsample_nearest": (_identity,),
}
