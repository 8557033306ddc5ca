"""What the patterns share: groups of nodes, and the state while groups become kernel calls."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile

from sdcomp.codegen.kernels.base import Kernel
from sdcomp.codegen.kernels.movement import StridedCopy
from sdcomp.codegen.plan import Buffer, Call, Operand, Space, View, padded_stride
from sdcomp.codegen.targets import Target
from sdcomp.codegen.weights import Layout, PackedWeight, Rows
from sdcomp.ir.graph import Graph, Node
from sdcomp.ir.types import DType, TensorType
from sdcomp.passes.live import split_live


@dataclass(frozen=True)
class Context:
    """A graph, and what patterns ask about it."""

    graph: Graph
    users: Mapping[Node, list[Node]]
    constants: frozenset[Node]
    position: Mapping[Node, int]

    @staticmethod
    def of(graph: Graph) -> "Context":
        nodes = graph.nodes()
        constants: set[Node] = set()
        for node in nodes:
            if node.op != "input" and constants.issuperset(node.operands):
                constants.add(node)
        return Context(
            graph, graph.users(), frozenset(constants), {node: at for at, node in enumerate(nodes)}
        )

    def is_private(self, node: Node) -> bool:
        """Read once, and not an output: a kernel may swallow it."""
        return len(self.users[node]) == 1 and all(
            node is not output for output in self.graph.outputs.values()
        )


@dataclass(frozen=True, eq=False)
class Group:
    """Nodes that become one kernel (or a few) which computes `root` from the values `inputs`."""

    root: Node
    inputs: tuple[Node, ...]
    lower: Callable[["Lowering"], None]
    takes_parts: bool = False
    """Whether the kernels can read the first input in parts (`parts.py`)."""


@dataclass
class Lowering:
    """Views of the nodes computed so far, and the calls that compute them."""

    context: Context
    target: Target
    weights: str
    """Policy for stored matrices: auto, f16 or f32."""
    state: dict[str, Buffer]
    """State values of the artifact by name: filled by one program, read by another."""
    weight_buffers: dict[PackedWeight, Buffer]
    in_parts: frozenset[Node] = frozenset()
    """Concatenations that are not written: readers take their operands."""
    views: dict[Node, View] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)

    # Values

    def view(self, node: Node) -> View:
        """Where a node's value is; constants are payload, in f32."""
        if node in self.context.constants:
            buffer = self.weight(node, Rows(DType.F32))
            return View(buffer, TensorType(node.shape), node.shape[-1] if node.shape else 1)
        return self.views[node]

    def parts(self, node: Node) -> list[View]:
        """Where a node's value is: the channels of each view behind those of the one before."""
        return [self.view(operand) for operand in (node.operands if node in self.in_parts else (node,))]

    def result(self, node: Node) -> View:
        """A fresh place for a node's value: the caller's memory for an output, state for a carried one,
        otherwise the arena.
        """
        space, name = self._space(node)
        channels = node.shape[-1] if node.shape else 1
        stride = channels if space is Space.OUTPUT else padded_stride(channels, node.dtype)
        rows = node.type.elements // channels
        view = View(self._buffer(space, name, rows * stride * node.dtype.bytes), node.type, stride)
        self.views[node] = view
        return view

    def _space(self, node: Node) -> tuple[Space, str]:
        names = [name for name, output in self.context.graph.outputs.items() if output is node]
        if not names:
            return Space.ARENA, ""
        return (Space.STATE if is_carried(names[0]) else Space.OUTPUT), names[0]

    def _buffer(self, space: Space, name: str, size: int) -> Buffer:
        if space is Space.STATE:
            return self.state_buffer(name, size)
        return Buffer(space, size, name)

    def state_buffer(self, name: str, size: int) -> Buffer:
        """The buffer of a carried value: one for the program that fills it and all that read it."""
        key = f"{state_group(self.context.graph.name)}/{name}"
        return self.state.setdefault(key, Buffer(Space.STATE, size, key))

    def temporary(self, size: int) -> Buffer:
        """Arena memory for a kernel's own use."""
        return Buffer(Space.ARENA, size)

    # Weights

    def weight(self, node: Node, layout: Layout) -> Buffer:
        packed = PackedWeight(node, layout)
        return self.weight_buffers.setdefault(packed, Buffer(Space.WEIGHTS, packed.bytes, weight=packed))

    # Calls

    def lower(self, group: Group) -> None:
        """Makes the calls of a group; behind the last of them its root has its value."""
        before = len(self.calls)
        group.lower(self)
        if len(self.calls) > before:
            self.calls[-1] = replace(self.calls[-1], result=(group.root, self.view(group.root)))

    def call(self, kernel: Kernel, operands: list[View | Buffer], written: int, label: str) -> None:
        self.calls.append(Call(kernel, tuple(_operand(o) for o in operands), written, label))

    def copy(self, source: View, out: View, label: str) -> None:
        """Element by element, for views of one shape."""
        kernel = StridedCopy(source.shape or (1,), source.strides or (1,), out.strides or (1,))
        self.call(kernel, [source, out], 1, label)

    def compact(self, view: View, label: str) -> View:
        """The same value with no gaps between rows."""
        if view.stride == view.channels:
            return view
        dense = View(self.temporary(view.type.bytes), view.type, view.channels)
        self.copy(view, dense, label)
        return dense

    def alias(self, node: Node, view: View) -> None:
        """`node` is `view`, unless it must be somewhere else: an output is copied to its place."""
        if self._space(node)[0] is Space.ARENA:
            self.views[node] = replace(view, type=replace(view.type, shape=node.shape))
            return
        self.copy(view, self.result(node), "output")


def is_carried(name: str) -> bool:
    """Whether an input or output is state that one program leaves for another."""
    return name.startswith("carry.")


def state_group(program: str) -> str:
    """Programs cut from one network share state: `unet.step@512x512x2` and `unet@512x512x2` are
    `unet@512x512x2`.
    """
    network, _, size = program.partition("@")
    return f"{network.partition('.')[0]}@{size}"


def label(node: Node) -> str:
    """The module that a node belongs to: the name of the weight nearest to it."""
    frontier = [node]
    for _ in range(8):
        names = [name for n in frontier if (name := _own_name(n))]
        if names:
            return names[0]
        frontier = [split_live(operand)[0] for n in frontier for operand in reversed(n.operands)]
    return node.op


def _own_name(node: Node) -> str:
    """The module of a stored weight; of matrices packed into one, the module around theirs; else empty."""
    if node.op == "weight" and node.text("file") == "model":
        return node.text("name").removesuffix(".weight").removesuffix(".bias")
    if node.op == "concat" and len(node.shape) <= 2:
        paths = zip(*(label(operand).split(".") for operand in node.operands), strict=False)
        return ".".join(names[0] for names in takewhile(lambda names: len(set(names)) == 1, paths))
    return ""


def _operand(place: View | Buffer) -> Operand:
    if isinstance(place, Buffer):
        return Operand(place)
    return Operand(place.buffer, place.offset * place.type.dtype.bytes)
