"""Folds nearest-neighbour upsampling into the 3x3 convolution behind it.

    conv2d(upsample_nearest(x){2}, w){padding = 1} = winograd_output(winograd_multiply(
        winograd_input(pad(x){p}){m, 2}, winograd_filter(w){m, 2})){m, 2, shape}

p is 1, and more at the bottom and right, up to whole tiles. The upsampled map, four times as large as x,
never exists, and windows of it hold so few different pixels that fewer products are enough: the identity is
in `winograd/matrices.py`. Where `select_conv` finds it cheapest.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from sdcomp.codegen.costs import Costs
from sdcomp.codegen.targets import DEFAULT_TARGET
from sdcomp.ir.graph import Module, Node
from sdcomp.passes.base import Pass, rewrite_module
from sdcomp.passes.rewrite_winograd import winograd_stages
from sdcomp.passes.select_conv import select_conv


@dataclass(frozen=True)
class FoldUpsample(Pass):
    """Rewrites convolutions of upsampled maps; `costs` are those of the target's kernels."""

    costs: Costs = field(default_factory=lambda: Costs.parse(DEFAULT_TARGET))
    name: ClassVar[str] = "fold_upsample"

    def apply(self, module: Module) -> Module:
        return rewrite_module(module, self._fold)

    def _fold(self, node: Node) -> Node | None:
        if node.op != "conv2d" or node.operands[0].op != "upsample_nearest":
            return None
        form = select_conv(node, self.costs).form
        if form is None or form[1] == 1:
            return None
        return winograd_stages(node, *form)
