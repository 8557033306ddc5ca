"""The IR: an immutable dataflow graph with one node type.

    module    = graph*
    graph     = name, {output name: node}
    node      = op(operand node*, {attribute: value}) : type
    type      = dtype[shape]
    attribute = int | float | str | bool | tuple of int | tuple of float

Nodes compare by identity. A graph is what its outputs reach; nodes are shared, never copied, and never
changed: a rewrite builds new nodes (`rewrite`). Layouts are NHWC and (batch, tokens, channels); linear
weights are [out, in], convolution weights [out, in, height, width], as checkpoints store them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from sdcomp.ir.types import DType, Shape, TensorType

Attribute = int | float | str | bool | tuple[int, ...] | tuple[float, ...]
Attributes = Mapping[str, Attribute]

RATES = ("model", "prompt", "step", "eval")
"""How often a program input changes, slowest first. A node's rate is the fastest of its operands'."""


@dataclass(frozen=True, eq=False)
class Node:
    """One operation.

    Build nodes with `sdcomp.ir.ops.build`, which infers the type and checks the operands.
    """

    op: str
    operands: tuple["Node", ...]
    attributes: Attributes
    type: TensorType

    @property
    def shape(self) -> Shape:
        return self.type.shape

    @property
    def dtype(self) -> DType:
        return self.type.dtype

    def integer(self, name: str) -> int:
        value = self.attributes[name]
        assert isinstance(value, int)
        return value

    def number(self, name: str) -> float:
        value = self.attributes[name]
        assert isinstance(value, int | float)
        return float(value)

    def text(self, name: str) -> str:
        value = self.attributes[name]
        assert isinstance(value, str)
        return value

    def integers(self, name: str) -> tuple[int, ...]:
        value = self.attributes[name]
        assert isinstance(value, tuple)
        return tuple(int(v) for v in value)

    def __repr__(self) -> str:
        return f"<{self.op} {self.type}>"


@dataclass(frozen=True)
class Graph:
    """A named program: ordered outputs, and all that they reach."""

    name: str
    outputs: Mapping[str, Node]

    def nodes(self) -> list[Node]:
        """Every reachable node, operands before users, in a deterministic order."""
        return topological_order(self.outputs.values())

    def inputs(self) -> list[Node]:
        """The `input` nodes, in order of first use."""
        return [node for node in self.nodes() if node.op == "input"]

    def users(self) -> dict[Node, list[Node]]:
        """For each node the nodes that read it, once per read."""
        users: dict[Node, list[Node]] = {node: [] for node in self.nodes()}
        for node in users:
            for operand in node.operands:
                users[operand].append(node)
        return users


@dataclass(frozen=True)
class Module:
    """Everything that one artifact computes, and facts that passes hand on (`sizes`, family) as plain
    strings.
    """

    graphs: tuple[Graph, ...]
    facts: Mapping[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Graph]:
        return iter(self.graphs)


def is_constant(node: Node) -> bool:
    """Whether no input reaches a node: its value is known when the model is built."""
    return all(inner.op != "input" for inner in topological_order([node]))


def topological_order(roots: Iterable[Node]) -> list[Node]:
    """Depth-first post-order from `roots`, without recursion (graphs are thousands of nodes deep)."""
    order: dict[Node, None] = {}
    stack = [(root, False) for root in reversed(list(roots))]
    while stack:
        node, expanded = stack.pop()
        if node in order:
            continue
        if expanded:
            order[node] = None
            continue
        stack.append((node, True))
        stack.extend((operand, False) for operand in reversed(node.operands) if operand not in order)
    return list(order)
