"""select_conv: what the estimates count, and what is chosen by them."""

from dataclasses import replace

import pytest

from sdcomp.codegen.convolution import Convolution, forms, kernels, name
from sdcomp.codegen.costs import ALGORITHMS, PARTS, SHIPPED, Costs, shipped_costs, total_work
from sdcomp.codegen.targets import TARGETS, Target
from sdcomp.ir.graph import Node
from sdcomp.ir.ops import build
from sdcomp.passes.select_conv import decisions, select_conv
from tests.passes.graphs import module, source, weight

TARGET = TARGETS["x86-64-v4"]


def _convolution(side: int, inputs: int, outputs: int, *, batch: int = 1, scale: int = 1) -> Node:
    x = source("x", (batch, side, side, inputs))
    upsampled = build("upsample_nearest", x, scale=scale) if scale > 1 else x
    w = weight("block.conv.weight", (outputs, inputs, 3, 3))
    return build("conv2d", upsampled, w, stride=1, padding=(1, 1, 1, 1))


def _costs(target: Target = TARGET, **parts: float) -> Costs:
    """The same for every algorithm: a product costs 1, the rest what is said, or nothing."""
    times = {part: parts.get(part, float(part == "multiply")) for part in PARTS}
    return Costs(target, "none", SHIPPED, dict.fromkeys(ALGORITHMS, times))


def test_fewest_products_where_nothing_else_costs() -> None:
    assert select_conv(_convolution(64, 320, 320), _costs()).form == (4, 1)
    assert select_conv(_convolution(32, 320, 320, scale=2), _costs()).form == (4, 2)
    assert select_conv(_convolution(32, 320, 320, scale=2), _costs(), scale=1).form == (4, 1)


def test_filters_cost_most_where_tiles_are_few() -> None:
    dear = _costs(filter=10.0)
    assert select_conv(_convolution(64, 640, 640), dear).form == (4, 1)
    assert select_conv(_convolution(8, 640, 640), dear).form == (2, 1)
    assert select_conv(_convolution(2, 640, 640), dear).form is None


def test_direct_where_transforms_cost_too_much() -> None:
    choice = select_conv(_convolution(64, 320, 320), _costs(input=1e4))
    assert choice.form is None
    assert choice.reason == "the least cost"


def test_upsampling_is_paid_for_unless_it_is_folded() -> None:
    free, paid = _costs(), _costs(output=1e3)
    paid = replace(paid, nanoseconds={**free.nanoseconds, "upsampling": paid.nanoseconds["upsampling"]})
    node = _convolution(32, 64, 64, scale=2)
    before, after = (select_conv(node, costs).milliseconds for costs in (free, paid))
    dearer = {algorithm for algorithm in before if after[algorithm] > before[algorithm]}
    assert dearer == {"direct", "F(2,3)", "F(4,3)"}


def test_shipped_costs_prefer_winograd_on_the_layers_of_a_unet() -> None:
    for target in TARGETS.values():
        costs = shipped_costs(target)
        for side, channels in ((64, 320), (32, 640), (16, 1280)):
            choice = select_conv(_convolution(side, channels, channels), costs)
            assert choice.form == (4, 1)
            assert choice.reason.startswith("0.")
            assert choice.reason.endswith(" of the direct cost")
            folded = select_conv(_convolution(side, channels, channels, scale=2), costs)
            assert folded.form == (4, 2)


@pytest.mark.parametrize("form", forms(2))
def test_work_counts_what_the_kernel_does_with_its_tile_sizes(form: tuple[int, int] | None) -> None:
    shape = Convolution(1, 64, 64, 96, 256, scale=2)
    work = total_work(kernels(shape, form, TARGET)[name(form)])
    products = {
        None: 9 * 64 * 64,
        (2, 1): 16 * 32**2,
        (4, 1): 36 * 16**2,
        (2, 2): 9 * 32**2,
        (4, 2): 25 * 16**2,
    }
    assert work["multiply"] == products[form] * 96 * 256
    if form == (4, 2):
        assert work["output"] == 25 * 16**2 * 256
        assert work["filter"] == 25 * 96 * 256 * 4  # 256 tiles in blocks of 64
        assert work["input"] == 25 * 16**2 * 96  # once for all panels


def test_decisions_name_every_convolution_and_its_candidates() -> None:
    strided = build(
        "conv2d", source("x", (1, 8, 8, 16)), weight("down", (16, 16, 3, 3)), stride=2, padding=(1,) * 4
    )
    made = list(decisions(module(a=_convolution(8, 64, 64, scale=2), b=strided), _costs()))
    first, second = sorted(made, key=lambda record: -len(record["milliseconds"]))
    assert first["layer"] == "block.conv"
    assert first["shape"] == [1, 16, 16, 64]
    assert (first["depth"], first["upsampled"], first["algorithm"]) == (64, True, "F(4,3) of 2x")
    assert set(first["milliseconds"]) == set(ALGORITHMS) - {"upsampling"}
    assert (second["algorithm"], second["reason"], second["milliseconds"]) == (
        "direct",
        "3x3 with stride 2",
        {},
    )
