"""Multiplications counted by hand, and rates."""

import pytest

from sdcomp.errors import VerifyError
from sdcomp.ir.count import multiplies
from sdcomp.ir.graph import Graph
from sdcomp.ir.ops import build
from sdcomp.ir.rates import node_rates
from tests.passes.graphs import source, weight


def test_contractions_are_counted_and_weight_expressions_are_not() -> None:
    x, tokens = source("x", (2, 5, 7, 4)), source("t", (2, 6, 8))
    keys = source("k", (2, 3, 8))
    low_rank = build("matmul", weight("a", (8, 2)), weight("b", (8, 2)))
    outputs = {
        "conv": build("conv2d", x, weight("w", (3, 4, 3, 3)), stride=2, padding=(1, 1, 1, 1)),
        "linear": build("matmul", tokens, low_rank),
        "attention": build("attention", tokens, keys, keys, heads=2, causal=False),
        "sum": build("add", x, x),
    }
    costs = {name: multiplies(Graph(name, {name: node})) for name, node in outputs.items()}
    assert costs == {
        "conv": 2 * 3 * 4 * 3 * (4 * 3 * 3),
        "linear": 2 * 6 * 8 * 8,
        "attention": 2 * (2 * 6 * 3 * 8),
        "sum": 0,
    }
    assert multiplies(Graph("all", outputs)) == sum(costs.values())


def test_a_node_is_as_fast_as_its_fastest_operand() -> None:
    w, prompt, step = weight("w", (4,)), source("p", (4,), "prompt"), source("s", (4,), "step")
    slow, fast = build("silu", w), build("add", build("add", prompt, w), step)
    assert node_rates([slow])[slow] == "model"
    assert node_rates([fast])[fast] == "step"
    with pytest.raises(
        VerifyError, match="input x: rate must be one of model, prompt, step, eval, got 'never'"
    ):
        node_rates([source("x", (4,), "never")])
