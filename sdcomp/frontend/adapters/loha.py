"""LoHa (Hyeon-Woo et al. 2022, FedPara; lycoris/modules/loha.py): an element-wise product of two low ranks.

    delta = gamma (w1_a w1_b) * (w2_a w2_b)        w_a[out, r], w_b[r, in ...], the kernel's axes flattened

In Tucker form each half is w[p, q, u, v] = sum_ij t[i, j, u, v] w_a[i, p] w_b[j, q].
gamma = alpha / r with r = w1_b.shape[0] in both forms, and 1 without alpha (`scale_of` has the exceptions).
"""

from math import prod

from sdcomp.frontend.adapters.factors import (
    check_complete,
    check_kernel,
    factor,
    first_side,
    fitted,
    kernel_matrix,
    low_rank_product,
    tucker_product,
    with_scale,
)
from sdcomp.frontend.adapters.group import Group
from sdcomp.ir.graph import Node
from sdcomp.ir.ops import build
from sdcomp.ir.types import Shape

HALVES = (("hada_t1", "hada_w1_a", "hada_w1_b"), ("hada_t2", "hada_w2_a", "hada_w2_b"))
RANK_OF = "hada_w1_b"


def loha_delta(group: Group, file: str, shape: Shape) -> Node:
    """gamma (w1_a w1_b) * (w2_a w2_b), an f32 expression of the weight's `shape`.

    Raises AdapterError where factors are missing, contradict each other or the weight, or the scale is not
    finite.
    """
    check_complete(group, tuple(suffix for _, *pair in HALVES for suffix in pair))
    cores = [core for core, *_ in HALVES if core in group.factors]
    if len(cores) == 1:
        raise group.error(f"has {cores[0]} but not both of hada_t1 and hada_t2; the file is incomplete")
    first, second = (fitted(group, _half(group, file, names, shape[2:]), shape) for names in HALVES)
    return with_scale(group, loha_rank(group), build("mul", first, second))


def loha_rank(group: Group) -> int | None:
    """The rank that alpha is divided by; None where `hada_w1_b` is missing or has no sides."""
    return first_side(group, RANK_OF)


def loha_input_width(group: Group) -> int | None:
    """Number of inputs of the adapted linear layer; None where the factors do not tell."""
    last = group.factors.get(RANK_OF)
    return prod(last.shape[1:]) if last is not None and len(last.shape) > 1 else None


def _half(group: Group, file: str, names: tuple[str, str, str], kernel: Shape) -> Node:
    core, outer, inner = names
    if core not in group.factors:
        last = kernel_matrix(group, file, inner, kernel)
        return low_rank_product(group, (outer, inner), factor(group, file, outer, (2,)), last)
    nodes = factor(group, file, core, (4,)), *(factor(group, file, name, (2,)) for name in (outer, inner))
    check_kernel(group, core, nodes[0], kernel)
    return tucker_product(group, names, (nodes[0], nodes[1], nodes[2]))
