"""Random chains behind a product: sums of every shape that broadcasts, activations, and reshapes between
them.

The fused epilogue reads its operands by the rows and samples of the product, which a reshape changes:
whatever is swallowed must still be the sum that the graph means.
"""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from sdcomp.ir.graph import Graph, Node
from sdcomp.ir.ops import UNARY, build
from sdcomp.ir.types import Shape
from tests.differential.compare import errors, random_inputs
from tests.passes.graphs import source, weight

COLUMNS = 6
TOLERANCE = 3e-6
"""A product of depth 5 and up to five operations behind it, in f32."""


@dataclass
class Chain:
    """The end of the chain so far, and how many sources it has."""

    node: Node
    count: int = 0

    def addend(self, draw: st.DrawFn, shape: Shape) -> Node:
        self.count += 1
        make = draw(st.sampled_from((source, source, weight)))
        return make(f"addend{self.count}", shape)


def activate(draw: st.DrawFn, chain: Chain) -> None:
    chain.node = build(draw(st.sampled_from(UNARY)), chain.node)


def add(draw: st.DrawFn, chain: Chain) -> None:
    """Something with some axes of 1, or without leading ones; on either side."""
    shape = tuple(draw(st.sampled_from((1, n, n))) for n in chain.node.shape[:-1])
    other = chain.addend(draw, (*shape, COLUMNS)[draw(st.integers(0, len(shape))) :])
    pair = (chain.node, other)
    chain.node = build("add", *(pair if draw(st.booleans()) else pair[::-1]))


def reshape(draw: st.DrawFn, chain: Chain) -> None:
    """The same rows, counted otherwise."""
    rows = chain.node.type.elements // COLUMNS
    first = draw(st.sampled_from([n for n in range(1, rows + 1) if rows % n == 0]))
    shapes = ((rows, COLUMNS), (first, rows // first, COLUMNS), (first, 1, rows // first, COLUMNS))
    chain.node = build("reshape", chain.node, shape=draw(st.sampled_from(shapes)))


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    shape = draw(st.sampled_from(((4, 5), (1, 6, 5), (2, 3, 5), (2, 2, 3, 5))))
    chain = Chain(build("matmul", source("x", shape), weight("w", (COLUMNS, shape[-1]))))
    outputs = {}
    for number in range(draw(st.integers(1, 4))):
        draw(st.sampled_from((add, add, activate, reshape)))(draw, chain)
        if draw(st.integers(0, 5)) == 0:
            outputs[f"inner{number}"] = chain.node
    return Graph("g", {**outputs, "y": build("mul", chain.node, chain.node)})


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(graphs())
def test_epilogues(graph: Graph) -> None:
    found = errors([graph], random_inputs([graph]))
    assert max(found.values()) <= TOLERANCE, found
