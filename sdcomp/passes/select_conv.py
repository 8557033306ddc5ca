"""select_conv: the algorithm of each convolution, by a cost formula, with its reason.

Costs are in multiply-accumulates of the micro-kernel. A Winograd convolution F(m x m, 3 x 3) makes n^2 = (m
+ 2)^2 products per tile of m x m pixels where the direct one makes 9 m^2, and pays for three transforms:

    cost = n^2 (T C O + a T C B + f C O b + y T O)

T tiles, C input and O output channels, b blocks of tiles (each transforms the filters anew), B blocks of
panels (each transforms the input anew); a, f and y are what one element of a transform costs, loads and
stores included.
"""

from dataclasses import dataclass

from sdcomp.ir.graph import Node
from sdcomp.winograd.matrices import POINTS, TAPS, tile_size

INPUT_COST, FILTER_COST, OUTPUT_COST = 4.0, 4.0, 3.0
"""a, f and y: measured on AVX-512 and rounded; the decision is not sensitive to them."""

TILES_PER_BLOCK = 64
PANEL_BLOCKS = 2
LEAST_CHANNELS = 32
"""Below, a convolution is bound by its transforms and by memory."""


@dataclass(frozen=True)
class Choice:
    """`m` of F(m x m, 3 x 3), or None for a direct convolution; `reason` is for people."""

    m: int | None
    reason: str


def select_conv(node: Node, lanes: int) -> Choice:
    """The algorithm for a conv2d node; `lanes` must divide the channels for a vectorised input transform."""
    weight = node.operands[1].shape
    if weight[2:] != (TAPS, TAPS) or node.integer("stride") != 1:
        return Choice(None, f"direct: {weight[2]}x{weight[3]} with stride {node.integer('stride')}")
    if min(weight[:2]) < LEAST_CHANNELS or weight[1] % lanes:
        return Choice(None, f"direct: {weight[1]} to {weight[0]} channels")
    direct = float(node.type.elements * weight[1] * TAPS * TAPS)
    costs = {m: _winograd_cost(node, m) for m in POINTS}
    m = min(costs, key=lambda candidate: costs[candidate])
    ratio = costs[m] / direct
    if ratio >= 1:
        return Choice(None, f"direct: F({m},3) would cost {ratio:.2f} of it")
    return Choice(m, f"F({m},3): {ratio:.2f} of the direct cost")


def _winograd_cost(node: Node, m: int) -> float:
    batches, height, width, _ = node.shape
    outputs, inputs = node.operands[1].shape[:2]
    tiles = batches * -(-height // m) * -(-width // m)
    blocks = -(-tiles // TILES_PER_BLOCK)
    transforms = (
        INPUT_COST * tiles * inputs * PANEL_BLOCKS
        + FILTER_COST * inputs * outputs * blocks
        + OUTPUT_COST * tiles * outputs
    )
    return tile_size(m) ** 2 * (tiles * inputs * outputs + transforms)
