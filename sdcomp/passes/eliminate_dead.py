"""Drops carried values that no program reads, and programs that are left without outputs.

Nodes and inputs that no output reaches are not part of a graph in the first place.
"""

from dataclasses import dataclass
from typing import ClassVar

from sdcomp.ir.graph import Graph, Module
from sdcomp.passes.base import Pass, with_graphs
from sdcomp.passes.split_rates import CARRY, network_name


@dataclass(frozen=True)
class EliminateDead(Pass):
    """Removes `carry.*` outputs without a reader, again and again: a dropped one may free another."""

    name: ClassVar[str] = "eliminate_dead"

    def apply(self, module: Module) -> Module:
        while True:
            graphs = _without_unread(module.graphs)
            if graphs == module.graphs:
                return module
            module = with_graphs(module, graphs)


def _without_unread(graphs: tuple[Graph, ...]) -> tuple[Graph, ...]:
    read = {(network_name(graph.name), node.text("name")) for graph in graphs for node in graph.inputs()}
    kept = []
    for graph in graphs:
        network = network_name(graph.name)
        outputs = {
            name: node
            for name, node in graph.outputs.items()
            if not name.startswith(CARRY) or (network, name) in read
        }
        if outputs:
            kept.append(Graph(graph.name, outputs))
    return tuple(kept)
