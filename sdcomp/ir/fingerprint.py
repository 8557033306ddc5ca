"""Fingerprints: what a node computes, as a short text that other builds of the same files give it too."""

import hashlib
from collections.abc import Iterable

from sdcomp.ir.graph import Node, topological_order

_DIGITS = 24


def fingerprints(nodes: Iterable[Node]) -> dict[Node, str]:
    """Of `nodes` and all that they reach: equal for nodes of equal operation, attributes and operands.

    Weights count by name, file and type, not by value. A Merkle tree (Merkle 1987) over SHA-256, cut to 96
    bits: nobody profits from a collision, and chance makes none.
    """
    found: dict[Node, str] = {}
    for node in topological_order(nodes):
        attributes = [(name, node.attributes[name]) for name in sorted(node.attributes)]
        structure = (node.op, str(node.type), attributes, [found[operand] for operand in node.operands])
        found[node] = hashlib.sha256(repr(structure).encode()).hexdigest()[:_DIGITS]
    return found
