"""fold_constants: every rule of its table against an expected graph."""

import pytest

from sdcomp.ir.graph import Node
from sdcomp.ir.ops import build
from sdcomp.passes.fold_constants import FoldConstants
from tests.passes.graphs import check, module, number, source, weight

X = source("x", (2, 3, 4))
IMAGE = source("image", (1, 3, 4, 2))


def _reshape(x: Node, *shape: int) -> Node:
    return build("reshape", x, shape=shape)


def _transpose(x: Node, *permutation: int) -> Node:
    return build("transpose", x, permutation=permutation)


def _slice(x: Node, start: int, stop: int, axis: int = 2) -> Node:
    return build("slice", x, axis=axis, start=start, stop=stop)


CASES: dict[str, tuple[Node, Node]] = {
    "x + 0": (build("add", X, number(0.0)), X),
    "0 + x": (build("add", number(0.0, shape=(3, 4)), X), X),
    "1 x": (build("mul", number(1.0), X), X),
    "x 1": (build("mul", X, number(1.0, shape=(4,))), X),
    "reshape to its own shape": (_reshape(X, 2, 3, 4), X),
    "reshape of a reshape": (_reshape(_reshape(X, 6, 4), 3, 8), _reshape(X, 3, 8)),
    "reshape back": (_reshape(_reshape(X, 6, 4), 2, 3, 4), X),
    "identity transpose": (_transpose(X, 0, 1, 2), X),
    "transpose of a transpose": (_transpose(_transpose(X, 1, 2, 0), 0, 2, 1), _transpose(X, 1, 0, 2)),
    "transpose back": (_transpose(_transpose(X, 1, 2, 0), 2, 0, 1), X),
    "whole slice": (_slice(X, 0, 4), X),
    "slice of a slice": (_slice(_slice(X, 1, 4), 1, 2), _slice(X, 2, 3)),
    "cast to its own type": (build("cast", X, dtype="f32"), X),
    "broadcast to its own shape": (build("broadcast_to", X, shape=(2, 3, 4)), X),
    "concat of one": (build("concat", X, axis=1), X),
    "pad by nothing": (build("pad", IMAGE, padding=(0, 0, 0, 0)), IMAGE),
    "upsample by one": (build("upsample_nearest", IMAGE, scale=1), IMAGE),
    "sum of constants": (
        build("add", number(1.0, 2.0, shape=(2,)), number(0.5)),
        number(1.5, 2.5, shape=(2,)),
    ),
    "nested constants": (build("mul", build("tanh", number(0.0)), number(2.0)), number(0.0)),
    "equal values": (
        build("mul", number(2.0, 3.0, shape=(2,)), number(3.0, 2.0, shape=(2,))),
        number(6.0, shape=(2,)),
    ),
    "uniform constant, any size": (
        build("broadcast_to", number(2.0), shape=(1, 300, 300)),
        number(2.0, shape=(1, 300, 300)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_rule(name: str) -> None:
    before, after = CASES[name]
    check(FoldConstants(), module(y=before), module(y=after))


STAYING = {
    "1 x of another type": build("mul", number(1.0), weight("w", (3,), dtype="f16")),
    "x + 0 that broadcasts": build("add", source("x", (1, 4)), number(0.0, shape=(3, 1))),
    "0 x, which may be NaN": build("mul", number(0.0), X),
    "weights": build("add", weight("a", (2,)), weight("b", (2,))),
    "slices along two axes": _slice(_slice(X, 1, 4), 0, 1, axis=1),
    "rounding twice": build("cast", build("cast", X, dtype="f16"), dtype="f32"),
}


@pytest.mark.parametrize("name", STAYING)
def test_no_rule(name: str) -> None:
    same = module(y=STAYING[name])
    check(FoldConstants(), same, same)


def test_limit_bounds_what_is_evaluated() -> None:
    before = build("add", number(*range(8), shape=(8,)), number(1.0))
    check(FoldConstants(limit=7), module(y=before), module(y=before))
    check(FoldConstants(limit=8), module(y=before), module(y=number(*range(1, 9), shape=(8,))))
