"""Structural equality of modules: the same text up to numbering, and the same sharing of nodes."""

from sdcomp.ir.graph import Graph, Module, Node
from sdcomp.ir.text import print_attribute


def equal(a: Module, b: Module) -> bool:
    """Whether the modules differ in nothing but the identity of their nodes.

    The order of facts, graphs and outputs counts, and so does whether readers share a node or have one each.
    """
    if list(a.facts.items()) != list(b.facts.items()) or len(a.graphs) != len(b.graphs):
        return False
    twins: dict[Node, Node] = {}
    if not all(_equal_graphs(first, second, twins) for first, second in zip(a, b, strict=True)):
        return False
    return len(set(twins.values())) == len(twins)


def _equal_graphs(a: Graph, b: Graph, twins: dict[Node, Node]) -> bool:
    """Extends `twins`, from nodes of `a` to nodes of `b`, or finds the graphs unequal."""
    nodes, others = a.nodes(), b.nodes()
    if a.name != b.name or list(a.outputs) != list(b.outputs) or len(nodes) != len(others):
        return False
    for node, other in zip(nodes, others, strict=True):
        if twins.setdefault(node, other) is not other or not _equal_nodes(node, other, twins):
            return False
    return all(twins[node] is b.outputs[name] for name, node in a.outputs.items())


def _equal_nodes(node: Node, other: Node, twins: dict[Node, Node]) -> bool:
    operands = tuple(twins[operand] for operand in node.operands)
    return (
        node.op == other.op
        and node.type == other.type
        and operands == other.operands
        and _printed_attributes(node) == _printed_attributes(other)
    )


def _printed_attributes(node: Node) -> dict[str, str]:
    """As text, attributes compare exactly: 1 is not 1.0, and nan is nan."""
    return {name: print_attribute(value) for name, value in node.attributes.items()}
