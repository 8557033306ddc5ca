"""Folding of adapters: memory of one stored tensor, whatever lies between it and the result."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from sdcomp.codegen.fold import fold
from sdcomp.codegen.weights import PackedWeight, Panels
from sdcomp.ir.graph import Node
from sdcomp.ir.ops import build
from sdcomp.ir.types import DType
from tests.passes.graphs import Array, number, weight

W = weight("w", (1024, 1024, 3, 3), dtype="f16")
FIRST = weight("w1", (8, 8), "adapter0", "f16")


def changed(first: Node, second: Node, strength: float = 0.5) -> Node:
    """W + strength kron(first, second), as `fold_kronecker` leaves it."""
    product = build("kron", build("mul", number(strength), first), second)
    return build("add", W, build("reshape", product, shape=W.shape))


def whole() -> Node:
    return changed(FIRST, weight("w2", (128, 128 * 9), "adapter0", "f16"))


def split() -> Node:
    outer, inner = weight("w2_a", (128, 16), "adapter0", "f16"), weight("w2_b", (16, 1152), "adapter0", "f16")
    return changed(FIRST, build("matmul", outer, build("transpose", inner, permutation=(1, 0))))


def with_lengths() -> Node:
    """DoRA per output."""
    changed_weight = whole()
    lengths = weight("dora_scale", (1024, 1, 1, 1), "adapter0", "f16")
    scale = build("div", lengths, build("norm", changed_weight, axes=(1, 2, 3)))
    return build("mul", changed_weight, scale)


def stacked() -> Node:
    first, second = weight("w1", (4, 4), "adapter1", "f16"), weight("w2", (256, 256 * 9), "adapter1", "f16")
    return build("add", whole(), build("reshape", build("kron", first, second), shape=W.shape))


def joined() -> Node:
    """As query, key and value are, of which one has no adapter."""
    shape = (1024, 1024 * 3)
    first, second = weight("w1", (8, 8), "adapter0", "f16"), weight("w2", (128, 384), "adapter0", "f16")
    query, key, value = (weight(name, shape, dtype="f16") for name in "qkv")
    changed_parts = [build("add", part, build("kron", first, second)) for part in (query, value)]
    return build("concat", changed_parts[0], build("cast", key, dtype="f32"), changed_parts[1], axis=0)


def read(node: Node) -> Array:
    return np.full(node.shape, 0.25, node.dtype.numpy)


def peak_bytes(node: Node) -> int:
    """The largest memory of numpy while the weight is folded and packed."""
    packed = PackedWeight(node, Panels(32, DType.F16, False))
    tracemalloc.start()
    fold(packed, read)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("make", [whole, split, with_lengths, stacked, joined])
def test_an_adapter_needs_no_more_than_one_stored_tensor(make: Callable[[], Node]) -> None:
    assert peak_bytes(make()) - peak_bytes(W) <= W.type.bytes
