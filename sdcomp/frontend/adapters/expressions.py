"""Weight expressions that several algorithms are made of."""

from sdcomp.ir.graph import Node
from sdcomp.ir.ops import build
from sdcomp.ir.types import Shape


def scaled(factor: float, node: Node) -> Node:
    """factor * node"""
    return build("mul", build("constant", values=(factor,), shape=(), dtype="f32"), node)


def transposed(matrix: Node) -> Node:
    """The transpose of a matrix."""
    return build("transpose", matrix, permutation=(1, 0))


def shaped(node: Node, shape: Shape) -> Node:
    """`node` with the same elements in another shape."""
    return node if node.shape == shape else build("reshape", node, shape=shape)


def rows(node: Node) -> Node:
    """`node` as a matrix: its first axis, and all others as one."""
    return shaped(node, (node.shape[0], node.type.elements // node.shape[0]))
