"""Maps that exist in parts only: concatenations of channels whose readers take each part from its place."""

from collections.abc import Iterable

from sdcomp.ir.graph import Graph, Node
from sdcomp.passes.fusion.lowering import Group


def nodes_in_parts(graph: Graph, groups: Iterable[Group], lanes: int) -> frozenset[Node]:
    """The concatenations among the groups' inputs that need not exist."""
    refused = set(graph.outputs.values())
    found: set[Node] = set()
    for group in groups:
        for number, node in enumerate(group.inputs):
            readable = number == 0 and group.takes_parts and node not in group.inputs[1:]
            (found if readable and _has_whole_vectors(node, lanes) else refused).add(node)
    return frozenset(found - refused)


def _has_whole_vectors(node: Node, lanes: int) -> bool:
    """Whether a node joins channels, and no vector of them would be of two parts."""
    if node.op != "concat" or node.integer("axis") != len(node.shape) - 1:
        return False
    return all(operand.shape[-1] % lanes == 0 for operand in node.operands[:-1])
