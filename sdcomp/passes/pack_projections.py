"""Packs the projections of one input that feed an attention into one matrix product.

    attention(x A, x B, x C) = attention(slices of x [A B C])

The input is then read once instead of three times, and one kernel has all the work to share out. Projections
of different inputs (queries of cross-attention) stay as they are. Slices of columns are views: nothing is
copied. Live terms of a projection's weight become terms of its rows of the packed weight.
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import ClassVar

from sdcomp.ir.graph import Module, Node, is_constant
from sdcomp.ir.ops import build
from sdcomp.ir.types import DType
from sdcomp.passes.base import Pass, rewrite_module
from sdcomp.passes.live import Term, framed, split_live, with_terms


@dataclass(frozen=True)
class PackProjections(Pass):
    """Rewrites attention nodes all of whose operands project one input, all with a bias or all without."""

    name: ClassVar[str] = "pack_projections"

    def apply(self, module: Module) -> Module:
        return rewrite_module(module, _pack)


def _pack(node: Node) -> Node | None:
    if node.op != "attention":
        return None
    found = [_projection(operand) for operand in node.operands]
    projections = [projection for projection in found if projection is not None]
    kinds = {(p.x, p.bias is None) for p in projections}
    if len(projections) < len(found) or len(kinds) > 1:
        return None
    ends = accumulate((operand.shape[-1] for operand in node.operands), initial=0)
    packed, axis = _packed(projections), len(node.shape) - 1
    parts = (build("slice", packed, axis=axis, start=start, stop=stop) for start, stop in pairwise(ends))
    return build("attention", *parts, **dict(node.attributes))


@dataclass(frozen=True)
class _Projection:
    """x W^T + b, or without b; `terms` are those of live adapters."""

    x: Node
    weight: Node
    bias: Node | None
    terms: tuple[Term, ...]


def _projection(node: Node) -> _Projection | None:
    """What `node` computes, if it is the projection of something by constants."""
    bias = None
    if node.op == "add" and node.operands[1].shape == node.shape[-1:]:
        node, bias = node.operands
    if node.op != "matmul":
        return None
    weight, terms = split_live(node.operands[1])
    if not all(is_constant(n) for n in (weight, bias) if n is not None):
        return None
    return _Projection(node.operands[0], weight, bias, terms)


def _packed(projections: list[_Projection]) -> Node:
    weights = _joined([p.weight for p in projections])
    starts = accumulate((p.weight.shape[0] for p in projections), initial=0)
    terms = tuple(
        Term(term.strength, framed(term.delta, start, weights.shape[0]))
        for start, projection in zip(starts, projections, strict=False)
        for term in projection.terms
    )
    product = build("matmul", projections[0].x, with_terms(weights, terms))
    biases = [p.bias for p in projections if p.bias is not None]
    return build("add", product, _joined(biases)) if biases else product


def _joined(weights: list[Node]) -> Node:
    """One below the other, as f32 where types differ: an adapter may have changed some of them only."""
    if len({weight.dtype for weight in weights}) > 1:
        weights = [w if w.dtype is DType.F32 else build("cast", w, dtype=DType.F32.value) for w in weights]
    return build("concat", *weights, axis=0)
