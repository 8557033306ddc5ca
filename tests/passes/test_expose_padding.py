"""expose_padding against expected graphs."""

from sdcomp.ir.ops import build
from sdcomp.passes.expose_padding import ExposePadding
from tests.passes.graphs import check, module, source, weight

NONE = (0, 0, 0, 0)


def test_padding_leaves_the_convolution() -> None:
    x, w = source("x", (1, 4, 5, 2)), weight("w", (3, 2, 3, 3))
    before = build("conv2d", x, w, stride=2, padding=(0, 1, 2, 1))
    after = build("conv2d", build("pad", x, padding=(0, 1, 2, 1)), w, stride=2, padding=NONE)
    check(ExposePadding(), module(y=before), module(y=after))


def test_pads_merge_also_into_a_convolution() -> None:
    x, w = source("x", (1, 4, 5, 2)), weight("w", (3, 2, 3, 3))
    inner = build("pad", build("pad", x, padding=(1, 0, 0, 0)), padding=(0, 0, 2, 3))
    before = build("conv2d", inner, w, stride=1, padding=(1, 1, 1, 1))
    after = build("conv2d", build("pad", x, padding=(2, 1, 3, 4)), w, stride=1, padding=NONE)
    check(ExposePadding(), module(y=before), module(y=after))


def test_convolution_without_padding_stays() -> None:
    x, w = source("x", (1, 4, 5, 2)), weight("w", (3, 2, 1, 1))
    same = module(y=build("conv2d", x, w, stride=1, padding=NONE))
    check(ExposePadding(), same, same)
