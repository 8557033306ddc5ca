"""LoRA (Hu et al. 2021; sd-scripts networks/lora.py) and LoCon (lycoris/modules/locon.py).

    delta = gamma up[out, r] down[r, in ...]                               the kernel's axes flattened
    delta[o, i, u, v] = gamma sum_pq mid[p, q, u, v] up[o, p] down[q, i]   Tucker form, `lora_mid`

gamma = alpha / r with r = down.shape[0], and 1 without alpha (`scale_of` has the exceptions). DyLoRA
(Valipour et al. 2022) saves the same tensors. PEFT calls up B and down A; for an embedding table [V, width]
it saves `lora_embedding_B` [width, r] and `lora_embedding_A` [r, V], and

    delta = gamma (B A)^T

PEFT's `lora_bias` adds gamma lora_B.bias to the layer's bias.
"""

from math import prod

from sdcomp.frontend.adapters.expressions import product, transposed
from sdcomp.frontend.adapters.factors import (
    check_complete,
    check_kernel,
    factor,
    first_side,
    fitted,
    kernel_matrix,
    low_rank_product,
    pointwise_matrix,
    tucker_product,
    with_scale,
)
from sdcomp.frontend.adapters.group import Group
from sdcomp.frontend.adapters.suffixes import DOWN, EMBEDDING_DOWN, EMBEDDING_UP, MID, UP, UP_BIAS
from sdcomp.ir.graph import Node
from sdcomp.ir.types import Shape


def lora_delta(group: Group, file: str, shape: Shape) -> Node:
    """gamma up down, an f32 expression of the weight's `shape` over weight nodes of the adapter `file`.

    A 1x1 convolution and the linear layer it equals take the same factors. Raises AdapterError where factors
    are missing, contradict each other or the weight, or the scale is not finite.
    """
    if is_embedding(group):
        delta = _embedding(group, file)
    else:
        check_complete(group, (UP, DOWN))
        delta = _tucker(group, file, shape[2:]) if MID in group.factors else _plain(group, file, shape[2:])
    return with_scale(group, lora_rank(group), fitted(group, delta, shape))


def lora_bias(group: Group, file: str) -> Node:
    """gamma lora_B.bias, for a layer's bias."""
    return with_scale(group, lora_rank(group), factor(group, file, UP_BIAS, (1,)))


def is_embedding(group: Group) -> bool:
    """Whether the weight is a table of embeddings, whose factors PEFT stores turned."""
    return EMBEDDING_UP in group.factors or EMBEDDING_DOWN in group.factors


def lora_rank(group: Group) -> int | None:
    """The rank that alpha is divided by; None where `down` is missing or has no sides."""
    return first_side(group, EMBEDDING_DOWN if is_embedding(group) else DOWN)


def lora_input_width(group: Group) -> int | None:
    """Number of inputs of the adapted linear layer; None where the factors do not tell."""
    down = group.factors.get(DOWN)
    return prod(down.shape[1:]) if down is not None and len(down.shape) > 1 else None


def _plain(group: Group, file: str, kernel: Shape) -> Node:
    up, down = pointwise_matrix(group, file, UP), kernel_matrix(group, file, DOWN, kernel)
    return low_rank_product(group, (UP, DOWN), up, down)


def _tucker(group: Group, file: str, kernel: Shape) -> Node:
    up, down = (pointwise_matrix(group, file, suffix) for suffix in (UP, DOWN))
    mid = factor(group, file, MID, (4,))
    check_kernel(group, MID, mid, kernel)
    return tucker_product(group, (MID, UP, DOWN), (mid, transposed(up), down))


def _embedding(group: Group, file: str) -> Node:
    check_complete(group, (EMBEDDING_UP, EMBEDDING_DOWN))
    up, down = (factor(group, file, suffix, (2,)) for suffix in (EMBEDDING_UP, EMBEDDING_DOWN))
    if up.shape[1] != down.shape[0]:
        raise group.error(
            f"its rank {down.shape[0]} is not that of {EMBEDDING_UP}, {up.shape[1]}", EMBEDDING_DOWN
        )
    return product(transposed(down), transposed(up))
