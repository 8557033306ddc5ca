"""Cuts each network into one program per rate (binding time): nothing is computed more often than it changes.

A graph `unet@512x512x2` whose inputs change per prompt, per step and per evaluation becomes

    unet.prompt@512x512x2   what the prompt decides, such as cross-attention keys and values
    unet.step@512x512x2     what the noise level decides, such as the time embedding
    unet@512x512x2          the rest

A slower program hands its values on as outputs `carry.<rate>.<number>`; a faster one reads them as inputs of
that name, type and rate. A graph whose inputs share one rate stays as it is.
"""

from dataclasses import dataclass
from typing import ClassVar

from sdcomp.ir.graph import RATES, Graph, Module, Node, topological_order
from sdcomp.ir.ops import build
from sdcomp.ir.rates import node_rates
from sdcomp.ir.rewrite import rebuild
from sdcomp.passes.base import Pass, with_graphs

CARRY = "carry."

VIEWS = ("reshape", "broadcast_to")
"""Movement that the faster side repeats for nothing; the value under it is carried, which is never larger."""


@dataclass(frozen=True)
class SplitRates(Pass):
    """The split described in this file.

    - A carried value is a slow node with a faster user, seen through views (reshape, broadcast_to).
    - Program inputs, weights and constants are not carried: each program reads them itself.
    - An output belongs to the program of its own rate; one that no input reaches belongs to the fastest.
    """

    name: ClassVar[str] = "split_rates"

    def apply(self, module: Module) -> Module:
        return with_graphs(module, (part for graph in module for part in split(graph)))


def program_name(network: str, rate: str) -> str:
    """`unet@512x512x2` at rate `step` is `unet.step@512x512x2`."""
    base, at, size = network.partition("@")
    return f"{base}.{rate}{at}{size}"


def network_name(program: str) -> str:
    """The inverse of `program_name`: the graph that a program was cut from; other names are their own."""
    base, at, size = program.partition("@")
    for rate in RATES:
        base = base.removesuffix(f".{rate}")
    return f"{base}{at}{size}"


def split(graph: Graph) -> list[Graph]:
    """One graph per rate that has something to compute, slowest first; the fastest keeps the name."""
    rates = node_rates(graph.outputs.values())
    occurring = {rates[node] for node in rates if node.op == "input"}
    if len(occurring) < 2:
        return [graph]
    fastest = max(occurring, key=RATES.index)
    carried = _carried(rates)
    parts = []
    for rate in sorted(occurring, key=RATES.index):
        outputs = {name: node for name, node in graph.outputs.items() if _home(rates[node], fastest) == rate}
        outputs |= {name: node for node, name in carried.items() if rates[node] == rate}
        if outputs:
            name = graph.name if rate == fastest else program_name(graph.name, rate)
            parts.append(_cut(name, outputs, {n: c for n, c in carried.items() if rates[n] != rate}, rates))
    return parts


def _home(rate: str, fastest: str) -> str:
    return fastest if rate == RATES[0] else rate


def _carried(rates: dict[Node, str]) -> dict[Node, str]:
    """The name of every node that a faster program reads, numbered in order of execution."""
    wanted = {
        _under_views(operand)
        for node, rate in rates.items()
        for operand in node.operands
        if rates[operand] not in (RATES[0], rate)
    }
    counts = dict.fromkeys(RATES, 0)
    names: dict[Node, str] = {}
    for node, rate in rates.items():
        if node in wanted and node.op != "input":
            names[node] = f"{CARRY}{rate}.{counts[rate]}"
            counts[rate] += 1
    return names


def _under_views(node: Node) -> Node:
    while node.op in VIEWS:
        (node,) = node.operands
    return node


def _cut(name: str, outputs: dict[str, Node], carried: dict[Node, str], rates: dict[Node, str]) -> Graph:
    """The graph of `outputs` in which carried values are inputs."""
    done: dict[Node, Node] = {}
    for node in topological_order(outputs.values()):
        if node in carried:
            done[node] = _carry_input(node, carried[node], rates[node])
        else:
            done[node] = rebuild(node, tuple(done[operand] for operand in node.operands))
    return Graph(name, {output: done[node] for output, node in outputs.items()})


def _carry_input(node: Node, name: str, rate: str) -> Node:
    return build("input", name=name, rate=rate, shape=node.shape, dtype=node.dtype.value)
