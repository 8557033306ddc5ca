"""The tensors of a group as weight nodes, their shapes checked."""

from math import isfinite, prod, sqrt

from sdcomp.frontend.adapters.expressions import product, rows, scaled, shaped, tucker
from sdcomp.frontend.adapters.group import Group
from sdcomp.ir.graph import Node
from sdcomp.ir.ops import build
from sdcomp.ir.types import Shape

SAME_ALPHA = 1e-3
"""Relative difference below which two alphas are one: f16 has 11 bits."""


def factor(group: Group, file: str, suffix: str, ranks: tuple[int, ...]) -> Node:
    """The tensor of this suffix. Raises AdapterError where it has another number of axes than `ranks`."""
    found = group.factors[suffix]
    if len(found.shape) not in ranks:
        expected = " or ".join(map(str, ranks))
        raise group.error(f"must have {expected} axes, its shape is {list(found.shape)}", suffix)
    return build("weight", name=group.key(suffix), file=file, shape=found.shape, dtype=found.dtype.value)


def first_side(group: Group, suffix: str) -> int | None:
    """The first side of a factor, which is the rank of those stored [rank, ...]; None where it has none."""
    found = group.factors.get(suffix)
    return found.shape[0] if found is not None and found.shape else None


def pointwise_matrix(group: Group, file: str, suffix: str) -> Node:
    """A matrix that may be stored as a 1x1 convolution."""
    node = factor(group, file, suffix, (2, 4))
    check_kernel(group, suffix, node, (1, 1))
    return rows(node)


def kernel_matrix(group: Group, file: str, suffix: str, kernel: Shape) -> Node:
    """A matrix [A, B kh kw], stored so or as a convolution [A, B, kh, kw] with the weight's kernel."""
    node = factor(group, file, suffix, (2, 4))
    check_kernel(group, suffix, node, kernel)
    return rows(node)


def low_rank_product(group: Group, names: tuple[str, str], a: Node, b: Node) -> Node:
    """a b, of two matrices. `names` are their suffixes. Raises AdapterError where their ranks differ."""
    if a.shape[1] != b.shape[0]:
        raise group.error(
            f"its rank {b.shape[0]} is not that of its other half, {names[0]}, which is {list(a.shape)}",
            names[1],
        )
    return product(a, b)


def tucker_product(group: Group, names: tuple[str, str, str], nodes: tuple[Node, Node, Node]) -> Node:
    """`tucker` of core [i, j, kh, kw], outer [i, p] and inner [j, q], whose suffixes are `names`."""
    core, outer, inner = nodes
    if core.shape[:2] != (outer.shape[0], inner.shape[0]):
        ranks = f"{list(outer.shape)} and {list(inner.shape)}"
        raise group.error(
            f"{list(core.shape)} does not fit {names[1]} and {names[2]}, which are {ranks}", names[0]
        )
    return tucker(core, outer, inner)


def check_kernel(group: Group, suffix: str, node: Node, kernel: Shape) -> None:
    """Raises AdapterError for a convolution whose kernel is not the weight's; matrices have none."""
    if len(node.shape) == 4 and node.shape[2:] != (kernel or (1, 1)):
        raise group.error(
            f"{list(node.shape)} is for another kernel than the weight's {list(kernel)}", suffix
        )


def check_complete(group: Group, needed: tuple[str, ...]) -> None:
    """Raises AdapterError where a tensor is missing."""
    missing = [suffix for suffix in needed if suffix not in group.factors]
    if missing:
        found = ", ".join((*group.factors, *group.scalars))
        raise group.error(f"has {found} but no {' and no '.join(missing)}; the file is incomplete")


def fitted(group: Group, delta: Node, shape: Shape) -> Node:
    """A matrix [out, in ...] in the weight's shape. Raises AdapterError where its sides are others."""
    if delta.shape != (shape[0], prod(shape[1:])):
        found = f"{_shapes(group)} make {list(delta.shape)}"
        raise group.error(f"the weight is {list(shape)}, but the factors {found}; it is for another model")
    return shaped(delta, shape)


def _shapes(group: Group) -> str:
    return " and ".join(str(list(kind.shape)) for kind in group.factors.values())


def with_scale(group: Group, rank: int | None, delta: Node, plain_alpha: bool = False) -> Node:
    """gamma delta"""
    gamma = scale_of(group, rank, plain_alpha)
    return delta if gamma == 1 else scaled(gamma, delta)


def scale_of(group: Group, rank: int | None, plain_alpha: bool = False) -> float:
    """gamma, by which factors of this rank are multiplied.

    - `scale` (webui; PEFT's lora_alpha / r), if the file has it,
    - otherwise alpha / rank, if it has alpha,
    - 1 without alpha, with alpha 0 (sd-scripts and LyCORIS take both for alpha = rank), and without rank,
    - times `scalar`, if the file has it (LyCORIS, use_scalar, before it was folded into a factor).

    rs_lora (Kalajdzievski 2023) means alpha / sqrt(rank). LyCORIS stores alpha sqrt(rank) for it since July
    2024, so that alpha / rank is right; before, it stored the plain alpha, which the metadata tell; with
    `plain_alpha` it still does.
    Raises AdapterError where what counts is not finite, or alpha is negative.
    """
    gamma = group.scalars.get("scalar", 1.0)
    if "scale" in group.scalars:
        gamma *= group.scalars["scale"]
    elif rank is not None and group.scalars.get("alpha", 0.0) != 0:
        gamma *= _alpha(group) / _divisor(group, rank, plain_alpha)
    if not isfinite(gamma):
        raise group.error(
            f"its scale is {gamma}: alpha, scale and scalar must be finite here, not {dict(group.scalars)}"
        )
    return gamma


def _alpha(group: Group) -> float:
    alpha = group.scalars["alpha"]
    if alpha < 0:
        raise group.error(f"is {alpha:g}; it must not be negative", "alpha")
    return alpha


def _divisor(group: Group, rank: int, plain_alpha: bool) -> float:
    facts, alpha = group.facts, group.scalars["alpha"]
    if not facts.rs_lora:
        return rank
    is_plain = facts.is_user_alpha(alpha, SAME_ALPHA)
    is_product = facts.is_user_alpha(alpha / sqrt(rank), SAME_ALPHA)
    return sqrt(rank) if plain_alpha or (is_plain and not is_product) else rank
