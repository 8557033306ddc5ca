"""order_factors: live terms of weights keep their value in every order, and the cheapest one is taken."""

from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdcomp.errors import PassError
from sdcomp.ir.count import multiplies
from sdcomp.ir.graph import Module, Node
from sdcomp.ir.interpret import interpret
from sdcomp.ir.ops import build
from sdcomp.ir.types import Shape
from sdcomp.passes import order_factors
from sdcomp.passes.fold_kronecker import FoldKronecker
from sdcomp.passes.live import Term, split_live, strength, with_terms
from sdcomp.passes.order_factors import INNER_FIRST, INTO_WEIGHTS, OUTER_FIRST, RANK, live_orders
from tests.passes.graphs import check, error, module, number, random_array, source, weight

STRENGTHS = np.array([0.75, -1.5])


def live(base: Node, *deltas: Node) -> Node:
    """base + s0 D0 + s1 D1"""
    return with_terms(base, tuple(Term(strength(n, 2), delta) for n, delta in enumerate(deltas)))


def product(name: str, outputs: int, rank: int, inputs: int) -> Node:
    """L R, as adapters write it."""
    left, right = (
        weight(f"{name}.a", (outputs, rank), "adapter0"),
        weight(f"{name}.b", (rank, inputs), "adapter0"),
    )
    return build("matmul", left, build("transpose", right, permutation=(1, 0)))


def kron(outer: Shape, inner: Shape, rank: int = 0, kernel: Shape = ()) -> Node:
    """0.5 kron(A, B) [O, I, kernel ...], B of this rank if it is not 0."""
    first = weight("outer", outer, "adapter0")
    columns = inner[1] * prod(kernel)
    second = (
        product("inner", inner[0], rank, columns)
        if rank
        else weight("inner", (inner[0], columns), "adapter0")
    )
    shape = (outer[0] * inner[0], outer[1] * inner[1], *kernel)
    shaped = build("reshape", second, shape=(*inner, *kernel))
    return build("mul", number(0.5), build("reshape", build("kron", first, shaped), shape=shape))


def evaluated(made: Module) -> Any:
    """The output y in f64, with inputs and weights at random."""
    (graph,) = made
    inputs = {node.text("name"): random_array(node) for node in graph.inputs()}
    inputs["strengths"] = STRENGTHS
    return interpret(graph, inputs, random_array)["y"]


SIDE = st.integers(1, 4)


@st.composite
def contractions(draw: st.DrawFn) -> Node:
    """A matmul or conv2d by a weight with one or two live terms: LoKr with whole or low-rank B, or LoRA."""
    f, g, o, n, rank = (draw(SIDE) for _ in range(5))
    kernel = draw(st.sampled_from(((), (), (1, 1), (3, 3))))
    shape = (f * o, g * n, *kernel)
    deltas = [
        kron((f, g), (o, n), draw(st.sampled_from((0, rank))), kernel),
        build(
            "reshape",
            build("mul", number(2), product("lora", f * o, rank, g * n * prod(kernel))),
            shape=shape,
        ),
    ]
    chosen = draw(st.sampled_from((deltas[:1], deltas[1:], deltas)))
    weights = live(weight("w", shape), *chosen)
    rows = draw(st.sampled_from((1, 3, 70)))
    if kernel in ((), (1, 1)):
        return build("matmul", source("x", (2, rows, g * n)), build("reshape", weights, shape=shape[:2]))
    x = source("x", (1, rows, 2, g * n))
    return build("conv2d", x, weights, stride=draw(st.sampled_from((1, 2))), padding=(1, 1, 1, 1))


@given(contractions(), st.sampled_from((1, 1 << 20)))
@settings(max_examples=150, deadline=None)
def test_every_order_keeps_the_value(node: Node, least_rows: int) -> None:
    """Against the dense weight; with R at 1, B first and A first win much more often."""
    before = module(y=node)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order_factors, "LEAST_ROWS", least_rows)
        after = FoldKronecker().apply(before)
    assert error(evaluated(after), evaluated(before)) < 1e-12
    assert after.facts


def _linear(rows: int, delta: Node) -> Module:
    x = source("x", (1, rows, delta.shape[1]))
    return module(y=build("matmul", x, live(weight("w", delta.shape), delta)))


@pytest.mark.parametrize(
    ("rows", "delta", "order"),
    [
        (4096, kron((8, 8), (40, 40)), INTO_WEIGHTS),
        (77, kron((8, 8), (96, 96)), INTO_WEIGHTS),
        (1, kron((8, 8), (40, 160)), INNER_FIRST),
        (1, kron((8, 8), (160, 40)), OUTER_FIRST),
        (1, kron((8, 8), (160, 40), rank=4), f"{OUTER_FIRST}, B {RANK}"),
        (4096, kron((8, 8), (40, 40), rank=4), INTO_WEIGHTS),
        (4096, product("lora", 320, 16, 320), RANK),
    ],
)
def test_cheapest_order(rows: int, delta: Node, order: str) -> None:
    before = _linear(rows, delta)
    after = FoldKronecker().apply(before)
    found, _, cost = live_orders(after)["g"]["w"].rpartition(": ")
    assert found == order
    whole = multiplies(before.graphs[0])
    added = multiplies(after.graphs[0]) - whole
    assert added == (0 if order == INTO_WEIGHTS else int(cost))
    assert int(cost) < whole / 7


def test_order_is_chosen_per_graph() -> None:
    """One weight, many rows here and one row there."""
    weights = live(weight("w", (64, 64)), kron((8, 8), (8, 8)))
    graphs = [module(y=build("matmul", source("x", (rows, 64)), weights)).graphs[0] for rows in (1, 999)]
    named = [type(graph)(name, graph.outputs) for name, graph in zip("ab", graphs, strict=True)]
    orders = live_orders(FoldKronecker().apply(module(*named)))
    assert orders["a"]["w"].startswith(INNER_FIRST)
    assert orders["b"]["w"].startswith(INTO_WEIGHTS)


def test_ordering_twice_changes_nothing() -> None:
    for delta in (kron((8, 8), (5, 5)), product("lora", 40, 2, 40)):
        once = FoldKronecker().apply(_linear(100, delta))
        check(FoldKronecker(), once, once)


def test_terms_move_out_of_a_reshape() -> None:
    """A 1x1 convolution that is computed as a matrix product."""
    weights = build(
        "reshape", live(weight("w", (6, 4, 1, 1)), kron((2, 2), (3, 2), kernel=(1, 1))), shape=(6, 4)
    )
    after = FoldKronecker().apply(module(y=build("matmul", source("x", (1, 99, 4)), weights)))
    base, terms = split_live(after.graphs[0].outputs["y"].operands[1])
    assert (base.op, base.shape, len(terms)) == ("reshape", (6, 4), 1)


def test_transpose_of_a_product() -> None:
    """kron(A, B)^T = kron(A^T, B^T)"""
    turned = build("transpose", build("kron", weight("a", (2, 3)), weight("b", (4, 5))), permutation=(1, 0))
    parts = (
        build("transpose", weight(name, shape), permutation=(1, 0))
        for name, shape in (("a", (2, 3)), ("b", (4, 5)))
    )
    check(FoldKronecker(), module(y=turned), module(y=build("kron", *parts)))


def test_live_table_is_refused() -> None:
    table = live(weight("table.weight", (8, 4)), kron((2, 2), (4, 2)))
    lookup = build("gather", table, source("i", (3,), dtype="i32"))
    with pytest.raises(PassError, match=r"table\.weight: it is read by gather, .* --lokr instead of --live"):
        FoldKronecker().apply(module(y=lookup))
