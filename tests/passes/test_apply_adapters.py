"""apply_adapters: targeted weights become expressions, once, and nothing else changes."""

import pytest

from sdcomp.errors import PassError
from sdcomp.ir.compare import equal
from sdcomp.ir.graph import Graph, Node
from sdcomp.ir.ops import build
from sdcomp.passes.apply_adapters import AdapterPlan, ApplyAdapters
from tests.passes.graphs import module, number, source, weight

W = weight("w", (4, 4))
DELTA, OTHER = weight("d", (4, 4), "adapter0"), weight("d", (4, 4), "adapter1")


def _add_delta(base: Node) -> Node:
    return build("add", base, DELTA)


def _add_other(base: Node) -> Node:
    return build("add", base, build("mul", number(0.5), OTHER))


def test_updates_stack_in_order_and_graphs_share_the_result() -> None:
    x = source("x", (2, 4))
    before = module(*(Graph(name, {"y": build("matmul", x, W)}) for name in ("a", "b")))
    after = ApplyAdapters(AdapterPlan({"w": (_add_delta, _add_other)})).apply(before)
    adapted = build("add", build("add", W, DELTA), build("mul", number(0.5), OTHER))
    assert equal(after, module(*(Graph(name, {"y": build("matmul", x, adapted)}) for name in ("a", "b"))))


def test_only_weights_of_the_checkpoint_are_targets() -> None:
    same = module(y=build("add", weight("w", (4, 4), "adapter0"), W))
    after = ApplyAdapters(AdapterPlan({"w": (_add_delta,)})).apply(same)
    assert equal(after, module(y=build("add", weight("w", (4, 4), "adapter0"), build("add", W, DELTA))))


def test_no_adapters_change_nothing() -> None:
    same = module(y=build("matmul", source("x", (2, 4)), W))
    assert ApplyAdapters(AdapterPlan()).apply(same) == same


def test_a_target_that_no_graph_reads_is_refused() -> None:
    plan = AdapterPlan({"w": (_add_delta,), "gone.weight": (_add_delta,)})
    with pytest.raises(PassError, match=r"no graph reads the targeted weight gone\.weight"):
        ApplyAdapters(plan).apply(module(y=W))


def test_an_update_must_keep_the_shape() -> None:
    plan = AdapterPlan({"w": (lambda base: build("reshape", base, shape=(16,)),)})
    with pytest.raises(PassError, match=r"update of w f32\[4,4\] has another shape: f32\[16\]"):
        ApplyAdapters(plan).apply(module(y=W))
