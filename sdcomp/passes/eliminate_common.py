"""Makes nodes that compute the same thing the same node, over all graphs of a module.

Canonical form afterwards: no two nodes of a module have the same operation, operands and attributes. So a
weight that several sizes of one network read is one node, and rules may compare operands by identity.
"""

from dataclasses import dataclass
from typing import ClassVar

from sdcomp.ir.graph import Module, Node
from sdcomp.ir.rewrite import rebuild
from sdcomp.passes.base import Pass, rewrite_module


@dataclass(frozen=True)
class EliminateCommon(Pass):
    """Common subexpression elimination by structure."""

    name: ClassVar[str] = "eliminate_common"

    def apply(self, module: Module) -> Module:
        return rewrite_module(module, Interner().intern)


class Interner:
    """Answers nodes of equal structure with the first of them."""

    def __init__(self) -> None:
        self._first: dict[tuple[object, ...], Node] = {}
        self._known: dict[Node, Node] = {}

    def intern(self, node: Node) -> Node:
        """The one node of this structure; operands that are not interned yet are interned too."""
        if node not in self._known:
            interned = rebuild(node, tuple(self.intern(operand) for operand in node.operands))
            first = self._first.setdefault(_structure(interned), interned)
            self._known[node] = self._known[first] = first
        return self._known[node]


def _structure(node: Node) -> tuple[object, ...]:
    """A key that nodes share only if they compute the same; attributes by text: 0.0 is not -0.0."""
    attributes = tuple((name, repr(node.attributes[name])) for name in sorted(node.attributes))
    return (node.op, node.operands, attributes)
