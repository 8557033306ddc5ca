"""Small graphs for the tests of passes, and what a pass must keep: validity, and the values of outputs."""

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from sdcomp.ir.compare import equal
from sdcomp.ir.graph import Graph, Module, Node
from sdcomp.ir.interpret import interpret
from sdcomp.ir.ops import build
from sdcomp.ir.text import print_module
from sdcomp.ir.types import DType, Shape
from sdcomp.ir.verify import verify
from sdcomp.passes.base import Pass

Array = npt.NDArray[Any]


def source(name: str, shape: Shape, rate: str = "eval", dtype: str = "f32") -> Node:
    return build("input", name=name, rate=rate, shape=shape, dtype=dtype)


def weight(name: str, shape: Shape, file: str = "model", dtype: str = "f32") -> Node:
    return build("weight", name=name, file=file, shape=shape, dtype=dtype)


def number(*values: float, shape: Shape = ()) -> Node:
    return build("constant", values=tuple(map(float, values)), shape=shape, dtype="f32")


def rows(node: Node, batch: int = 2) -> Node:
    """`node` with its one row repeated."""
    return build("broadcast_to", node, shape=(batch, *node.shape[1:]))


def module(*graphs: Graph, **outputs: Node) -> Module:
    """A module of `graphs`, or of one graph `g` with these outputs."""
    return Module(graphs or (Graph("g", outputs),))


def random_array(node: Node) -> Array:
    """Values of an input or weight, decided by name and shape; of its type, but f64 to compare tightly."""
    seed = zlib.crc32(f"{node.text('name')} {node.shape}".encode())
    generator = np.random.default_rng(seed)
    if node.dtype is DType.I32:
        return generator.integers(0, 2, node.shape).astype(np.int32)
    return generator.standard_normal(node.shape).astype(node.dtype.numpy).astype(np.float64)


def values(made: Module) -> dict[str, Array]:
    """Every output of every graph, by `graph/output`; all inputs and weights random, in f64."""
    results: dict[str, Array] = {}
    for graph in made:
        inputs = {node.text("name"): random_array(node) for node in graph.inputs()}
        found = interpret(graph, inputs, random_array)
        results |= {f"{graph.name}/{name}": value for name, value in found.items()}
    return results


def error(found: Array, expected: Array) -> float:
    """Relative error in the Frobenius norm."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def check(step: Pass, before: Module, expected: Module) -> None:
    """The pass makes `expected` of `before`, and both are valid and compute the same."""
    verify(before)
    text = print_module(before)
    after = step.apply(before)
    verify(after)
    assert equal(after, expected), f"found\n{print_module(after)}\nexpected\n{print_module(expected)}"
    assert print_module(before) == text, "the pass changed its argument"
    check_values(before, after)


def check_values(before: Module, after: Module) -> None:
    """Both compute the same outputs, of the same types."""
    reference, found = values(before), values(after)
    assert set(found) == set(reference)
    for name, value in reference.items():
        assert found[name].shape == value.shape
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-12, err_msg=name)
