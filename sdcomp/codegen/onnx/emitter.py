"""The state of one export: values that exist so far, in which order of axes, and the nodes that make them.

The IR keeps channels last; ONNX's convolution wants them first. A value may exist in either order: operations
on maps stay in the one that their operands are in, and a Transpose is made where it is first needed.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto
from onnx.helper import make_node, make_tensor_value_info
from onnx.numpy_helper import from_array

from sdcomp.codegen.onnx.data import ELEMENTS, Form, WeightStore
from sdcomp.codegen.onnx.extents import Extent, Extents
from sdcomp.ir.graph import Graph, Node
from sdcomp.ir.types import Array, DType

COPY, INFER = 0, -1
"""Extents that ONNX's Reshape takes from the same axis of its operand, and works out itself."""


def channels_first(rank: int) -> tuple[int, ...]:
    """The permutation from [N, ..., C] to [N, C, ...]."""
    return (0, rank - 1, *range(1, rank - 1)) if rank > 2 else tuple(range(rank))


def channels_last(rank: int) -> tuple[int, ...]:
    """The permutation from [N, C, ...] to [N, ..., C]."""
    return (0, *range(2, rank), 1) if rank > 2 else tuple(range(rank))


class Emitter:
    """Collects the nodes and initializers of one model."""

    def __init__(self, graph: Graph, extents: Extents, weights: WeightStore) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.types: list[ValueInfoProto] = []
        self._extents = extents
        self._weights = weights
        self._origins = _origins(graph)
        self._constants = weight_nodes(graph)
        self._values: dict[tuple[Node, bool], str] = {}
        self._floats: dict[tuple[Node, bool], str] = {}
        self._initializers: dict[tuple[Node, Form, DType], str] = {}
        self._numbers: dict[tuple[str, bytes, tuple[int, ...]], str] = {}
        self._witnesses: dict[Extent, tuple[str, int]] = {}
        self._sizes: dict[Extent, str] = {}
        self._taken: dict[str, int] = {}
        self._typed: set[str] = set()

    # Nodes and values

    def add(self, node: Node, op: str, *inputs: str, **attributes: Any) -> str:
        """A node of the default domain, named after what `node` belongs to; returns its output's name."""
        name = self.unique(f"{self._origins[node]}/{op}")
        self.nodes.append(make_node(op, inputs, [name], name=name, **attributes))
        return name

    def define(self, node: Node, value: str, first: bool = False) -> None:
        """`value` is what `node` computes, with channels first or as in the graph."""
        first = first and len(node.shape) > 2
        self._values[node, first] = value
        if value in self._typed:
            return
        self._typed.add(value)
        extents = self.extents(node, first)
        for axis, extent in enumerate(extents):
            if isinstance(extent, str):
                self._witnesses.setdefault(extent, (value, axis))
        self.types.append(make_tensor_value_info(value, ELEMENTS[node.dtype], extents))

    def define_input(self, node: Node) -> ValueInfoProto:
        """A program input, under its own name; returns its declaration."""
        self.define(node, self.unique(node.text("name")))
        return self.types.pop()

    def unique(self, name: str) -> str:
        """`name`, numbered from its second use on."""
        self._taken[name] = self._taken.get(name, 0) + 1
        return name if self._taken[name] == 1 else self.unique(f"{name}_{self._taken[name] - 1}")

    # Reading values

    def is_weight(self, node: Node) -> bool:
        """Whether no input reaches the node: it becomes an initializer."""
        return node in self._constants

    def extents(self, node: Node, first: bool = False) -> tuple[Extent, ...]:
        extents = self._extents.of[node]
        return tuple(extents[axis] for axis in channels_first(len(extents))) if first else extents

    def prefers_first(self, operands: Sequence[Node]) -> bool:
        """Whether an operation on these maps has less to transpose with channels first."""
        values = [node for node in operands if not self.is_weight(node)]
        same_rank = len({len(node.shape) for node in values}) == 1
        only_first = any(
            (node, True) in self._values and (node, False) not in self._values for node in values
        )
        return same_rank and only_first and all(len(n.shape) <= len(values[0].shape) for n in operands)

    def read(self, node: Node, first: bool = False) -> str:
        """The value in the node's own element type."""
        first = first and len(node.shape) > 2
        if self.is_weight(node):
            return self._initializer(node, _form(node, first), node.dtype)
        if (node, first) not in self._values:
            order = channels_first if first else channels_last
            other = self._values[node, not first]
            moved = self.add(node, "Transpose", other, perm=order(len(node.shape)))
            self.define(node, moved, first)
        return self._values[node, first]

    def place(self, node: Node) -> tuple[str, bool]:
        """The name of a value that is defined, and whether channels come first in it."""
        first = (node, False) not in self._values
        return self._values[node, first], first

    def number(self, node: Node, first: bool = False) -> str:
        """The value as f32, for arithmetic."""
        first = first and len(node.shape) > 2
        if self.is_weight(node):
            return self.weight(node, _form(node, first))
        if node.dtype is DType.F32:
            return self.read(node, first)
        key = (node, first)
        if key not in self._floats:
            self._floats[key] = self.add(node, "Cast", self.read(node, first), to=TensorProto.FLOAT)
        return self._floats[key]

    def weight(self, node: Node, form: Form) -> str:
        """A weight expression in some form, as f32."""
        dtype = self._weights.stored_type(node)
        name = self._initializer(node, form, dtype)
        if dtype is DType.F32:
            return name
        if (node, form, DType.F32) not in self._initializers:
            wide = self.add(node, "Cast", name, to=TensorProto.FLOAT)
            self._initializers[node, form, DType.F32] = wide
        return self._initializers[node, form, DType.F32]

    def operand(self, node: Node, rank: int, first: bool) -> str:
        """An operand of a pointwise operation whose result has `rank` axes."""
        if not first or len(node.shape) == rank or not node.shape:
            return self.number(node, first)
        shape = (1,) * (rank - len(node.shape)) + node.shape
        return self.weight(node, Form(shape, channels_first(rank)))

    def _initializer(self, node: Node, form: Form, dtype: DType) -> str:
        key = (node, form, dtype)
        if key not in self._initializers:
            name = self.unique(_weight_name(node))
            self.initializers.append(self._weights.tensor(name, node, form, dtype))
            self._initializers[key] = name
        return self._initializers[key]

    # Numbers

    def numbers(self, values: Array) -> str:
        """A few numbers known now, part of the model itself."""
        key = (values.dtype.str, values.tobytes(), values.shape)
        if key not in self._numbers:
            self._numbers[key] = self.unique("constant")
            self.initializers.append(from_array(values, self._numbers[key]))
        return self._numbers[key]

    def integers(self, values: Iterable[int]) -> str:
        return self.numbers(np.array(list(values), np.int64))

    def shape(self, node: Node, extents: Sequence[Extent]) -> str:
        """A vector of extents, read from values that have them where they are free."""
        if not any(isinstance(extent, str) for extent in extents):
            return self.integers(int(extent) for extent in extents)
        return self.add(node, "Concat", *(self._size(node, extent) for extent in extents), axis=0)

    def _size(self, node: Node, extent: Extent) -> str:
        if isinstance(extent, int):
            return self.integers([extent])
        if extent not in self._sizes:
            value, axis = self._witnesses[extent]
            self._sizes[extent] = self.add(node, "Shape", value, start=axis, end=axis + 1)
        return self._sizes[extent]

    def reshape(self, node: Node, value: str, before: Sequence[Extent], after: Sequence[Extent]) -> str:
        """`value` of extents `before` as `after`, with as few extents read at run time as can be."""
        target: list[Extent] = [
            COPY if isinstance(extent, str) and before[axis : axis + 1] == (extent,) else extent
            for axis, extent in enumerate(after)
        ]
        free = [axis for axis, extent in enumerate(target) if isinstance(extent, str)]
        if free:
            target[free[-1]] = INFER
        return self.add(node, "Reshape", value, self.shape(node, target))


