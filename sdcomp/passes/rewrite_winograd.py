"""Rewrites the convolutions that `select_conv` chooses into Winograd stages.

    conv2d(x, w){padding = p} = winograd_output(winograd_multiply(
        winograd_input(pad(x){p'}){m}, winograd_filter(w){m})){m, shape}

p' is p with more zeros at the bottom and right, up to whole tiles. Convolutions still have their padding
here. `fold_upsample` has taken those of upsampled maps.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from sdcomp.codegen.costs import Costs
from sdcomp.codegen.targets import DEFAULT_TARGET
from sdcomp.ir.graph import Module, Node
from sdcomp.ir.ops import build
from sdcomp.passes.base import Pass, rewrite_module
from sdcomp.passes.select_conv import select_conv
from sdcomp.winograd.matrices import transform


@dataclass(frozen=True)
class RewriteWinograd(Pass):
    """`costs` are those of the target's kernels."""

    costs: Costs = field(default_factory=lambda: Costs.parse(DEFAULT_TARGET))
    name: ClassVar[str] = "rewrite_winograd"

    def apply(self, module: Module) -> Module:
        return rewrite_module(module, self._rewrite)

    def _rewrite(self, node: Node) -> Node | None:
        if node.op != "conv2d":
            return None
        form = select_conv(node, self.costs, scale=1).form
        return None if form is None else winograd_stages(node, *form)


def winograd_stages(node: Node, m: int, scale: int = 1) -> Node:
    """The four stages that compute a 3x3 convolution of stride 1; `scale` above 1 takes the place of the
    upsampling that it reads.
    """
    x, weight = node.operands
    if scale > 1:
        (x,) = x.operands
    top, left, bottom, right = node.integers("padding")
    step = transform(m, scale).step
    _, height, width, _ = node.shape
    below, beside = -(height // scale) % step, -(width // scale) % step
    form = {"m": m, "scale": scale}
    padded = build("pad", x, padding=(top, left, bottom + below, right + beside))
    tiles = build("winograd_input", padded, **form)
    products = build("winograd_multiply", tiles, build("winograd_filter", weight, **form))
    return build("winograd_output", products, **form, shape=node.shape)
