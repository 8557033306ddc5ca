"""split_parallel: which kernels wait for which.

Kernels already are ranges of independent tiles; this pass finds the order between kernels from the buffers
they share, so that whatever is unordered (q, k and v; a shortcut convolution beside the main path) may
overlap. Among kernels that become ready together, the one with the longest way to the end goes first.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import networkx as nx

from sdcomp.codegen.plan import Buffer, Call, Program, Space


@dataclass(frozen=True)
class Schedule:
    """A program with its dependency graph over call numbers: an edge a -> b means that b waits for a."""

    program: Program
    graph: Any

    def successors(self, call: int) -> list[int]:
        """Calls that wait for this one, most urgent first."""
        return sorted(self.graph.successors(call), key=lambda later: -self.graph.nodes[later]["urgency"])

    def dependencies(self, call: int) -> int:
        return int(self.graph.in_degree(call))


def split_parallel(program: Program) -> Schedule:
    """The program's schedule. Edges that follow from others are dropped."""
    graph = nx.DiGraph()
    graph.add_nodes_from(range(len(program.calls)))
    writers: dict[Buffer, list[int]] = {}
    for number, call in enumerate(program.calls):
        for buffer in call.reads:
            graph.add_edges_from((writer, number) for writer in writers.get(buffer, ()))
        if call.writes.space is not Space.WEIGHTS:
            writers.setdefault(call.writes, []).append(number)
    _hold_back_parts(graph, writers.values())
    reduced = nx.transitive_reduction(graph)
    for number in reversed(range(len(program.calls))):
        later = [reduced.nodes[s]["urgency"] for s in reduced.successors(number)]
        reduced.nodes[number]["urgency"] = _cost(program.calls[number]) + max(later, default=0)
    return Schedule(program, reduced)


def _hold_back_parts(graph: Any, writers: Iterable[list[int]]) -> None:
    """Calls that write parts of one buffer, as of a concatenation, wait for what any of them reads.

    A part that is ready long before the others, as a UNet's skip connection is, would otherwise occupy the
    whole buffer, and keep its memory from everything that runs in between.
    """
    for parts in writers:
        needed = {before for part in parts for before in graph.predecessors(part)}
        graph.add_edges_from((before, part) for part in parts for before in needed if before < part)


def _cost(call: Call) -> int:
    """Multiplies, or bytes written where a kernel has none."""
    return call.kernel.multiplies or call.writes.bytes
