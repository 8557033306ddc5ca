"""LoKr (Yeh et al. 2023; lycoris/modules/lokr.py): a weight's difference is a Kronecker product.

    delta[a K + c, b N + d, u, v] = gamma  w1[a, b]  w2[c, d, u, v]

for w1[L, M], w2[K, N, ...] and a weight [L K, M N, ...]. Either factor may be stored as a product itself:

    w1 = w1_a[L, r] w1_b[r, M]
    w2 = w2_a[K, r] w2_b[r, N ...]                                     the kernel's axes flattened or not
    w2[p, q, u, v] = sum_ij t2[i, j, u, v] w2_a[i, p] w2_b[j, q]       Tucker form

gamma = 1 where both factors are stored whole: alpha is ignored, whatever it is (trainers write huge or
infinite ones). Otherwise gamma = alpha / r, with r of w2 before that of w1, and 1 without alpha. A tensor
`scale` replaces this rule (webui); a tensor `scalar` multiplies.
"""

from math import isfinite, prod

from sdcomp.frontend.adapters.expressions import rows, scaled, shaped, transposed
from sdcomp.frontend.adapters.reader import Group
from sdcomp.ir.graph import Node
from sdcomp.ir.ops import build
from sdcomp.ir.types import Shape

W1, W2 = "lokr_w1", "lokr_w2"
W1_A, W1_B = "lokr_w1_a", "lokr_w1_b"
W2_A, W2_B, T2 = "lokr_w2_a", "lokr_w2_b", "lokr_t2"
REFUSED = {
    "lokr_t1": "no known trainer writes this tensor",
    "dora_scale": "DoRA is not supported by this version",
}


def lokr_delta(group: Group, file: str, shape: Shape) -> Node:
    """gamma kron(w1, w2), an f32 expression of the weight's `shape` over weight nodes of the adapter `file`.

    A 1x1 convolution and the linear layer it equals take the same factors. Raises AdapterError where factors
    are missing, contradict each other or the weight, or the scale is not finite.
    """
    _check_complete(group)
    gamma = lokr_scale(group)
    first, second = _first(group, file), _second(group, file, shape[2:])
    sides = tuple(i * j for i, j in zip(first.shape, second.shape, strict=True))
    area = prod(shape[2:])
    if sides != (shape[0], prod(shape[1:])) or second.shape[1] % area:
        found = f"{list(first.shape)} and {list(second.shape)} make {list(sides)}"
        raise group.error(f"the weight is {list(shape)}, but the factors {found}; it is for another model")
    if area > 1:
        second = shaped(second, (second.shape[0], second.shape[1] // area, *shape[2:]))
    return scaled(gamma, shaped(build("kron", first, second), shape))


def lokr_scale(group: Group) -> float:
    """gamma, as this file's head defines it. Raises AdapterError where it is not finite."""
    rank = next((group.factors[suffix].shape[0] for suffix in (W2_B, W1_B) if suffix in group.factors), None)
    gamma = group.scalars.get("scalar", 1.0)
    if "scale" in group.scalars:
        gamma *= group.scalars["scale"]
    elif rank is not None and "alpha" in group.scalars:
        gamma *= group.scalars["alpha"] / rank
    if not isfinite(gamma):
        raise group.error(
            f"its scale is {gamma}: alpha, scale and scalar must be finite here, not {dict(group.scalars)}"
        )
    return gamma


def lokr_input_width(group: Group) -> int | None:
    """Number of inputs of the adapted linear layer; None where the factors do not tell."""
    first = group.factors.get(W1) or group.factors.get(W1_B)
    second = group.factors.get(W2) or group.factors.get(W2_B)
    if first is None or second is None or len(first.shape) < 2 or len(second.shape) < 2:
        return None
    return first.shape[1] * prod(second.shape[1:])


def _check_complete(group: Group) -> None:
    for suffix, reason in REFUSED.items():
        if suffix in group.factors:
            raise group.error(reason, suffix)
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
        return _factor(group, file, W1, (2,))
    return _product(group, W1_B, _factor(group, file, W1_A, (2,)), _factor(group, file, W1_B, (2,)))


def _second(group: Group, file: str, kernel: Shape) -> Node:
    """w2 as a matrix [K, N ...]."""
    if T2 in group.factors:
        return _tucker(group, file, kernel)
    if W2 in group.factors:
        return _matrix(group, W2, _factor(group, file, W2, (2, 4)), kernel)
    last = _matrix(group, W2_B, _factor(group, file, W2_B, (2, 4)), kernel)
    return _product(group, W2_B, _factor(group, file, W2_A, (2,)), last)


def _tucker(group: Group, file: str, kernel: Shape) -> Node:
    core, outer, inner = (
        _factor(group, file, suffix, (rank,)) for suffix, rank in ((T2, 4), (W2_A, 2), (W2_B, 2))
    )
    if core.shape[:2] != (outer.shape[0], inner.shape[0]):
        ranks = f"{list(outer.shape)} and {list(inner.shape)}"
        raise group.error(f"{list(core.shape)} does not fit {W2_A} and {W2_B}, which are {ranks}", T2)
    _check_kernel(group, T2, core, kernel)
    by_place = build("transpose", core, permutation=(2, 3, 0, 1))  # [u, v, i, j]
    inputs = build("matmul", by_place, transposed(inner))  # [u, v, i, q]
    swapped = build("transpose", inputs, permutation=(0, 1, 3, 2))  # [u, v, q, i]
    both = build("matmul", swapped, transposed(outer))  # [u, v, q, p]
    return rows(build("transpose", both, permutation=(3, 2, 0, 1)))


def _product(group: Group, suffix: str, a: Node, b: Node) -> Node:
    if a.shape[1] != b.shape[0]:
        raise group.error(
            f"its rank {b.shape[0]} is not that of its other half, which is {list(a.shape)}", suffix
        )
    return build("matmul", a, transposed(b))


def _matrix(group: Group, suffix: str, factor: Node, kernel: Shape) -> Node:
    if len(factor.shape) == 2:
        return factor
    _check_kernel(group, suffix, factor, kernel)
    return rows(factor)


def _check_kernel(group: Group, suffix: str, factor: Node, kernel: Shape) -> None:
    if factor.shape[2:] != (kernel or (1, 1)):
        raise group.error(
            f"{list(factor.shape)} is for another kernel than the weight's {list(kernel)}", suffix
        )


def _factor(group: Group, file: str, suffix: str, ranks: tuple[int, ...]) -> Node:
    found = group.factors[suffix]
    if len(found.shape) not in ranks:
        expected = " or ".join(map(str, ranks))
        raise group.error(f"must have {expected} axes, its shape is {list(found.shape)}", suffix)
    return build("weight", name=group.key(suffix), file=file, shape=found.shape, dtype=found.dtype.value)
