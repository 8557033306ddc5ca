"""diag-OFT (Qiu et al. 2023; sd-scripts networks/oft.py, lycoris/modules/diag_oft.py): outputs are rotated.

    Q = B - B^T, for `oft_blocks` B[n, s, s] with n s outputs
    Q = Q min(1, c / (|Q| + 1e-8)) if c = alpha outputs > 0, |Q| over all blocks
    R = (I + Q) (I - Q)^-1, R_m = m (R - I) + I
    W'[k, p, ...] = rescale sum_n R_m[k, n, p] W[k, n, ...]

alpha is a constraint, not a scale. `rescale` [outputs, 1, ...] is optional. Files from before October 2023
have R itself, in `oft_diag` (webui's network_oft.py).

BOFT (Liu et al. 2023; lycoris/modules/boft.py): `oft_blocks` [stages, n, b, b] has one rotation per stage of
a butterfly. Stage i views the outputs as [..., 2, 2^i b / 2], swaps the last two of these axes, multiplies
blocks of b by R_m[i], and swaps back:

    V[k, p, ...] = sum_n R_m[i, k, p, n] V[k, n, ...]
"""

from sdcomp.errors import AdapterError
from sdcomp.frontend.adapters.expressions import blended, number, rows, scaled, shaped, turned
from sdcomp.frontend.adapters.factors import factor
from sdcomp.frontend.adapters.group import Group
from sdcomp.frontend.adapters.suffixes import OFT_BLOCKS, RESCALE
from sdcomp.ir.graph import Node
from sdcomp.ir.ops import build

DIAGONAL = "oft_diag"
EPSILON = 1e-8

_ANY_RANK = (1, 2, 4)


def diag_oft_weight(group: Group, file: str, weight: Node, strength: float) -> Node:
    """W' of diag-OFT. Raises AdapterError where blocks are missing or do not make up the weight's outputs."""
    outputs = weight.shape[0]
    blocks, side, rotations = _diag_rotations(group, file, outputs)
    columns = weight.type.elements // outputs
    split = shaped(weight, (blocks, side, columns))
    rotated = build("block_matmul", turned(rotations), turned(split))
    return _rescaled(group, file, shaped(blended(strength, split, rotated), weight.shape))


def boft_weight(group: Group, file: str, weight: Node, strength: float) -> Node:
    """W' of BOFT. Raises AdapterError where blocks do not make up the weight's outputs."""
    _check_scalars(group)
    blocks = factor(group, file, OFT_BLOCKS, (4,))
    stages, count, side, _ = blocks.shape
    outputs = weight.shape[0]
    is_butterfly = side % 2 == 0 and stages < 32 and outputs % (2**stages * (side // 2)) == 0
    if blocks.shape[3] != side or count * side != outputs or not is_butterfly:
        raise _misfit(group, OFT_BLOCKS, outputs)
    square = shaped(blocks, (stages * count, side, side))
    rotations = build("cayley", _constrained(group, _skew(square), outputs))
    value = rows(weight)
    for stage in range(stages):
        rotation = build("slice", rotations, axis=0, start=stage * count, stop=(stage + 1) * count)
        value = _butterfly(value, rotation, 2**stage * (side // 2), strength)
    return _rescaled(group, file, shaped(value, weight.shape))


def _diag_rotations(group: Group, file: str, outputs: int) -> tuple[int, int, Node]:
    """Number of blocks, their side, and R."""
    _check_scalars(group)
    suffix = next((name for name in (OFT_BLOCKS, DIAGONAL) if name in group.factors), None)
    if suffix is None:
        raise group.error(f"has {', '.join(group.factors)} but no {OFT_BLOCKS}; the file is incomplete")
    blocks = factor(group, file, suffix, (3,))
    count, side, _ = blocks.shape
    if blocks.shape[2] != side or count * side != outputs:
        raise _misfit(group, suffix, outputs)
    if suffix == DIAGONAL:
        return count, side, blocks
    return count, side, build("cayley", _constrained(group, _skew(blocks), outputs))


def _butterfly(value: Node, rotation: Node, group_size: int, strength: float) -> Node:
    """One stage, on a matrix [outputs, columns]."""
    outputs, columns = value.shape
    count, side, _ = rotation.shape
    apart = shaped(value, (outputs // (2 * group_size), 2, group_size, columns))
    paired = shaped(build("transpose", apart, permutation=(0, 2, 1, 3)), (count, side, columns))
    mixed = blended(strength, paired, build("block_matmul", rotation, turned(paired)))
    swapped = shaped(mixed, (outputs // (2 * group_size), group_size, 2, columns))
    return shaped(build("transpose", swapped, permutation=(0, 2, 1, 3)), value.shape)


def _skew(blocks: Node) -> Node:
    return build("add", blocks, scaled(-1, turned(blocks)))


def _constrained(group: Group, skew: Node, outputs: int) -> Node:
    constraint = group.scalars.get("alpha", 0.0) * outputs
    if constraint == 0:
        return skew
    norm = build("norm", skew, axes=(0, 1, 2))
    ratio = build("div", number(constraint), build("add", norm, number(EPSILON)))
    return build("mul", skew, build("minimum", number(1.0), ratio))


def _rescaled(group: Group, file: str, weight: Node) -> Node:
    if RESCALE not in group.factors:
        return weight
    lengths = factor(group, file, RESCALE, _ANY_RANK)
    if lengths.type.elements != weight.shape[0]:
        raise group.error(f"is {list(lengths.shape)}, but the weight is {list(weight.shape)}", RESCALE)
    return build("mul", weight, shaped(lengths, (weight.shape[0], *(1 for _ in weight.shape[1:]))))


def _check_scalars(group: Group) -> None:
    alpha = group.scalars.get("alpha", 0.0)
    if not 0 <= alpha < float("inf"):
        raise group.error(f"is {alpha:g}; a constraint must be finite and not negative", "alpha")


def _misfit(group: Group, suffix: str, outputs: int) -> AdapterError:
    found = list(group.factors[suffix].shape)
    return group.error(f"blocks {found} do not make up the {outputs} outputs of the weight", suffix)
