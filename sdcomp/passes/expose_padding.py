"""Turns the zero padding of convolutions into `pad` nodes.

Canonical form afterwards: every conv2d has padding 0, and no pad reads a pad. The producer of the padded map
can then write it with its border, and the convolution's inner loop never tests for one.
"""

from dataclasses import dataclass
from typing import ClassVar

from sdcomp.ir.graph import Module, Node
from sdcomp.ir.ops import build
from sdcomp.passes.base import Pass, rewrite_module

NONE = (0, 0, 0, 0)


@dataclass(frozen=True)
class ExposePadding(Pass):
    """Rewrites padded convolutions and nested pads."""

    name: ClassVar[str] = "expose_padding"

    def apply(self, module: Module) -> Module:
        return rewrite_module(module, _expose)


def _expose(node: Node) -> Node | None:
    if node.op == "pad":
        return _pad(node.operands[0], node.integers("padding"))
    # conv2d(x, w){padding = p} = conv2d(pad(x){p}, w){padding = 0}
    if node.op == "conv2d" and node.integers("padding") != NONE:
        x, weight = node.operands
        padded = _pad(x, node.integers("padding"))
        return build("conv2d", padded, weight, stride=node.integer("stride"), padding=NONE)
    return None


def _pad(x: Node, padding: tuple[int, ...]) -> Node:
    # pad(pad(x){p}){q} = pad(x){p + q}
    if x.op == "pad":
        inner = x.integers("padding")
        return build("pad", x.operands[0], padding=tuple(p + q for p, q in zip(inner, padding, strict=True)))
    return build("pad", x, padding=padding)
