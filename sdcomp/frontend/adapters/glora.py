"""GLoRA (Chavan et al. 2023; lycoris/modules/glora.py): f(x) = W (x + A x) + B x.

    delta = gamma ((W a1) a2 + b1 b2)        a1[in, r], a2[r, in], b1[out, r], b2[r, in ...]

W is contracted along its input channels; the kernel's axes stay. Old files name the halves the other way
round: a1[r, in], a2[in, r], b1[r, in ...], b2[out, r]. Where shapes fit both, r = in = out, the file counts
as old, as in ComfyUI. `bm` is the core of a Tucker form of b1 b2.
gamma = alpha / r, or alpha / sqrt(r) with rs_lora. W is the weight as adapters before this one left it.
"""

from dataclasses import dataclass
from math import prod

from sdcomp.frontend.adapters.expressions import product, scaled, transposed
from sdcomp.frontend.adapters.factors import (
    check_complete,
    check_kernel,
    factor,
    fitted,
    kernel_matrix,
    low_rank_product,
    pointwise_matrix,
    tucker_product,
    with_scale,
)
from sdcomp.frontend.adapters.group import Group
from sdcomp.ir.graph import Node
from sdcomp.ir.ops import build
from sdcomp.ir.types import Shape

A1, A2, B1, B2, BM = "a1.weight", "a2.weight", "b1.weight", "b2.weight", "bm.weight"


@dataclass(frozen=True)
class _Layout:
    """Suffixes of the left and right half of A and of B."""

    a_left: str
    a_right: str
    b_left: str
    b_right: str


NEW, OLD = _Layout(A1, A2, B1, B2), _Layout(A2, A1, B2, B1)


def glora_weight(group: Group, file: str, weight: Node, strength: float) -> Node:
    """W + m delta. Raises AdapterError where factors are missing or do not fit the weight."""
    check_complete(group, (A1, A2, B1, B2))
    if len(weight.shape) not in (2, 4):
        raise group.error(f"adapts matrices and convolutions, but the weight is {list(weight.shape)}")
    layout = _layout(group, weight.shape)
    rank = group.factors[layout.a_right].shape[0]
    both = build("add", _a_branch(group, file, layout, weight), _b_branch(group, file, layout, weight.shape))
    delta = with_scale(group, rank, both, plain_alpha=True)
    return build("add", weight, scaled(strength, delta))


def glora_rank(group: Group) -> int | None:
    """The smaller side of a1, which is the rank in both layouts; None where there is none."""
    found = group.factors.get(A1)
    return min(_matrix_shape(found.shape)) if found is not None and found.shape else None


def _layout(group: Group, shape: Shape) -> _Layout:
    for layout in (OLD, NEW):
        if _fits(group, layout, shape):
            return layout
    shapes = ", ".join(f"{suffix} {list(group.factors[suffix].shape)}" for suffix in (A1, A2, B1, B2))
    raise group.error(f"the weight is {list(shape)}, but the factors are {shapes}; it is for another model")


def _fits(group: Group, layout: _Layout, shape: Shape) -> bool:
    a_left, a_right, b_left, b_right = (
        _matrix_shape(group.factors[suffix].shape)
        for suffix in (layout.a_left, layout.a_right, layout.b_left, layout.b_right)
    )
    rank = a_right[0]
    inputs = shape[1] if BM in group.factors else prod(shape[1:])
    expected = ((shape[1], rank), (rank, shape[1]), (shape[0], rank), (rank, inputs))
    return (a_left, a_right, b_left, b_right) == expected


def _matrix_shape(shape: Shape) -> Shape:
    return (shape[0], prod(shape[1:])) if shape else (0, 0)


def _a_branch(group: Group, file: str, layout: _Layout, weight: Node) -> Node:
    left, right = (pointwise_matrix(group, file, suffix) for suffix in (layout.a_left, layout.a_right))
    if len(weight.shape) == 2:
        return product(product(weight, left), right)
    inputs_last = build("transpose", weight, permutation=(0, 2, 3, 1))
    return build("transpose", product(product(inputs_last, left), right), permutation=(0, 3, 1, 2))


def _b_branch(group: Group, file: str, layout: _Layout, shape: Shape) -> Node:
    left, kernel = pointwise_matrix(group, file, layout.b_left), shape[2:]
    if BM not in group.factors:
        right = kernel_matrix(group, file, layout.b_right, kernel)
        return fitted(group, low_rank_product(group, (layout.b_left, layout.b_right), left, right), shape)
    core, right = factor(group, file, BM, (4,)), pointwise_matrix(group, file, layout.b_right)
    check_kernel(group, BM, core, kernel)
    names = (BM, layout.b_left, layout.b_right)
    return fitted(group, tucker_product(group, names, (core, transposed(left), right)), shape)
