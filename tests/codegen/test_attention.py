"""Attention against its definition in f64: every split of queries, keys and channels into blocks."""

from dataclasses import dataclass, replace
from functools import partial
from math import sqrt

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from sdcomp.codegen.kernels.attention import Attention
from sdcomp.codegen.targets import Target
from sdcomp.ir.types import Array
from tests.codegen.case import ROUNDING, Case, Compiled, gapped, isa, random_normal


@dataclass(frozen=True)
class Shape:
    """`offset` is added to every key: scores get a part that is the same for all keys of a query, of about
    `offset` times the query's sum, which softmax must cancel. `key_block` forces small blocks of keys; None
    leaves the target's choice.
    """

    queries: int
    keys: int
    channels: int
    heads: int = 2
    query_batches: int = 1
    key_batches: int = 1
    causal: bool = False
    gap: int = 0
    offset: float = 0.0
    gain: float = 1.0
    key_block: int | None = None


def build(shape: Shape, target: Target) -> Case:
    width = shape.heads * shape.channels
    q = random_normal(1, shape.query_batches, shape.queries, width) * np.float32(shape.gain)
    k = random_normal(2, shape.key_batches, shape.keys, width) + np.float32(shape.offset)
    v = random_normal(3, shape.key_batches, shape.keys, width)
    expected, largest = _reference(shape, q, k, v)
    stride = width + shape.gap
    kernel = Attention(
        batches=len(expected), query_batches=len(q), key_batches=len(k), heads=shape.heads,
        queries=shape.queries, keys=shape.keys, channels=shape.channels, query_stride=stride,
        key_stride=stride, value_stride=stride, out_stride=stride, causal=shape.causal,
        vectors=target.panel_vectors, tile_rows=target.tile_rows(target.panel_vectors), lanes=target.lanes,
    ).tiled(target)  # fmt: skip
    kernel = kernel if shape.key_block is None else replace(kernel, key_block=shape.key_block)
    operands = [gapped(operand, stride) for operand in (q, k, v)]
    return Case(kernel, operands, 3, gapped(expected, stride), _bound(shape, largest))


def _bound(shape: Shape, largest: float) -> float:
    """Powers are a polynomial of degree 5 (off by 3.4 roundings) of a score that f32 stores to within half
    a rounding of the largest score, times the random walk of its `channels` products; sums over keys and
    channels add a few roundings.
    """
    return ROUNDING * (6 + largest * (1 + sqrt(shape.channels) / 8))


def _reference(shape: Shape, *operands: np.ndarray) -> tuple[Array, float]:
    """The result [batch, queries, heads * channels], and the largest score."""
    q, k, v = (
        torch.from_numpy(o.astype(np.float64)).view(*o.shape[:2], shape.heads, shape.channels).transpose(1, 2)
        for o in operands
    )
    batch = max(len(q), len(k))
    q, k, v = (t.expand(batch, -1, -1, -1) for t in (q, k, v))
    mixed = scaled_dot_product_attention(q, k, v, is_causal=shape.causal)
    largest = (q @ k.mT).abs().max().item() / np.sqrt(shape.channels)
    return mixed.transpose(1, 2).flatten(2).numpy(), largest


SHAPES = {
    "one_key": Shape(3, 1, 4),
    "one_query": Shape(1, 77, 40),
    "cross": Shape(100, 77, 40, heads=3, gap=7),
    "self": Shape(64, 64, 64),
    "key_tail": Shape(20, 333, 40, heads=1),
    "two_query_tiles": Shape(150, 9, 4, heads=3),
    "small_key_blocks": Shape(33, 50, 8, key_block=16),
    "prime_keys": Shape(17, 53, 8, key_block=12),
    "wide_head": Shape(5, 77, 160, heads=1),
    "vae_head": Shape(9, 40, 512, heads=1),
    "causal": Shape(77, 77, 64, causal=True),
    "causal_blocks": Shape(150, 150, 4, causal=True, key_block=24),
    "causal_batch": Shape(19, 19, 8, query_batches=2, key_batches=2, causal=True, gap=3),
    "batch": Shape(18, 21, 40, query_batches=2, key_batches=2),
    "queries_shared": Shape(18, 21, 8, query_batches=1, key_batches=2),
    "keys_shared": Shape(18, 21, 8, query_batches=2, key_batches=1, gap=1),
    "large_positive": Shape(40, 100, 8, offset=300.0, gain=1.0, key_block=32),
    "large_spread": Shape(40, 100, 8, gain=1000.0, key_block=32),
}
BUILDS = {name: partial(build, shape) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest) -> Compiled:
    return Compiled.once(BUILDS, request.param)


@isa
@pytest.mark.parametrize("name", BUILDS)
def test_attention(compiled: Compiled, name: str) -> None:
    compiled.check(name)


@isa
def test_multiplies_do_not_count_padding(compiled: Compiled) -> None:
    """Both products of the head: scores and mixed values."""
    assert compiled.cases["cross"].kernel.multiplies == 2 * 3 * 100 * 77 * 40
