"""Weight expressions that several algorithms are made of."""

from sdcomp.ir.graph import Node
from sdcomp.ir.ops import build
from sdcomp.ir.types import Shape


def number(value: float) -> Node:
    """A constant without axes."""
    return build("constant", values=(value,), shape=(), dtype="f32")


def scaled(factor: float, node: Node) -> Node:
    """factor * node"""
    return build("mul", number(factor), node)


def blended(strength: float, before: Node, after: Node) -> Node:
    """before + strength (after - before)"""
    if strength == 1:
        return after
    return build("add", scaled(1 - strength, before), scaled(strength, after))


def transposed(matrix: Node) -> Node:
    """The transpose of a matrix."""
    return build("transpose", matrix, permutation=(1, 0))


def turned(blocks: Node) -> Node:
    """The transpose of every matrix of blocks [B, M, N]."""
    return build("transpose", blocks, permutation=(0, 2, 1))


def shaped(node: Node, shape: Shape) -> Node:
    """`node` with the same elements in another shape."""
    return node if node.shape == shape else build("reshape", node, shape=shape)


def rows(node: Node) -> Node:
    """`node` as a matrix: its first axis, and all others as one."""
    return shaped(node, (node.shape[0], node.type.elements // node.shape[0]))


def product(a: Node, b: Node) -> Node:
    """a b, of a[..., K] and b[K, N]."""
    return build("matmul", a, transposed(b))


def along(vector: Node, axis: int, rank: int) -> Node:
    """A vector as a tensor of `rank` axes, all of them 1 but one."""
    shape = [1] * rank
    shape[axis] = vector.type.elements
    return shaped(vector, tuple(shape))


def tucker(core: Node, outer: Node, inner: Node) -> Node:
    """w[p, q, u, v] = sum_ij core[i, j, u, v] outer[i, p] inner[j, q], as a matrix [p, q u v]."""
    by_place = build("transpose", core, permutation=(2, 3, 0, 1))  # [u, v, i, j]
    inputs = product(by_place, inner)  # [u, v, i, q]
    swapped = build("transpose", inputs, permutation=(0, 1, 3, 2))  # [u, v, q, i]
    both = product(swapped, outer)  # [u, v, q, p]
    return rows(build("transpose", both, permutation=(3, 2, 0, 1)))
