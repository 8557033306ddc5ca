"""Graphs run twice: by the interpreter in f64, and as compiled kernels on the same inputs and weights."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sdcomp.codegen.targets import resolve
from sdcomp.ir.graph import Graph, Node
from sdcomp.ir.interpret import interpret
from sdcomp.ir.types import Array, DType
from sdcomp.passes.fuse_kernels import FuseKernels
from sdcomp.passes.fusion.lowering import is_carried
from tests.codegen.jit import run_programs
from tests.passes.graphs import error, random_array

WeightReader = Callable[[Node], Array]


def random_inputs(graphs: Sequence[Graph]) -> dict[str, Array]:
    """Seeded values for every input that is not state, as a caller gives them."""
    nodes = [node for graph in graphs for node in graph.inputs() if not is_carried(node.text("name"))]
    return {node.text("name"): random_array(node).astype(node.dtype.numpy) for node in nodes}


def stored_weight(node: Node) -> Array:
    """Seeded values of a weight, of its element type."""
    return random_array(node).astype(node.dtype.numpy)


def errors(
    graphs: Sequence[Graph],
    inputs: Mapping[str, Array],
    weights: WeightReader = stored_weight,
    policy: str = "f32",
) -> dict[str, float]:
    """The relative error of every output of the compiled graphs, in order, handing on state as an artifact
    does.

    With the policy f16 the interpreter gets matrices rounded as they are stored.
    """
    found = compiled(graphs, inputs, weights, policy)
    rounded = rounded_matrices(graphs) if policy == "f16" else set()
    expected = reference(graphs, inputs, lambda node: _wide(weights(node), node in rounded))
    assert set(found) == set(expected)
    return {name: error(found[name].astype(np.float64), expected[name]) for name in expected}


def compiled(
    graphs: Sequence[Graph], inputs: Mapping[str, Array], weights: WeightReader, policy: str
) -> dict[str, Array]:
    """All outputs of the graphs' kernels."""
    fuse = FuseKernels(resolve("native"), policy)
    return run_programs([fuse.lower(graph) for graph in graphs], fuse.target, inputs, weights)


def reference(
    graphs: Sequence[Graph], inputs: Mapping[str, Array], weights: WeightReader
) -> dict[str, Array]:
    """All outputs in f64; state that one graph leaves is an input of the next ones."""
    known = {
        name: value if value.dtype.kind == "i" else value.astype(np.float64) for name, value in inputs.items()
    }
    outputs: dict[str, Array] = {}
    for graph in graphs:
        made = interpret(graph, {n.text("name"): known[n.text("name")] for n in graph.inputs()}, weights)
        known |= {name: value for name, value in made.items() if is_carried(name)}
        outputs |= {name: value for name, value in made.items() if not is_carried(name)}
    return outputs


def rounded_matrices(graphs: Sequence[Graph]) -> set[Node]:
    """The weights that contractions read, directly or as another shape."""
    anchors = [n for graph in graphs for n in graph.nodes() if n.op in ("matmul", "conv2d")]
    found: set[Node] = set()
    for anchor in anchors:
        node = anchor.operands[1]
        while node.op in ("reshape", "transpose"):
            node = node.operands[0]
        found.add(node)
    return found


def _wide(values: Array, rounded: bool) -> Array:
    stored = values.astype(DType.F16.numpy) if rounded else values
    return stored.astype(np.float64)
