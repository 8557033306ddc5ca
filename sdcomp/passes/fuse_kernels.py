"""fuse_kernels: a graph becomes a program of kernel calls.

From the outputs backwards, each value that must exist in memory becomes the root of the largest group that a
pattern finds; what the group swallows never exists. Patterns are tried in order, so a normalisation or
contraction takes its pointwise neighbours before the generic pointwise kernel does.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from sdcomp.codegen.plan import Buffer, Program, Space, View, padded_stride
from sdcomp.codegen.targets import Target
from sdcomp.codegen.weights import PackedWeight
from sdcomp.errors import PassError
from sdcomp.ir.graph import Graph, Node
from sdcomp.ir.types import DType, TensorType
from sdcomp.passes.fusion import attention, contraction, movement, normalisation, pointwise
from sdcomp.passes.fusion.lowering import Context, Group, Lowering, is_carried
from sdcomp.passes.fusion.parts import nodes_in_parts

Pattern = Callable[[Node, Context], Group | None]

PATTERNS: tuple[Pattern, ...] = (
    contraction.match,
    normalisation.match,
    attention.match,
    movement.match,
    pointwise.match,
)


@dataclass
class FuseKernels:
    """Lowers the graphs of one artifact; weights and state buffers are shared between its programs."""

    target: Target
    weights: str
    weight_buffers: dict[PackedWeight, Buffer] = field(default_factory=dict)
    state: dict[str, Buffer] = field(default_factory=dict)

    def lower(self, graph: Graph) -> Program:
        """Raises PassError where no kernel computes a node."""
        context = Context.of(graph)
        lowering = Lowering(context, self.target, self.weights, self.state, self.weight_buffers)
        for node in graph.inputs():
            lowering.views[node] = _input_view(node, lowering)
        groups = _groups(context)
        lowering.in_parts = nodes_in_parts(graph, groups, self.target.lanes)
        for group in groups:
            lowering.lower(group)
        for name, node in graph.outputs.items():
            if node.op == "input" and node.dtype is DType.F32:
                lowering.copy(lowering.view(node), lowering.result(node), "output")
            if not _is_placed(lowering.view(node), name):
                raise PassError(f"{graph.name}: output {name} is also a constant or another output")
        inputs = {n.text("name"): n.type for n in graph.inputs() if not is_carried(n.text("name"))}
        outputs = {name: node.type for name, node in graph.outputs.items() if not is_carried(name)}
        return Program(graph.name, inputs, outputs, tuple(lowering.calls))


def _is_placed(view: View, name: str) -> bool:
    return view.buffer.name == name or (is_carried(name) and view.buffer.space is Space.STATE)


def _input_view(node: Node, lowering: Lowering) -> View:
    name, channels = node.text("name"), node.shape[-1] if node.shape else 1
    if not is_carried(name):
        return View(Buffer(Space.INPUT, node.type.bytes, name), node.type, channels)
    stride = padded_stride(channels, node.dtype)
    buffer = lowering.state_buffer(name, node.type.elements // channels * stride * node.dtype.bytes)
    return View(buffer, TensorType(node.shape, node.dtype), stride)


def _groups(context: Context) -> list[Group]:
    """Groups in an order in which every input is computed before it is read."""
    needed = set(context.graph.outputs.values())
    groups: list[Group] = []
    for node in reversed(context.graph.nodes()):
        if node not in needed or node.op == "input" or node in context.constants:
            continue
        group = _match(node, context)
        needed.update(group.inputs)
        groups.append(group)
    return groups[::-1]


def _match(node: Node, context: Context) -> Group:
    for pattern in PATTERNS:
        group = pattern(node, context)
        if group is not None:
            return group
    raise PassError(
        f"{node.op} {node.type}: no kernel computes this operation on values that are known only at run time"
    )
