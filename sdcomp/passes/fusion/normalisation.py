"""Group normalisation with the activation and padding that follow it; layer normalisation and softmax
alone.
"""

from dataclasses import dataclass
from itertools import accumulate
from math import prod

from sdcomp.codegen.kernels.group_norm import (
    FACTORS,
    GroupNormApply,
    GroupNormCombine,
    GroupNormStatistics,
)
from sdcomp.codegen.kernels.rows import LayerNorm, Softmax
from sdcomp.codegen.plan import Buffer, View
from sdcomp.codegen.weights import Rows
from sdcomp.ir.graph import Node
from sdcomp.ir.types import DType, TensorType
from sdcomp.passes.fusion.lowering import Context, Group, Lowering, label

_NO_PADDING = (0, 0, 0, 0)


@dataclass(frozen=True)
class GroupNormChain:
    """A group norm, the activation behind it or None, and the border of zeros behind that."""

    norm: Node
    activation: str | None
    padding: tuple[int, int, int, int]


def match(root: Node, context: Context) -> Group | None:
    if root.op in ("layer_norm", "softmax") and context.constants.issuperset(root.operands[1:]):
        lower = _lower_layer_norm if root.op == "layer_norm" else _lower_softmax
        return Group(root, root.operands[:1], lambda lowering: lower(root, lowering))
    chain = group_norm_chain(root, context)
    if chain is None:
        return None
    return Group(root, chain.norm.operands[:1], lambda lowering: _lower_group_norm(root, chain, lowering))


def group_norm_chain(root: Node, context: Context) -> GroupNormChain | None:
    """The chain that ends in `root`, if one does; nothing else reads what is inside of it."""
    node, padding, activation = root, _NO_PADDING, None
    if node.op == "pad" and context.is_private(node.operands[0]):
        top, left, bottom, right = node.integers("padding")
        node, padding = node.operands[0], (top, left, bottom, right)
    if node.op in ("silu", "gelu", "quick_gelu") and context.is_private(node.operands[0]):
        node, activation = node.operands[0], node.op
    if node.op != "group_norm" or not context.constants.issuperset(node.operands[1:]):
        return None
    return GroupNormChain(node, activation, padding)


def lower_factors(norm: Node, lowering: Lowering) -> Buffer:
    """Mean, factor and offset of every sample and channel, as `GroupNormCombine` leaves them."""
    gamma, beta = (lowering.weight(parameter, Rows(DType.F32)) for parameter in norm.operands[1:])
    batches, rows, channels = norm.shape[0], prod(norm.shape[1:-1]), norm.shape[-1]
    parts = lowering.parts(norm.operands[0])
    each = [GroupNormStatistics(batches, rows, channels, x.channels, x.stride) for x in parts]
    combine = GroupNormCombine(each[0], norm.integer("groups"), norm.number("eps"))
    partials = lowering.temporary(4 * each[0].partial_floats)
    factors = lowering.temporary(4 * FACTORS * batches * channels)
    firsts = accumulate((x.channels for x in parts), initial=0)
    for statistics, x, first in zip(each, parts, firsts, strict=False):
        place = View(partials, TensorType((x.channels,)), channels, first)
        lowering.call(statistics, [x, place], 1, label(norm))
    lowering.call(combine, [partials, gamma, beta, factors], 3, label(norm))
    return factors


def _lower_group_norm(root: Node, chain: GroupNormChain, lowering: Lowering) -> None:
    x = lowering.view(chain.norm.operands[0])
    batches, channels = x.shape[0], x.channels
    height, width = x.shape[1:3] if len(x.shape) == 4 else (1, prod(x.shape[1:-1]))
    factors, out = lower_factors(chain.norm, lowering), lowering.result(root)
    apply = GroupNormApply(
        batches, height, width, channels, x.stride, out.stride, chain.padding, chain.activation
    )
    lowering.call(apply, [x, factors, out], 2, label(chain.norm))


def _lower_layer_norm(root: Node, lowering: Lowering) -> None:
    x = lowering.view(root.operands[0])
    gamma, beta = (lowering.weight(parameter, Rows(DType.F32)) for parameter in root.operands[1:])
    out = lowering.result(root)
    kernel = LayerNorm(x.rows, x.channels, x.stride, out.stride, root.number("eps"))
    lowering.call(kernel, [x, gamma, beta, out], 3, label(root))


def _lower_softmax(root: Node, lowering: Lowering) -> None:
    x, out = lowering.view(root.operands[0]), lowering.result(root)
    lowering.call(Softmax(x.rows, x.channels, x.stride, out.stride), [x, out], 1, "softmax")
