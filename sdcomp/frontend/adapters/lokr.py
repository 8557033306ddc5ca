"""LoKr (Yeh et al. 2023; lycoris/modules/lokr.py): a weight's difference is a Kronecker product.

    delta[a K + c, b N + d, u, v] = gamma  w1[a, b]  w2[c, d, u, v]

for w1[L, M], w2[K, N, ...] and a weight [L K, M N, ...]. Either factor may be stored as a product itself:

    w1 = w1_a[L, r] w1_b[r, M]
    w2 = w2_a[K, r] w2_b[r, N ...]                                     the kernel's axes flattened or not
    w2[p, q, u, v] = sum_ij t2[i, j, u, v] w2_a[i, p] w2_b[j, q]       Tucker form

gamma = 1 where both factors are stored whole: alpha is ignored, whatever it is (trainers write huge or
infinite ones). Otherwise gamma = alpha / r, with r of w2 before that of w1, and 1 without alpha. `scale_of`
has the exceptions.
"""

from math import prod

from sdcomp.frontend.adapters.expressions import shaped
from sdcomp.frontend.adapters.factors import (
    check_kernel,
    factor,
    first_side,
    kernel_matrix,
    low_rank_product,
    tucker_product,
    with_scale,
)
from sdcomp.frontend.adapters.group import Group
from sdcomp.ir.graph import Node
from sdcomp.ir.ops import build
from sdcomp.ir.types import Shape

W1, W2 = "lokr_w1", "lokr_w2"
W1_A, W1_B = "lokr_w1_a", "lokr_w1_b"
W2_A, W2_B, T1, T2 = "lokr_w2_a", "lokr_w2_b", "lokr_t1", "lokr_t2"


def lokr_delta(group: Group, file: str, shape: Shape) -> Node:
    """gamma kron(w1, w2), an f32 expression of the weight's `shape` over weight nodes of the adapter `file`.

    A 1x1 convolution and the linear layer it equals take the same factors. Raises AdapterError where factors
    are missing, contradict each other or the weight, or the scale is not finite.
    """
    _check_complete(group)
    first, second = _first(group, file), _second(group, file, shape[2:])
    sides = tuple(i * j for i, j in zip(first.shape, second.shape, strict=True))
    area = prod(shape[2:])
    if sides != (shape[0], prod(shape[1:])) or second.shape[1] % area:
        found = f"{list(first.shape)} and {list(second.shape)} make {list(sides)}"
        raise group.error(f"the weight is {list(shape)}, but the factors {found}; it is for another model")
    if area > 1:
        second = shaped(second, (second.shape[0], second.shape[1] // area, *shape[2:]))
    return with_scale(group, lokr_rank(group), shaped(build("kron", first, second), shape))


def lokr_rank(group: Group) -> int | None:
    """The rank that alpha is divided by, of w2 before that of w1; None where both factors are whole."""
    ranks = (first_side(group, suffix) for suffix in (W2_B, W1_B))
    return next((rank for rank in ranks if rank is not None), None)


def lokr_form(group: Group) -> str:
    """How the two factors are stored: `w1 whole, w2 of rank 4 in Tucker form`."""
    first, second = first_side(group, W1_B), first_side(group, W2_B)
    tucker = " in Tucker form" if T2 in group.factors else ""
    return ", ".join(
        f"{name} whole" if rank is None else f"{name} of rank {rank}{tucker if name == 'w2' else ''}"
        for name, rank in (("w1", first), ("w2", second))
    )


def lokr_input_width(group: Group) -> int | None:
    """Number of inputs of the adapted linear layer; None where the factors do not tell."""
    first = group.factors.get(W1) or group.factors.get(W1_B)
    second = group.factors.get(W2) or group.factors.get(W2_B)
    if first is None or second is None or len(first.shape) < 2 or len(second.shape) < 2:
        return None
    return first.shape[1] * prod(second.shape[1:])


def is_whole(group: Group) -> bool:
    """Whether neither factor is stored as a product, so that alpha says nothing."""
    return W1 in group.factors and W2 in group.factors


def _check_complete(group: Group) -> None:
    if T1 in group.factors:
        raise group.error("no known trainer writes this tensor", T1)
    for whole, parts in ((W1, (W1_A, W1_B)), (W2, (W2_A, W2_B))):
        present = [suffix for suffix in (whole, *parts) if suffix in group.factors]
        if present not in ([whole], list(parts)):
            found = ", ".join(present) or "neither"
            raise group.error(
                f"needs either {whole} or {parts[0]} and {parts[1]}, has {found}; the file is incomplete"
            )
    if T2 in group.factors and W2 in group.factors:
        raise group.error(f"stands beside {W2}, which is whole already", T2)


def _first(group: Group, file: str) -> Node:
    if W1 in group.factors:
        return factor(group, file, W1, (2,))
    halves = (factor(group, file, suffix, (2,)) for suffix in (W1_A, W1_B))
    return low_rank_product(group, (W1_A, W1_B), *halves)


def _second(group: Group, file: str, kernel: Shape) -> Node:
    """w2 as a matrix [K, N ...]."""
    if T2 in group.factors:
        core, outer, inner = (
            factor(group, file, suffix, (axes,)) for suffix, axes in ((T2, 4), (W2_A, 2), (W2_B, 2))
        )
        check_kernel(group, T2, core, kernel)
        return tucker_product(group, (T2, W2_A, W2_B), (core, outer, inner))
    if W2 in group.factors:
        return kernel_matrix(group, file, W2, kernel)
    last = kernel_matrix(group, file, W2_B, kernel)
    return low_rank_product(group, (W2_A, W2_B), factor(group, file, W2_A, (2,)), last)
