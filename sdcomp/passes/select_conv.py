"""select_conv: the algorithm of each convolution, by a cost formula, with its reason.

Costs are in multiply-accumulates of the micro-kernel. A Winograd convolution F(m x m, 3 x 3) makes n^2
products per tile of m x m pixels where the direct one makes 9 m^2, and pays for three transforms:

    cost = n^2 (T C O + a T C B + f C O b + y T O)

T tiles, C input and O output channels, b blocks of tiles (each transforms the filters anew), B blocks of
panels (each transforms the input anew); a, f and y are what one element of a transform costs, loads and
stores included.
"""

from dataclasses import dataclass

from sdcomp.ir.graph import Node
from sdcomp.winograd.matrices import POINTS, TAPS, transform

INPUT_COST, FILTER_COST, OUTPUT_COST = 4.0, 4.0, 3.0
"""a, f and y: measured on AVX-512 and rounded; the decision is not sensitive to them."""

TILES_PER_BLOCK = 64
PANEL_BLOCKS = 2
LEAST_CHANNELS = 32
"""Below, a convolution is bound by its transforms and by memory."""


Form = tuple[int, int]
"""m and scale of F(m x m, 3 x 3): with scale 2 of an upsampled map, computed from the map itself."""


@dataclass(frozen=True)
class Choice:
    """`form` of a Winograd convolution, or None for a direct one; `reason` is for people."""

    form: Form | None
    reason: str


def select_conv(node: Node, lanes: int, scale: int = 1) -> Choice:
    """The algorithm for a conv2d node; `lanes` must divide the channels for a vectorised input transform.

    `scale` is the largest that a form may have: 1 leaves upsampled maps as they are.
    """
    weight = node.operands[1].shape
    if weight[2:] != (TAPS, TAPS) or node.integer("stride") != 1:
        return Choice(None, f"direct: {weight[2]}x{weight[3]} with stride {node.integer('stride')}")
    if min(weight[:2]) < LEAST_CHANNELS or weight[1] % lanes:
        return Choice(None, f"direct: {weight[1]} to {weight[0]} channels")
    direct = float(node.type.elements * weight[1] * TAPS * TAPS)
    costs = {form: _winograd_cost(node, form) for form in POINTS if form[1] in _scales(node)[:scale]}
    form = min(costs, key=lambda candidate: costs[candidate])
    ratio = costs[form] / direct
    if ratio >= 1:
        return Choice(None, f"direct: {_name(form)} would cost {ratio:.2f} of it")
    return Choice(form, f"{_name(form)}: {ratio:.2f} of the direct cost")


def _scales(node: Node) -> tuple[int, ...]:
    x = node.operands[0]
    upsampled = x.op == "upsample_nearest" and x.integer("scale") == 2
    return (1, 2) if upsampled and node.integers("padding") == (1, 1, 1, 1) else (1,)


def _name(form: Form) -> str:
    m, scale = form
    return f"F({m},3)" + f" of the map upsampled {scale} times" * (scale > 1)


def _winograd_cost(node: Node, form: Form) -> float:
    batches, height, width, _ = node.shape
    outputs, inputs = node.operands[1].shape[:2]
    m = form[0]
    tiles = batches * -(-height // m) * -(-width // m)
    blocks = -(-tiles // TILES_PER_BLOCK)
    transforms = (
        INPUT_COST * tiles * inputs * PANEL_BLOCKS
        + FILTER_COST * inputs * outputs * blocks
        + OUTPUT_COST * tiles * outputs
    )
    return transform(*form).planes * (tiles * inputs * outputs + transforms)
