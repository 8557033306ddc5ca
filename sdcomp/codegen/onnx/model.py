"""One graph as one ONNX file."""

import json
from collections.abc import Callable
from pathlib import Path

from onnx import ModelProto
from onnx.helper import (
    make_graph,
    make_model,
    make_node,
    make_opsetid,
    make_tensor_value_info,
    set_model_props,
)

from sdcomp import __version__
from sdcomp.codegen.onnx.data import ELEMENTS, WeightStore
from sdcomp.codegen.onnx.emitter import Emitter
from sdcomp.codegen.onnx.extents import Extents
from sdcomp.codegen.onnx.operators import LOWERINGS, Lowering
from sdcomp.errors import PassError
from sdcomp.ir.fingerprint import fingerprints
from sdcomp.ir.graph import Graph, Node

OPSET, IR_VERSION = 21, 10
"""Those of onnx 1.16: the newest that the oldest supported onnx and onnxruntime read. Nothing that later
opsets brought is needed.
"""

VALUES = "sdcomp.values"
"""Metadata of a traced model: JSON, the fingerprint of each node of the graph to its value's name in the
model, and whether channels come first there.
"""

Steps = Callable[[int, int], None]
"""Nodes done, nodes in all."""


def write_model(
    graph: Graph, path: Path, extents: Extents, weights: WeightStore, steps: Steps, traced: bool = False
) -> None:
    """Writes `graph` to `path`; inputs and outputs keep their names, weights go to the store. A traced model
    says which of its values is which node's.

    Raises OSError where it cannot be written, PassError for an operation that ONNX has no form of, and what
    reading a weight raises.
    """
    path.write_bytes(make_onnx(graph, extents, weights, steps, traced).SerializeToString())


def make_onnx(
    graph: Graph, extents: Extents, weights: WeightStore, steps: Steps, traced: bool = False
) -> ModelProto:
    """The model of `graph`, its initializers in the store."""
    emit = Emitter(graph, extents, weights)
    inputs = [emit.define_input(node) for node in graph.inputs()]
    for name in graph.outputs:
        emit.unique(name)
    nodes = graph.nodes()
    for done, node in enumerate(nodes):
        steps(done, len(nodes))
        if node.op != "input" and not emit.is_weight(node):
            _lowering(node)(node, emit)
    for name, node in graph.outputs.items():
        emit.nodes.append(make_node("Identity", [emit.read(node)], [name], name=name))
    outputs = [
        make_tensor_value_info(name, ELEMENTS[node.dtype], emit.extents(node))
        for name, node in graph.outputs.items()
    ]
    whole = make_graph(emit.nodes, graph.name, inputs, outputs, emit.initializers, value_info=emit.types)
    model = make_model(
        whole,
        producer_name="sdcomp",
        producer_version=__version__,
        ir_version=IR_VERSION,
        opset_imports=[make_opsetid("", OPSET)],
    )
    if traced:
        set_model_props(model, {VALUES: json.dumps(_traced(graph, emit))})
    return model


def _traced(graph: Graph, emit: Emitter) -> dict[str, tuple[str, bool]]:
    names = fingerprints(graph.outputs.values())
    return {names[node]: emit.place(node) for node in graph.nodes() if not emit.is_weight(node)}


def _lowering(node: Node) -> Lowering:
    if node.op not in LOWERINGS:
        raise PassError(f"{node.op} {node.type}: is of weight expressions only, but an input reaches it")
    return LOWERINGS[node.op]
