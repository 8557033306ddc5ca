"""Rewrites the convolutions that `select_conv` chooses into Winograd stages.

    conv2d(x, w){padding = p} = winograd_output(winograd_multiply(
        winograd_input(pad(x){p'}){m}, winograd_filter(w){m})){m, shape}

p' is p with more zeros at the bottom and right, up to whole tiles. Convolutions still have their padding
here.
"""

from dataclasses import dataclass
from typing import ClassVar

from sdcomp.ir.graph import Module, Node
from sdcomp.ir.ops import build
from sdcomp.passes.base import Pass, rewrite_module
from sdcomp.passes.select_conv import select_conv


@dataclass(frozen=True)
class RewriteWinograd(Pass):
    """`lanes` is the vector width of the target: channels of rewritten convolutions are multiples of it."""

    lanes: int = 1
    name: ClassVar[str] = "rewrite_winograd"

    def apply(self, module: Module) -> Module:
        return rewrite_module(module, self._rewrite)

    def _rewrite(self, node: Node) -> Node | None:
        if node.op != "conv2d":
            return None
        m = select_conv(node, self.lanes).m
        return None if m is None else winograd_stages(node, m)


def winograd_stages(node: Node, m: int) -> Node:
    """The four stages that compute a 3x3 convolution of stride 1."""
    x, weight = node.operands
    top, left, bottom, right = node.integers("padding")
    _, height, width, _ = node.shape
    padded = build("pad", x, padding=(top, left, bottom + -height % m, right + -width % m))
    tiles = build("winograd_input", padded, m=m)
    products = build("winograd_multiply", tiles, build("winograd_filter", weight, m=m))
    return build("winograd_output", products, m=m, shape=node.shape)
