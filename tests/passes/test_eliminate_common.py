"""eliminate_common: equal structure becomes one node, anything else stays two."""

from sdcomp.ir.graph import Graph
from sdcomp.ir.ops import build
from sdcomp.passes.eliminate_common import EliminateCommon
from tests.passes.graphs import check, module, number, source, weight


def test_equal_expressions_become_one_node() -> None:
    x = source("x", (2, 3))
    first, second = (build("silu", build("matmul", x, weight("w", (4, 3)))) for _ in range(2))
    check(EliminateCommon(), module(y=build("add", first, second)), module(y=build("add", first, first)))


def test_weights_are_shared_between_graphs() -> None:
    before = module(
        *(
            Graph(f"g{size}", {"y": build("add", source("x", (size, 3)), weight("w", (3,)))})
            for size in (1, 2)
        )
    )
    w = weight("w", (3,))
    graphs = (Graph(f"g{size}", {"y": build("add", source("x", (size, 3)), w)}) for size in (1, 2))
    check(EliminateCommon(), before, module(*graphs))


def test_operand_order_attributes_and_sign_of_zero_count() -> None:
    x, w = source("x", (2, 2)), weight("w", (2, 2))
    parts = [
        build("matmul", x, w),
        build("matmul", w, x),
        build("slice", x, axis=1, start=0, stop=1),
        build("slice", x, axis=1, start=1, stop=2),
        number(0.0),
        number(-0.0),
        weight("w", (2, 2), "adapter0"),
    ]
    same = module(**{f"y{index}": part for index, part in enumerate(parts)})
    check(EliminateCommon(), same, same)