def weight_nodes(graph: Graph) -> frozenset[Node]:
    """The nodes that no input reaches, but for transformed filters: they would be four times the weights."""
    found: set[Node] = set()
    for node in graph.nodes():
        if node.op not in ("input", "winograd_filter") and found.issuperset(node.operands):
            found.add(node)
    return frozenset(found)


def _form(node: Node, first: bool) -> Form:
    return Form(node.shape, channels_first(len(node.shape))) if first else Form.plain(node)


def _origins(graph: Graph) -> Mapping[Node, str]:
    """For each node the module that it belongs to: that of its weight, or of its latest operand with one."""
    origins: dict[Node, str] = {}
    places: dict[Node, int] = {}
    constants = weight_nodes(graph)
    for place, node in enumerate(graph.nodes()):
        places[node] = place
        own = [operand for operand in node.operands if operand in constants and operand.op != "constant"]
        if node in constants or own:
            origins[node] = _weight_name(own[0] if own else node).rpartition(".")[0] or graph.name
            continue
        known = [operand for operand in node.operands if origins[operand] != graph.name]
        latest = max(known, key=places.__getitem__, default=None)
        origins[node] = graph.name if latest is None else origins[latest]
    return origins


def _weight_name(node: Node) -> str:
    """The checkpoint's name of the tensor that a weight expression stems from."""
    for found in Graph("weight", {"value": node}).nodes():
        if found.op == "weight":
            return found.text("name")
    return "constant"
