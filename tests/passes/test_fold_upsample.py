"""fold_upsample: which convolutions, with what count of multiplies, and the same values."""

from dataclasses import replace

import pytest

from sdcomp.codegen.convolution import UPSAMPLING
from sdcomp.codegen.costs import shipped_costs
from sdcomp.codegen.targets import resolve
from sdcomp.ir.count import multiplies
from sdcomp.ir.graph import Module, Node
from sdcomp.ir.ops import build
from sdcomp.ir.verify import verify
from sdcomp.passes.expose_padding import ExposePadding
from sdcomp.passes.fold_upsample import FoldUpsample
from sdcomp.passes.rewrite_winograd import RewriteWinograd
from tests.passes.graphs import check_values, module, source, weight


def _convolution(x: Node, outputs: int, padding: int = 1, kernel: int = 3, stride: int = 1) -> Node:
    w = weight("w", (outputs, x.shape[3], kernel, kernel))
    return build("conv2d", x, w, stride=stride, padding=(padding,) * 4)


def _upsampled(height: int, width: int, channels: int, batch: int = 1, scale: int = 2) -> Node:
    return build("upsample_nearest", source("x", (batch, height, width, channels)), scale=scale)


def _ops(made: Module) -> list[str]:
    return [node.op for graph in made for node in graph.nodes()]


@pytest.mark.parametrize(("height", "width", "batch"), [(8, 8, 1), (7, 4, 2), (1, 5, 1), (9, 13, 1)])
def test_same_values(height: int, width: int, batch: int) -> None:
    before = module(y=_convolution(_upsampled(height, width, 32, batch), 48))
    after = FoldUpsample().apply(before)
    verify(after)
    assert not {"conv2d", "upsample_nearest"} & set(_ops(after))
    check_values(before, after)


def test_multiplies() -> None:
    """25 per tile of 4 x 4 pixels, where F(4, 3) of the upsampled map takes 36 and a direct one 9 * 16."""
    before = module(y=_convolution(_upsampled(32, 32, 64), 64))
    (direct,), (winograd,) = before.graphs, RewriteWinograd().apply(before).graphs
    (folded,) = FoldUpsample().apply(before).graphs
    assert multiplies(folded) * 36 == multiplies(winograd) * 25
    assert multiplies(folded) * 9 * 16 == multiplies(direct) * 25


@pytest.mark.parametrize(
    "convolution",
    [
        _convolution(_upsampled(8, 8, 64, scale=3), 64),
        _convolution(_upsampled(8, 8, 64), 64, padding=0),
        _convolution(_upsampled(8, 8, 64), 64, padding=0, kernel=1),
        _convolution(_upsampled(8, 8, 64), 64, stride=2),
        _convolution(source("x", (1, 8, 8, 64)), 64),
    ],
    ids=["scale", "padding", "kernel", "stride", "no upsampling"],
)
def test_others_stay(convolution: Node) -> None:
    before = module(y=convolution)
    assert _ops(FoldUpsample().apply(before)) == _ops(before)


def test_stays_where_transforms_cost_more_than_they_save() -> None:
    shipped = shipped_costs(resolve("x86-64-v4"))
    dear = {
        name: times if name in ("direct", UPSAMPLING) else {**times, "filter": 1e3}
        for name, times in shipped.nanoseconds.items()
    }
    before = module(y=_convolution(_upsampled(8, 8, 64), 64))
    assert "conv2d" not in _ops(FoldUpsample(shipped).apply(before))
    assert _ops(FoldUpsample(replace(shipped, nanoseconds=dear)).apply(before)) == _ops(before)


def test_nothing_is_left_to_the_passes_behind_it() -> None:
    folded = FoldUpsample().apply(module(y=_convolution(_upsampled(8, 8, 64), 64)))
    assert _ops(RewriteWinograd().apply(folded)) == _ops(folded)
    assert _ops(ExposePadding().apply(folded)) == _ops(folded)
