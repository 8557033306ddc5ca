"""Rebuilding a graph bottom-up with one rule."""

from collections.abc import Callable

from sdcomp.ir.graph import Graph, Node
from sdcomp.ir.ops import build

Rule = Callable[[Node], Node | None]


def rebuild(node: Node, operands: tuple[Node, ...]) -> Node:
    """`node` over other operands, its type inferred anew; `node` itself where nothing changed."""
    if operands == node.operands:
        return node
    return build(node.op, *operands, **dict(node.attributes))


def rewrite(graph: Graph, rule: Rule) -> Graph:
    """Rebuilds `graph` bottom-up.

    `rule` sees each node over its new operands; it returns a replacement, or None to keep it.
    """
    done: dict[Node, Node] = {}
    for node in graph.nodes():
        fresh = rebuild(node, tuple(done[operand] for operand in node.operands))
        replacement = rule(fresh)
        done[node] = fresh if replacement is None else replacement
    return Graph(graph.name, {name: done[node] for name, node in graph.outputs.items()})
