"""fold_kronecker: rules against expected graphs, and random expressions against dense f64 numpy."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdcomp.ir.graph import Node
from sdcomp.ir.ops import build
from sdcomp.passes.fold_kronecker import FoldKronecker
from tests.passes.graphs import check, error, module, number, random_array, source, values, weight

A, B, C = weight("a", (2, 3), "adapter0"), weight("b", (4, 5), "adapter0"), weight("c", (4, 5), "adapter1")
D = weight("d", (2, 3), "adapter1")
CUBE = weight("k", (4, 5, 3, 3), "adapter0")
W = weight("w", (8, 15))


def _kron(a: Node, b: Node) -> Node:
    return build("kron", a, b)


def _scaled(scale: float, node: Node) -> Node:
    return build("mul", number(scale), node)


def _flat(node: Node) -> Node:
    return build("reshape", node, shape=(node.shape[0], node.type.elements // node.shape[0]))


def _kernel(node: Node) -> Node:
    return build("reshape", node, shape=(8, 15, 3, 3))


CASES: dict[str, tuple[Node, Node]] = {
    "scale into the smaller, first": (_scaled(3, _kron(A, B)), _kron(_scaled(3, A), B)),
    "scale into the smaller, second": (_scaled(3, _kron(B, A)), _kron(B, _scaled(3, A))),
    "scale from the right": (build("mul", _kron(A, B), number(3)), _kron(_scaled(3, A), B)),
    "scales multiply": (_scaled(3, _scaled(0.5, _kron(A, B))), _kron(_scaled(1.5, A), B)),
    "scale through a reshape": (
        _scaled(3, build("reshape", _kron(A, B), shape=(8, 15, 1, 1))),
        build("reshape", _kron(_scaled(3, A), B), shape=(8, 15, 1, 1)),
    ),
    "matrix with kernel": (_kron(A, CUBE), _kernel(_kron(A, _flat(CUBE)))),
    "scaled matrix with kernel": (_scaled(3, _kron(A, CUBE)), _kernel(_kron(_scaled(3, A), _flat(CUBE)))),
    "shared first factor": (build("add", _kron(A, B), _kron(A, C)), _kron(A, build("add", B, C))),
    "shared second factor": (build("add", _kron(A, B), _kron(D, B)), _kron(build("add", A, D), B)),
    "shared factor of equal structure": (
        build("add", _kron(A, B), _kron(weight("a", (2, 3), "adapter0"), C)),
        _kron(A, build("add", B, C)),
    ),
    "shared kernel": (
        build("add", _kron(A, CUBE), _kron(D, CUBE)),
        _kernel(_kron(build("add", A, D), _flat(CUBE))),
    ),
    "stacked on a weight": (
        build("add", build("add", W, _kron(A, B)), _kron(D, B)),
        build("add", W, _kron(build("add", A, D), B)),
    ),
    "scaled and stacked": (
        build("add", build("add", W, _scaled(2, _kron(B, A))), _scaled(2, _kron(C, A))),
        build("add", W, _kron(build("add", B, C), _scaled(2, A))),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_rule(name: str) -> None:
    before, after = CASES[name]
    check(FoldKronecker(), module(y=before), module(y=after))


STAYING = {
    "no shared factor": build("add", _kron(A, B), _kron(D, C)),
    "factors that split another way": build(
        "add", _kron(A, B), _kron(weight("e", (4, 5)), weight("f", (2, 3)))
    ),
    "scaled weight": _scaled(3, W),
    "activations": build("mul", number(3), build("mul", number(2), source("x", (4,)))),
}


@pytest.mark.parametrize("name", STAYING)
def test_no_rule(name: str) -> None:
    same = module(y=STAYING[name])
    check(FoldKronecker(), same, same)


def test_folding_twice_changes_nothing() -> None:
    once = FoldKronecker().apply(module(**{f"y{i}": before for i, (before, _) in enumerate(CASES.values())}))
    check(FoldKronecker(), once, once)


SIDE = st.integers(1, 4)
SCALE = st.sampled_from((1.0, -0.5, 0.25, 3.0))


@st.composite
def _stacks(draw: st.DrawFn) -> tuple[Node, Any]:
    """A weight plus a few scaled Kronecker products, factors often shared; and its value by numpy alone."""
    l, m, k, n = (draw(SIDE) for _ in range(4))
    kernel = draw(st.sampled_from(((), (1, 1), (3, 2))))
    base = weight("base", (l * k, m * n, *kernel))
    total, dense = base, random_array(base)
    for _ in range(draw(st.integers(1, 4))):
        first = weight(draw(st.sampled_from("ab")), (l, m), "adapter0")
        second = weight(draw(st.sampled_from("cd")), (k, n, *kernel), "adapter0")
        scale = draw(SCALE)
        total = build("add", total, _scaled(scale, _kron(first, second)))
        dense = dense + scale * _dense_kron(random_array(first), random_array(second))
    return total, dense


def _dense_kron(a: Any, b: Any) -> Any:
    """delta[i k, j n, ...] = a[i, j] b[k, n, ...], by an outer product."""
    outer = np.multiply.outer(a, b)
    spatial = range(4, outer.ndim)
    return outer.transpose(0, 2, 1, 3, *spatial).reshape(
        a.shape[0] * b.shape[0], a.shape[1] * b.shape[1], *b.shape[2:]
    )


@given(_stacks())
@settings(max_examples=150, deadline=None)
def test_random_stacks_keep_their_value(case: tuple[Node, Any]) -> None:
    node, dense = case
    folded = FoldKronecker().apply(module(y=node))
    assert error(values(folded)["g/y"], dense) < 1e-12
    krons = [n for n in folded.graphs[0].nodes() if n.op == "kron"]
    assert all(len(n.shape) == 2 for n in krons)
    assert len({n.operands for n in krons}) == len(krons)
