"""rewrite_winograd: which convolutions, with what count of multiplies, and the same values."""

import numpy as np
import pytest

from sdcomp.codegen.costs import shipped_costs
from sdcomp.codegen.targets import TARGETS
from sdcomp.ir.count import multiplies
from sdcomp.ir.graph import Graph, Module, Node
from sdcomp.ir.interpret import interpret
from sdcomp.ir.ops import build
from sdcomp.ir.verify import verify
from sdcomp.passes.rewrite_winograd import RewriteWinograd
from sdcomp.passes.select_conv import select_conv

COSTS = shipped_costs(TARGETS["x86-64-v3"])


def _convolution(
    height: int, width: int, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, batch: int = 1
) -> Node:
    x = build("input", name="x", rate="eval", shape=(batch, height, width, inputs), dtype="f32")
    shape = (outputs, inputs, kernel, kernel)
    w = build("weight", name="w", file="model", shape=shape, dtype="f32")
    p = kernel // 2
    return build("conv2d", x, w, stride=stride, padding=(p, p, p, p))


def _ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes()]


@pytest.mark.parametrize(("height", "width", "batch"), [(8, 8, 1), (16, 12, 2), (13, 18, 1)])
def test_same_values(height: int, width: int, batch: int) -> None:
    module = Module((Graph("g", {"y": _convolution(height, width, 32, 48, batch=batch)}),))
    rewritten = RewriteWinograd().apply(module)
    verify(rewritten)
    assert "conv2d" not in _ops(rewritten.graphs[0])
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((batch, height, width, 32)), rng.standard_normal((48, 32, 3, 3))
    want, got = (interpret(m.graphs[0], {"x": x}, lambda node: w)["y"] for m in (module, rewritten))
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < 1e-12


def test_quarter_of_the_multiplies() -> None:
    graph = Graph("g", {"y": _convolution(64, 64, 320, 320)})
    rewritten = RewriteWinograd().apply(Module((graph,))).graphs[0]
    assert multiplies(rewritten) * 4 == multiplies(graph)


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (_convolution(64, 64, 320, 320, stride=2), "stride 2"),
        (_convolution(64, 64, 320, 320, kernel=1), "1x1"),
        (_convolution(1, 1, 320, 320), "the least cost"),
    ],
)
def test_direct_where_winograd_does_not_pay(node: Node, reason: str) -> None:
    choice = select_conv(node, COSTS)
    assert choice.form is None
    assert reason in choice.reason
    module = Module((Graph("g", {"y": node}),))
    assert _ops(RewriteWinograd().apply(module).graphs[0]) == _ops(module.graphs[0])
