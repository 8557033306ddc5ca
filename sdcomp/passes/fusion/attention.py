"""Attention, straight from the projections: heads are column ranges, nothing is transposed."""

from sdcomp.codegen.kernels.attention import Attention
from sdcomp.ir.graph import Node
from sdcomp.passes.fusion.lowering import Context, Group, Lowering, label


def match(root: Node, context: Context) -> Group | None:
    if root.op != "attention":
        return None
    return Group(root, root.operands, lambda lowering: _lower(root, lowering))


def _lower(root: Node, lowering: Lowering) -> None:
    q, k, v = (lowering.view(operand) for operand in root.operands)
    out, heads, target = lowering.result(root), root.integer("heads"), lowering.target
    kernel = Attention(
        batches=root.shape[0], query_batches=q.shape[0], key_batches=k.shape[0], heads=heads,
        queries=q.shape[1], keys=k.shape[1], channels=q.channels // heads,
        query_stride=q.stride, key_stride=k.stride, value_stride=v.stride, out_stride=out.stride,
        causal=bool(root.attributes["causal"]), vectors=target.panel_vectors,
        tile_rows=target.tile_rows(target.panel_vectors), lanes=target.lanes,
    ).tiled(target)  # fmt: skip
    lowering.call(kernel, [q, k, v, out], 3, _module(root))


def _module(attention: Node) -> str:
    """The module around the one that projects queries: `to_q`, `q_proj` or `q`, as the network names it."""
    query = label(attention.operands[0])
    is_packed = attention.operands[0].op == "slice"
    return query if is_packed else query.rpartition(".")[0] or query
