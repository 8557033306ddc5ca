"""Which extents of a graph are free, found by building the same network twice.

The IR has numbers for extents. A network that is built at two sizes gives the same nodes twice; an extent
that differs depends on the size, and the two numbers tell how: `height / 2`, `height * width / 64`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod

from sdcomp.errors import PassError
from sdcomp.ir.graph import Graph, Node

Extent = int | str
"""A number, or an expression in the names of free extents, as ONNX shows it: `height / 2`."""

AxisNames = Mapping[str, Sequence[str]]
"""For each input the names that its axes have where they are free."""

_Pair = tuple[int, int]


@dataclass(frozen=True)
class Extents:
    """The extents of every value of a graph."""

    of: Mapping[Node, tuple[Extent, ...]]

    @classmethod
    def fixed(cls, graph: Graph) -> "Extents":
        """Every extent as the graph has it."""
        return cls({node: node.shape for node in graph.nodes()})

    @classmethod
    def compared(cls, graph: Graph, probe: Graph, names: AxisNames) -> "Extents":
        """Extents of `graph` that differ in `probe`, the same network at other sizes, are free.

        The sizes must be such that no product of free extents stands in the ratio of another one. Raises
        PassError where the graphs differ in more than sizes, or an extent follows from no input's.
        """
        nodes, others = graph.nodes(), probe.nodes()
        if [node.op for node in nodes] != [node.op for node in others]:
            raise PassError(f"{graph.name}: its operations depend on its size; export it at one size")
        pairs = {
            node: tuple(zip(node.shape, other.shape, strict=True))
            for node, other in zip(nodes, others, strict=True)
        }
        free = _free(graph, pairs, names)
        return cls({node: tuple(_extent(pair, free) for pair in found) for node, found in pairs.items()})


def _free(graph: Graph, pairs: Mapping[Node, tuple[_Pair, ...]], names: AxisNames) -> dict[str, _Pair]:
    """The free extents of the inputs by name."""
    return {
        name: pair
        for node in graph.inputs()
        for name, pair in zip(names.get(node.text("name"), ()), pairs[node], strict=False)
        if pair[0] != pair[1]
    }


def _extent(pair: _Pair, free: Mapping[str, _Pair]) -> Extent:
    first, second = pair
    if first == second:
        return first
    for names in _products(free):
        whole = prod(free[name][0] for name in names)
        if first * prod(free[name][1] for name in names) == second * whole:
            return _expression(" * ".join(names), first, whole)
    raise PassError(f"an extent of {first} or {second} follows from no free extent of the inputs")


def _products(free: Mapping[str, _Pair]) -> Iterator[tuple[str, ...]]:
    for count in range(1, len(free) + 1):
        yield from combinations(free, count)


def _expression(names: str, extent: int, whole: int) -> str:
    if extent == whole:
        return names
    if extent % whole == 0:
        return f"{names} * {extent // whole}"
    if whole % extent == 0:
        return f"{names} / {whole // extent}"
    raise PassError(f"{extent} is neither a multiple nor a part of {names}, which is {whole}")
