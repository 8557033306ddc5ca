"""OFT and BOFT as PEFT stores them (peft/tuners/oft, peft/tuners/boft): inputs are rotated.

OFT: `oft_R.weight` q[n, s (s - 1) / 2], or [1, ...] shared by all blocks, is what stands above the diagonal
of skew-symmetric blocks Q; the inputs, with a kernel's axes flattened, are as many as n s.

    W'[o, k, i] = sum_j W[o, k, j] R[k, i, j]
    R = (I - Q) (I + Q)^-1, or with t = num_cayley_neumann_terms
    R = I + 2 Q + 2 Q^2 + ... + 2 Q^(t-2) + Q^(t-1), of the opposite sign, as PEFT has it
    with `coft` every block is at most as long as eps / sqrt(n) before

BOFT: `boft_R` A[stages, n, b, b], Q = (A - A^T) / 2, R as above. Stage i views the inputs as
[..., 2, 2^i, b / 2], swaps the first two of these axes, rotates blocks of b and swaps back. `boft_s` [out,
1], [1, out] for a convolution, multiplies rows.

PEFT knows no strength for either; here it blends: W + m (W' - W).
"""

from math import isqrt, sqrt

from sdcomp.errors import AdapterError
from sdcomp.frontend.adapters.expressions import along, blended, number, rows, scaled, shaped, turned
from sdcomp.frontend.adapters.factors import check_complete, factor
from sdcomp.frontend.adapters.group import Group
from sdcomp.ir.graph import Node
from sdcomp.ir.ops import build

OFT_R, BOFT_R, BOFT_S = "oft_R.weight", "boft_R", "boft_s"


def peft_oft_weight(group: Group, file: str, weight: Node, strength: float) -> Node:
    """W + m (W' - W) of OFT. Raises AdapterError for blocks that do not make up the weight's inputs."""
    above = factor(group, file, OFT_R, (2,))
    matrix = rows(weight)
    inputs = matrix.shape[1]
    side = (1 + isqrt(1 + 8 * above.shape[1])) // 2
    blocks = inputs // side
    is_triangle = side * (side - 1) == 2 * above.shape[1]
    if not is_triangle or blocks * side != inputs or above.shape[0] not in (1, blocks):
        raise _misfit(group, OFT_R, inputs)
    skew = _projected(group, build("skew", above))
    split = _by_block(matrix, blocks)
    rotated = _from_blocks(_rotated(split, skew, group.facts.neumann_terms))
    return shaped(blended(strength, matrix, rotated), weight.shape)


def peft_boft_weight(group: Group, file: str, weight: Node, strength: float) -> Node:
    """W + m (W' - W) of BOFT. Raises AdapterError for blocks that do not make up the weight's inputs."""
    check_complete(group, (BOFT_R, BOFT_S))
    blocks, lengths = factor(group, file, BOFT_R, (4,)), factor(group, file, BOFT_S, (2,))
    matrix = rows(weight)
    outputs, inputs = matrix.shape
    stages, count, side, _ = blocks.shape
    is_butterfly = stages == 1 or (side % 2 == 0 and stages < 32 and inputs % (2 ** (stages - 1) * side) == 0)
    if blocks.shape[3] != side or count * side != inputs or not is_butterfly:
        raise _misfit(group, BOFT_R, inputs)
    if lengths.type.elements != outputs:
        raise group.error(f"is {list(lengths.shape)}, but the weight is {list(weight.shape)}", BOFT_S)
    square = shaped(blocks, (stages * count, side, side))
    opposite = build("add", scaled(0.5, turned(square)), scaled(-0.5, square))
    rotations, value = build("cayley", opposite), matrix
    for stage in range(stages):
        rotation = build("slice", rotations, axis=0, start=stage * count, stop=(stage + 1) * count)
        value = _butterfly(value, rotation, 2**stage)
    return shaped(blended(strength, matrix, build("mul", value, along(lengths, 0, 2))), weight.shape)


def _projected(group: Group, skew: Node) -> Node:
    """coft: no block longer than eps / sqrt(blocks)."""
    if group.facts.coft_eps is None:
        return skew
    longest = number(group.facts.coft_eps / sqrt(skew.shape[0]))
    ratio = build("div", longest, build("norm", skew, axes=(1, 2)))
    return build("mul", skew, build("minimum", number(1.0), ratio))


def _rotated(split: Node, skew: Node, terms: int) -> Node:
    """Rows [k, o, j] times R^T; powers of Q are applied, never formed."""
    if terms == 0:
        return build("block_matmul", split, build("cayley", scaled(-1, skew)))
    coefficients = _neumann(terms)
    total = power = split
    for coefficient in coefficients[1:]:
        power = build("block_matmul", power, skew)
        total = build("add", total, power if coefficient == 1 else scaled(coefficient, power))
    return total


def _neumann(terms: int) -> list[float]:
    """PEFT's coefficients: from three terms on the last power has 1, and there are at least four."""
    if terms < 3:
        return [1.0, 2.0][:terms]
    highest = max(terms - 1, 3)
    return [1.0, *[2.0] * (highest - 1), 1.0]


def _butterfly(value: Node, rotation: Node, parts: int) -> Node:
    """One stage, on a matrix [outputs, inputs]. A single block side may be odd: stage 0 swaps nothing."""
    count, side, _ = rotation.shape
    if parts == 1:
        return _from_blocks(build("block_matmul", _by_block(value, count), rotation))
    outputs = value.shape[0]
    apart = shaped(value, (outputs, count // parts, 2, parts, side // 2))
    paired = shaped(build("transpose", apart, permutation=(0, 1, 3, 2, 4)), value.shape)
    mixed = _from_blocks(build("block_matmul", _by_block(paired, count), rotation))
    swapped = shaped(mixed, (outputs, count // parts, parts, 2, side // 2))
    return shaped(build("transpose", swapped, permutation=(0, 1, 3, 2, 4)), value.shape)


def _by_block(matrix: Node, blocks: int) -> Node:
    """[o, k j] as [k, o, j]"""
    outputs, inputs = matrix.shape
    return build("transpose", shaped(matrix, (outputs, blocks, inputs // blocks)), permutation=(1, 0, 2))


def _from_blocks(split: Node) -> Node:
    """[k, o, j] as [o, k j]"""
    blocks, outputs, side = split.shape
    return shaped(build("transpose", split, permutation=(1, 0, 2)), (outputs, blocks * side))


def _misfit(group: Group, suffix: str, inputs: int) -> AdapterError:
    found = list(group.factors[suffix].shape)
    return group.error(f"blocks {found} do not make up the {inputs} inputs of the weight", suffix)
