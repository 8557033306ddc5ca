"""Deterministic costs of a graph, for tests and for choices that passes print."""

from math import prod

from sdcomp.ir.graph import RATES, Graph, Node
from sdcomp.ir.rates import node_rates


def multiplies(graph: Graph) -> int:
    """Multiply-accumulates of one run: matmul, conv2d and both products of attention.

    Weight expressions cost nothing: they are evaluated when the model is built.
    """
    rates = node_rates(graph.outputs.values())
    return sum(node_multiplies(node) for node, rate in rates.items() if rate != RATES[0])


def node_multiplies(node: Node) -> int:
    """Multiply-accumulates of one node; 0 for everything that is not a contraction of activations."""
    if node.op in ("matmul", "conv2d"):
        return node.type.elements * prod(node.operands[1].shape[1:])
    if node.op == "winograd_multiply":
        return node.type.elements * node.operands[0].shape[2]
    if node.op == "attention":
        return 2 * node.type.elements * node.operands[1].shape[1]
    return 0
