"""Every rule of fold_kronecker on random shapes: it applies, saves full-size operations, and keeps the value.

The value is checked against numpy that forms the dense product from the definition
kron(A, B)[i K + k, j N + n, ...] = A[i, j] B[k, n, ...], in f64.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdcomp.ir.graph import Node
from sdcomp.ir.ops import build
from sdcomp.passes.fold_kronecker import FoldKronecker
from tests.passes.graphs import Array, error, module, number, random_array, values, weight


@dataclass(frozen=True)
class Sides:
    """A[l, m], B[k, n, *kernel]; scales s and t."""

    l: int
    m: int
    k: int
    n: int
    kernel: tuple[int, ...]
    s: float
    t: float

    @property
    def full(self) -> tuple[int, ...]:
        return (self.l * self.k, self.m * self.n, *self.kernel)

    @property
    def flat(self) -> tuple[int, int]:
        return self.full[0], prod(self.full[1:])

    def first(self, name: str) -> Node:
        return weight(name, (self.l, self.m), "adapter0")

    def second(self, name: str) -> Node:
        return weight(name, (self.k, self.n, *self.kernel), "adapter0")

    def rows(self, name: str) -> Node:
        """A second factor as a matrix, as long as its kernel is."""
        return weight(name, (self.k, self.n * prod(self.kernel)), "adapter0")

    def base(self) -> Node:
        return weight("w", self.full)


def dense(a: Node, b: Node) -> Array:
    outer = np.multiply.outer(random_array(a), random_array(b))
    joined = outer.transpose(0, 2, 1, 3, *range(4, outer.ndim))
    return joined.reshape(len(random_array(a)) * b.shape[0], a.shape[1] * b.shape[1], *b.shape[2:])


def scaled(scale: float, node: Node) -> Node:
    return build("mul", number(scale), node)


def kron(a: Node, b: Node) -> Node:
    return build("kron", a, b)


def shaped(node: Node, sides: Sides) -> Node:
    return build("reshape", node, shape=sides.full)


def scale_of_scale(g: Sides) -> tuple[Node, Array]:
    a, b = g.first("a"), g.second("b")
    return scaled(g.s, scaled(g.t, kron(a, b))), g.s * g.t * dense(a, b)


def scale_of_reshape(g: Sides) -> tuple[Node, Array]:
    a, b = g.first("a"), g.rows("b")
    return scaled(g.s, shaped(kron(a, b), g)), g.s * dense(a, b).reshape(g.full)


def scale_of_kron(g: Sides) -> tuple[Node, Array]:
    a, b = g.first("a"), g.second("b")
    return scaled(g.s, kron(a, b)), g.s * dense(a, b)


def further_axes(g: Sides) -> tuple[Node, Array]:
    a, b = g.first("a"), g.second("b")
    return kron(a, b), dense(a, b)


def shared_first(g: Sides) -> tuple[Node, Array]:
    a, b, c = g.first("a"), g.second("b"), g.second("c")
    return build("add", kron(a, b), kron(a, c)), dense(a, b) + dense(a, c)


def shared_second(g: Sides) -> tuple[Node, Array]:
    a, d, b = g.first("a"), g.first("d"), g.second("b")
    return build("add", kron(a, b), kron(d, b)), dense(a, b) + dense(d, b)


def sum_of_reshapes(g: Sides) -> tuple[Node, Array]:
    a, d, b = g.first("a"), g.first("d"), g.rows("b")
    node = build("add", shaped(kron(a, b), g), shaped(kron(d, b), g))
    return node, (dense(a, b) + dense(d, b)).reshape(g.full)


def associated_sum(g: Sides) -> tuple[Node, Array]:
    w, a, b, c = g.base(), g.first("a"), g.second("b"), g.second("c")
    node = build("add", build("add", w, kron(a, b)), kron(a, c))
    return node, random_array(w) + dense(a, b) + dense(a, c)


def scaled_and_stacked(g: Sides) -> tuple[Node, Array]:
    """All rules at once: one file twice, at two strengths."""
    w, a, b = g.base(), g.first("a"), g.second("b")
    node = build("add", build("add", w, scaled(g.s, kron(a, b))), scaled(g.s, kron(a, b)))
    return node, random_array(w) + 2 * g.s * dense(a, b)


IDENTITIES: dict[str, tuple[Callable[[Sides], tuple[Node, Array]], int]] = {
    "s (t kron(A, B)) = (s t) kron(A, B)": (scale_of_scale, 1),
    "s reshape(kron(A, B)) = reshape(s kron(A, B))": (scale_of_reshape, 1),
    "s kron(A, B) = kron(s A, B) = kron(A, s B)": (scale_of_kron, 1),
    "kron(A, B[k, n, ...]) = reshape(kron(A, B[k, n ...]))": (further_axes, 1),
    "kron(A, B) + kron(A, C) = kron(A, B + C)": (shared_first, 1),
    "kron(A, B) + kron(D, B) = kron(A + D, B)": (shared_second, 1),
    "reshape(X) + reshape(Y) = reshape(X + Y)": (sum_of_reshapes, 1),
    "(W + X) + Y = W + (X + Y)": (associated_sum, 2),
    "W + s kron(A, B) + s kron(A, B) = W + kron(s A, B + B)": (scaled_and_stacked, 2),
}
"""With the operations of full size that are left."""


@st.composite
def _sides(draw: st.DrawFn, least: int) -> Sides:
    side = st.integers(least, 5)
    kernel = draw(st.sampled_from(((), (1, 1), (3, 3), (2, 3))))
    scales = st.sampled_from((-2.0, 0.375, 1.0, 7.0))
    return Sides(*(draw(side) for _ in range(4)), kernel, draw(scales), draw(scales))


def full_size_operations(node: Node) -> int:
    made = module(y=node).graphs[0].nodes()
    elements = node.type.elements
    return sum(n.op in ("add", "mul", "kron") and n.type.elements == elements for n in made)


def folded(node: Node) -> Node:
    return FoldKronecker().apply(module(y=node)).graphs[0].outputs["y"]


@pytest.mark.parametrize("identity", IDENTITIES)
@given(sides=_sides(least=2))
@settings(max_examples=40, deadline=None)
def test_identity(identity: str, sides: Sides) -> None:
    make, left = IDENTITIES[identity]
    node, expected = make(sides)
    after = folded(node)
    assert full_size_operations(after) == left <= full_size_operations(node)
    products = [n for n in module(y=after).graphs[0].nodes() if n.op == "kron"]
    assert [len(factor.shape) for product in products for factor in product.operands] == [2, 2]
    check(after, expected)


@pytest.mark.parametrize("identity", IDENTITIES)
@given(sides=_sides(least=1))
@settings(max_examples=40, deadline=None)
def test_value_where_sides_are_1(identity: str, sides: Sides) -> None:
    """Shapes of factors and products coincide; rules must not confuse them."""
    node, expected = IDENTITIES[identity][0](sides)
    check(folded(node), expected)


def check(node: Node, expected: Any) -> None:
    assert node.shape == expected.shape
    assert error(values(module(y=node))["g/y"], expected) < 1e-12
