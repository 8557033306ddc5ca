"""Computes what both rows of classifier-free guidance have in common once.

Guidance evaluates the UNet on one latent with two contexts (Ho & Salimans 2022). The graph says so with a
`broadcast_to` of the batch axis at the latent. Each rule below moves that broadcast from the operands of a
node to its result, or drops it where the other operand brings the batch, until the rows really differ: at the
first cross-attention. Below, `broadcast x` repeats the one row of x along axis 0. Every rule is exact: each
row's arithmetic is the same, element by element.

A `concat` with an operand that has real rows keeps the broadcast right before it. Graph outputs keep their
type.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from sdcomp.ir.graph import Module, Node
from sdcomp.ir.ops import UNARY, build
from sdcomp.ir.rewrite import rebuild
from sdcomp.passes.base import Pass, rewrite_module


@dataclass(frozen=True)
class ShareCfgPrefix(Pass):
    """Sinks batch broadcasts as far down as they go."""

    name: ClassVar[str] = "share_cfg_prefix"

    def apply(self, module: Module) -> Module:
        return rewrite_module(module, _sink)


def _sink(node: Node) -> Node | None:
    rule = _RULES.get(node.op)
    if rule is None or not any(_row(operand) for operand in node.operands):
        return None
    return rule(node)


def _row(node: Node) -> Node | None:
    """x where `node` is `broadcast x`: one row repeated along axis 0 and nothing else."""
    if node.op != "broadcast_to":
        return None
    (row,) = node.operands
    repeats = row.shape[:1] == (1,) and len(row.shape) == len(node.shape) and row.shape[1:] == node.shape[1:]
    return row if repeats and node.shape[0] > 1 else None


def _repeat(row: Node, node: Node) -> Node:
    return build("broadcast_to", row, shape=node.shape)


def _first_operand(node: Node) -> Node | None:
    """f(broadcast x) = broadcast f(x) for f that treats rows alike; further operands are parameters."""
    row = _row(node.operands[0])
    if row is None or len(row.shape) < _LEAST_RANK.get(node.op, 1):
        return None
    return _repeat(rebuild(node, (row, *node.operands[1:])), node)


def _gather(node: Node) -> Node | None:
    """table[broadcast i] = broadcast table[i]"""
    table, indices = node.operands
    row = _row(indices)
    return _repeat(build("gather", table, row), node) if row else None


def _reshape(node: Node) -> Node | None:
    """reshape(broadcast x, [B, ...]) = broadcast reshape(x, [1, ...]), since row-major order keeps rows."""
    row = _row(node.operands[0])
    if row is None or node.shape[:1] != node.operands[0].shape[:1]:
        return None
    return _repeat(build("reshape", row, shape=(1, *node.shape[1:])), node)


def _transpose(node: Node) -> Node | None:
    """transpose(broadcast x) = broadcast transpose(x) where the batch axis stays in front"""
    return _first_operand(node) if node.integers("permutation")[0] == 0 else None


def _slice(node: Node) -> Node | None:
    """slice(broadcast x) = broadcast slice(x) along another axis; along the batch axis,
    a broadcast to fewer rows.
    """
    if node.integer("axis") != 0:
        return _first_operand(node)
    row = _row(node.operands[0])
    if row is None or node.shape == row.shape:
        return row
    return _repeat(row, node)


def _broadcast_to(node: Node) -> Node | None:
    """broadcast_to(broadcast x) = broadcast broadcast_to(x) where the batch axis stays in front;
    otherwise broadcast_to(x).
    """
    row = _row(node.operands[0])
    if row is None or len(node.shape) > len(row.shape):
        return build("broadcast_to", row, shape=node.shape) if row else None
    wide = (1, *node.shape[1:])
    return _repeat(row if row.shape == wide else build("broadcast_to", row, shape=wide), node)


def _binary(node: Node) -> Node:
    """add(broadcast a, broadcast b) = broadcast add(a, b), also for b of one row or none;
    add(broadcast a, b) = add(a, b) where b has the rows, since pointwise operations repeat rows.
    """
    rank = len(node.shape)
    rows = (_row(operand) if len(operand.shape) == rank else None for operand in node.operands)
    shared = build(node.op, *(row or operand for row, operand in zip(rows, node.operands, strict=True)))
    return shared if shared.shape == node.shape else _repeat(shared, node)


def _attention(node: Node) -> Node | None:
    """attention(broadcast q, broadcast k, broadcast v) = broadcast attention(q, k, v);
    attention(broadcast q, k, v) = attention(q, k, v) where k, v have the rows, and the other way round.
    """
    query, key, value = node.operands
    query_row, key_row, value_row = (_row(operand) for operand in node.operands)
    if key_row and value_row:
        key, value = key_row, value_row
    shared = rebuild(node, (query_row or query, key, value))
    if shared is node or shared.shape == node.shape:
        return shared
    return _repeat(shared, node)


def _concat(node: Node) -> Node | None:
    """concat(broadcast a, broadcast b) = broadcast concat(a, b) along another axis than the batch"""
    rows = [row for row in map(_row, node.operands) if row]
    if node.integer("axis") == 0 or len(rows) != len(node.operands):
        return None
    return _repeat(rebuild(node, tuple(rows)), node)


_LEAST_RANK = {"matmul": 2, "softmax": 2, "group_norm": 2, "layer_norm": 2}
"""Rank from which axis 0 is a batch axis, not the axis that the operation works along."""

_NORMS = ("group_norm", "layer_norm", "softmax")
_ROWWISE = (*UNARY, *_NORMS, "matmul", "conv2d", "upsample_nearest", "pad", "cast", "timestep_embedding")

_RULES: dict[str, Callable[[Node], Node | None]] = {
    **dict.fromkeys(_ROWWISE, _first_operand),
    "gather": _gather,
    "reshape": _reshape,
    "transpose": _transpose,
    "slice": _slice,
    "broadcast_to": _broadcast_to,
    "add": _binary,
    "mul": _binary,
    "attention": _attention,
    "concat": _concat,
}
