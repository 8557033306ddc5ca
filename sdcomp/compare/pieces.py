"""The values inside of an exported program by onnxruntime, piece by piece: memory is bounded by a piece.

A piece is a part of the model that ends in some of the values that are asked for. It starts from those of
earlier pieces, which are kept only as long as a later piece reads them, and it brings its own weights only.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto
from onnx.helper import make_graph, make_model, tensor_dtype_to_np_dtype

from sdcomp.codegen.onnx.emitter import channels_last
from sdcomp.codegen.onnx.model import VALUES
from sdcomp.compare.cases import Arrays
from sdcomp.compare.sessions import open_session
from sdcomp.errors import LoadError, UsageError
from sdcomp.ir.types import Array

PIECE_BYTES = 256 << 20
"""Of a piece's weights and of the values that it is asked for."""


@dataclass(frozen=True)
class Place:
    """Where a node's value is in a model: its name, and whether its channels come first."""

    name: str
    channels_first: bool


class TracedModel:
    """A model that says which of its values is which node's. Weights stay in their file."""

    def __init__(self, path: Path) -> None:
        """Raises LoadError for a file that is no such model."""
        self.path = path
        try:
            self.proto: ModelProto = onnx.load(path, load_external_data=False)
            properties = {entry.key: entry.value for entry in self.proto.metadata_props}
            places = json.loads(properties[VALUES])
            self._places = {key: Place(str(name), bool(first)) for key, (name, first) in places.items()}
        except Exception as error:  # protobuf's own classes, and whatever JSON may hold
            raise LoadError(
                f"{path}: is not a program of sdcomp export --plan: {type(error).__name__}: {error}"
            ) from None
        graph = self.proto.graph
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.types = {value.name: value for value in (*graph.value_info, *graph.input)}
        self.inputs = [value.name for value in graph.input]
        self.nodes: list[NodeProto] = list(graph.node)
        self.makers = {name: index for index, node in enumerate(graph.node) for name in node.output}

    def place(self, fingerprint: str) -> Place:
        """Raises UsageError for a node that the model does not have."""
        if fingerprint not in self._places:
            raise UsageError(
                f"{self.path}: does not compute what the artifact computes; export it from the same files, "
                "with the same adapters and strengths, for the same --target"
            )
        return self._places[fingerprint]

    def outputs(self) -> dict[str, str]:
        """Each output of the model, by the value that it is a copy of."""
        return {self.nodes[self.makers[o.name]].input[0]: o.name for o in self.proto.graph.output}

    def bytes(self, names: Iterable[str]) -> int:
        """Of values and weights."""
        kinds = (self.weights.get(name) or self.types[name].type.tensor_type for name in names)
        return sum(map(_bytes, kinds))


def _bytes(tensor: Any) -> int:
    """Of a TensorProto, or a TypeProto.Tensor of fixed shape."""
    if isinstance(tensor, TensorProto):
        extents, element = list(tensor.dims), tensor.data_type
    else:
        extents, element = [axis.dim_value for axis in tensor.shape.dim], tensor.elem_type
    dtype: np.dtype[Any] = tensor_dtype_to_np_dtype(element)
    return int(prod(extents)) * dtype.itemsize


@dataclass
class _Piece:
    """Nodes by number, the values and weights that they read from elsewhere, and those that they are asked
    for; in order, each once.
    """

    nodes: set[int] = field(default_factory=set)
    inputs: dict[str, None] = field(default_factory=dict)
    weights: dict[str, None] = field(default_factory=dict)
    outputs: dict[str, None] = field(default_factory=dict)

    def add(self, other: "_Piece") -> None:
        self.inputs |= {name: None for name in other.inputs if name not in self.outputs}
        self.nodes |= other.nodes
        self.weights |= other.weights
        self.outputs |= other.outputs


def _cut(model: TracedModel, names: Sequence[str], limit: int) -> list[_Piece]:
    """Pieces that give the values `names` in this order; together they read every weight about once."""
    pieces = [_Piece()]
    known = set(model.inputs)
    size = 0
    for name in names:
        if name in known:
            continue
        step = _step(model, name, known)
        cost = model.bytes((*step.outputs, *step.weights))
        if pieces[-1].outputs and size + cost > limit:
            pieces.append(_Piece())
            size = 0
        pieces[-1].add(step)
        size += cost
        known.add(name)
    return pieces


def _step(model: TracedModel, name: str, known: set[str]) -> _Piece:
    """What computes one value from those that are known."""
    found = _Piece(outputs={name: None})
    todo = [name]
    while todo:
        name = todo.pop()
        if name in known:
            found.inputs[name] = None
        elif name in model.weights:
            found.weights[name] = None
        elif name and model.makers[name] not in found.nodes:
            found.nodes.add(model.makers[name])
            todo.extend(model.nodes[model.makers[name]].input)
    return found


class PieceByPiece:
    """Values of one program for one set of inputs, to be asked for in an order that is known."""

    def __init__(
        self, model: TracedModel, names: Sequence[str], inputs: Arrays, threads: int, limit: int = PIECE_BYTES
    ) -> None:
        """`inputs` are those of the model; it may have some more for others."""
        self._model = model
        self._threads = threads
        self._pieces = _cut(model, names, limit)
        self._values: Arrays = {name: inputs[name] for name in model.inputs}
        self._outputs = model.outputs()

    def value(self, place: Place) -> Array:
        """A node's value as the graph has it, channels last."""
        while place.name not in self._values:
            self._run(self._pieces.pop(0))
        value = self._values[place.name]
        return value.transpose(channels_last(value.ndim)) if place.channels_first else value

    def outputs(self) -> Arrays:
        """The outputs of the model, once all values were asked for."""
        return {output: self._values[name] for name, output in self._outputs.items()}

    @property
    def kept(self) -> int:
        """How many values are in memory."""
        return len(self._values)

    def _run(self, piece: _Piece) -> None:
        """Values that neither this piece nor a later one reads are dropped first."""
        needed = {name for each in (piece, *self._pieces) for name in each.inputs} | set(self._outputs)
        self._values = {name: value for name, value in self._values.items() if name in needed}
        session = open_session(self._serialised(piece), self._model.path, self._threads)
        feeds = {name: self._values[name] for name in piece.inputs}
        self._values |= dict(zip(piece.outputs, session.run(list(piece.outputs), feeds), strict=True))

    def _serialised(self, piece: _Piece) -> bytes:
        model = self._model
        graph = make_graph(
            [model.nodes[index] for index in sorted(piece.nodes)],
            "piece",
            [model.types[name] for name in piece.inputs],
            [model.types[name] for name in piece.outputs],
            [model.weights[name] for name in piece.weights],
        )
        whole = make_model(graph, ir_version=model.proto.ir_version, opset_imports=model.proto.opset_import)
        serialised: bytes = whole.SerializeToString()
        return serialised
