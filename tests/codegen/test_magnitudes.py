"""check_magnitudes: which adapted weights are folded early, and that bounds hold."""

import numpy as np
import pytest

from sdcomp.codegen.magnitudes import check_magnitudes
from sdcomp.errors import AdapterError
from sdcomp.ir.graph import Graph, Module, Node
from sdcomp.ir.ops import build
from sdcomp.ir.types import Array
from sdcomp.passes.live import Term, strength, with_terms
from tests.passes.graphs import number, random_array, source, weight

W = weight("w", (12, 10), dtype="f16")
UP, DOWN = weight("up", (12, 3), "adapter0"), weight("down", (10, 3), "adapter0")
SMALL, LARGE = weight("first", (3, 2), "adapter0"), weight("second", (4, 5), "adapter0")
DELTAS = {
    "kron": build("kron", SMALL, LARGE),
    "product": build("matmul", UP, DOWN),
    "scaled": build("mul", number(0.5), build("kron", SMALL, LARGE)),
    "reshaped": build("reshape", build("kron", SMALL, weight("flat", (20,), "adapter0")), shape=(12, 10)),
    "sum": build("add", build("kron", SMALL, LARGE), build("matmul", UP, DOWN)),
}


def _module(delta: Node) -> Module:
    adapted = build("add", W, delta)
    return Module((Graph("g", {"y": build("matmul", source("x", (1, 10)), adapted)}),))


class Reader:
    """Weights of a magnitude; records which are read."""

    def __init__(self, gain: float) -> None:
        self.gain, self.read = gain, set[str]()

    def __call__(self, node: Node) -> Array:
        self.read.add(node.text("name"))
        own = node.text("file") == "model"
        return random_array(node).astype(node.dtype.numpy) * node.dtype.numpy.type(1 if own else self.gain)


@pytest.mark.parametrize("name", DELTAS)
def test_too_large_for_f16(name: str) -> None:
    with pytest.raises(AdapterError, match=r"^w: with adapters its values are .* more than f16 can hold"):
        check_magnitudes(_module(DELTAS[name]), Reader(1e3), "auto")


@pytest.mark.parametrize("name", DELTAS)
def test_fits_into_f32(name: str) -> None:
    check_magnitudes(_module(DELTAS[name]), Reader(1e3), "f32")


def test_ordinary_factors_cost_no_folding() -> None:
    """The checkpoint's weights are not read for them."""
    reader = Reader(1.0)
    check_magnitudes(_module(DELTAS["sum"]), reader, "auto")
    assert reader.read == {"up", "down", "first", "second"}


def test_a_large_bound_is_not_yet_an_error() -> None:
    """Products of 3 columns of the largest magnitude are bounded by more than they reach."""

    def read(node: Node) -> Array:
        values = np.zeros(node.shape, node.dtype.numpy)
        if node.text("file") != "model":
            values[0, 0] = 250.0
        return values

    check_magnitudes(_module(DELTAS["product"]), read, "auto")


def test_folded_parts_of_packed_and_live_weights_are_looked_at() -> None:
    """The error names the one weight that does not fit."""
    other = weight("other", (12, 10), dtype="f32")
    adapted = build("add", W, DELTAS["kron"])
    packed = build("concat", adapted, other, axis=0)
    live = with_terms(adapted, (Term(strength(0, 1), DELTAS["product"]),))
    for expression in (packed, live):
        made = Module((Graph("g", {"y": build("matmul", source("x", (1, 10)), expression)}),))
        with pytest.raises(AdapterError, match=r"^w: with adapters"):
            check_magnitudes(made, Reader(1e3), "auto")
