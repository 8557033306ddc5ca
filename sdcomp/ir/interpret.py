"""The reference interpreter: a graph in numpy, node by node, by the references of the op table."""

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from sdcomp.errors import ExecutionError
from sdcomp.ir.graph import Graph, Node
from sdcomp.ir.ops import OPS
from sdcomp.ir.types import Array, DType

WeightReader = Callable[[Node], Array]
"""From a `weight` node to its values, in the node's shape."""


def interpret(graph: Graph, inputs: Mapping[str, Array], weights: WeightReader) -> dict[str, Array]:
    """The outputs of `graph` by name. A value is freed after its last use.

    The precision is the operands': f64 inputs and weights give an f64 reference, f32 and f16 ones are
    computed in f32.

    Raises ExecutionError where `inputs` are not exactly the graph's, by name, shape and kind of number,
    or where `weights` answers with another shape.
    """
    _check_inputs(graph, inputs)
    nodes = graph.nodes()
    uses = Counter(operand for node in nodes for operand in node.operands)
    uses.update(graph.outputs.values())
    values: dict[Node, Array] = {}
    for node in nodes:
        values[node] = _value(node, values, inputs, weights)
        for operand in node.operands:
            uses[operand] -= 1
            if not uses[operand]:
                del values[operand]
    return {name: values[node] for name, node in graph.outputs.items()}


def evaluate(node: Node, weights: WeightReader) -> Array:
    """The value of a weight expression: a node that no input reaches. Precision as for `interpret`.

    Raises ExecutionError where an input does reach it.
    """
    return interpret(Graph("weight", {"value": node}), {}, weights)["value"]


def _value(
    node: Node, values: Mapping[Node, Array], inputs: Mapping[str, Array], weights: WeightReader
) -> Array:
    if node.op == "input":
        return np.asarray(inputs[node.text("name")])
    if node.op == "weight":
        return _weight(node, weights)
    reference = OPS[node.op].reference
    if reference is None:
        raise ExecutionError(f"{node.op}: has no reference to interpret it with")
    return reference(tuple(values[operand] for operand in node.operands), node.attributes)


def _weight(node: Node, weights: WeightReader) -> Array:
    values = np.asarray(weights(node))
    if values.shape != node.shape:
        raise ExecutionError(
            f"weight {node.text('name')}: expected shape {list(node.shape)}, found {list(values.shape)}"
        )
    return values


def _check_inputs(graph: Graph, inputs: Mapping[str, Array]) -> None:
    expected = {node.text("name"): node for node in graph.inputs()}
    if set(expected) != set(inputs):
        raise ExecutionError(
            f"graph {graph.name}: its inputs are {sorted(expected)}, but it was given {sorted(inputs)}"
        )
    for name, node in expected.items():
        found = np.asarray(inputs[name])
        kinds = "iu" if node.dtype == DType.I32 else "f"
        if found.shape != node.shape or found.dtype.kind not in kinds:
            raise ExecutionError(
                f"graph {graph.name}: input {name} must be {node.type}, "
                f"but is {found.dtype} of shape {list(found.shape)}"
            )
