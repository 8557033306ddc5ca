"""Differences of whole tensors: lycoris/modules/full.py and norms.py (train_norm).

    W' = W + m diff        b' = b + m diff_b        norms: w_norm and b_norm likewise

`diff` has the weight's shape, but for the 1x1 that a linear layer has not; there is no alpha.
"""

from sdcomp.frontend.adapters.expressions import shaped
from sdcomp.frontend.adapters.factors import factor
from sdcomp.frontend.adapters.group import Group
from sdcomp.ir.graph import Node
from sdcomp.ir.types import Shape

DIFF, DIFF_BIAS = "diff", "diff_b"
NORM_WEIGHT, NORM_BIAS = "w_norm", "b_norm"

_ANY_RANK = (1, 2, 3, 4)


def full_delta(group: Group, file: str, shape: Shape) -> Node:
    """`diff` in the weight's shape. Raises AdapterError where it has another."""
    return _whole(group, file, DIFF, shape)


def norm_delta(group: Group, file: str, shape: Shape) -> Node:
    """`w_norm`, for a normalisation's gamma. Raises AdapterError where it has another shape."""
    return _whole(group, file, NORM_WEIGHT, shape)


def full_bias(group: Group, file: str) -> Node:
    """`diff_b`"""
    return factor(group, file, DIFF_BIAS, (1,))


def norm_bias(group: Group, file: str) -> Node:
    """`b_norm`"""
    return factor(group, file, NORM_BIAS, (1,))


def _whole(group: Group, file: str, suffix: str, shape: Shape) -> Node:
    node = factor(group, file, suffix, _ANY_RANK)
    if _without_ones(node.shape) != _without_ones(shape):
        raise group.error(
            f"is {list(node.shape)}, but the weight is {list(shape)}; it is for another model", suffix
        )
    return shaped(node, shape)


def _without_ones(shape: Shape) -> Shape:
    """`shape` less the sides of a 1x1 kernel."""
    return shape[:2] if shape[2:] == (1, 1) else shape
