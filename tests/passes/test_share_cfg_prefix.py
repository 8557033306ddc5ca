"""share_cfg_prefix against expected graphs, and against the multiplications that the real UNet must save."""

from collections.abc import Callable
from math import prod

import pytest

from sdcomp.frontend.config import UNetConfig
from sdcomp.frontend.names import unet_layers
from sdcomp.frontend.unet import lower_unet
from sdcomp.ir.count import multiplies, node_multiplies
from sdcomp.ir.graph import Graph, Module, Node
from sdcomp.ir.ops import build
from sdcomp.passes.share_cfg_prefix import ShareCfgPrefix
from tests.passes.graphs import check, module, number, rows, source, weight

SD15 = UNetConfig(
    prefix="",
    in_channels=4,
    out_channels=4,
    model_channels=320,
    channel_mult=(1, 2, 4, 4),
    res_blocks=2,
    transformer_depth=(1, 1, 1, 0),
    middle_depth=1,
    context_channels=768,
    heads=8,
    head_channels=None,
    linear_projection=False,
)
"""Stable Diffusion 1.5, whose UNet has 859520964 parameters (CompVis' v1-inference.yaml)."""

IMAGE = (1, 4, 6, 8)
TOKENS = (1, 6, 8)
ROWWISE: dict[str, Callable[[Node], Node]] = {
    "silu": lambda x: build("silu", x),
    "matmul": lambda x: build("matmul", x, weight("w", (3, 8))),
    "conv2d": lambda x: build("conv2d", x, weight("w", (3, 8, 3, 3)), stride=2, padding=(1, 1, 1, 1)),
    "group_norm": lambda x: build(
        "group_norm", x, weight("gamma", (8,)), weight("beta", (8,)), groups=2, eps=1e-5
    ),
    "layer_norm": lambda x: build("layer_norm", x, weight("gamma", (8,)), weight("beta", (8,)), eps=1e-5),
    "upsample_nearest": lambda x: build("upsample_nearest", x, scale=2),
    "pad": lambda x: build("pad", x, padding=(1, 0, 0, 1)),
    "transpose": lambda x: build("transpose", x, permutation=(0, 3, 1, 2)),
    "slice": lambda x: build("slice", x, axis=3, start=2, stop=5),
    "concat": lambda x: build("concat", x, x, axis=3),
    "bias": lambda x: build("add", x, weight("bias", (8,))),
    "one row": lambda x: build("mul", source("b", (1, 1, 1, 8)), x),
    "itself": lambda x: build("add", x, build("silu", x)),
}


@pytest.mark.parametrize("name", ROWWISE)
def test_broadcast_sinks_through(name: str) -> None:
    image = source("x", IMAGE)
    after = rows(ROWWISE[name](image))
    check(ShareCfgPrefix(), module(y=ROWWISE[name](rows(image))), module(y=after))


def test_reshape_keeps_the_rows_apart() -> None:
    image = source("x", IMAGE)
    before = build("reshape", rows(image), shape=(2, 24, 8))
    after = rows(build("reshape", image, shape=(1, 24, 8)))
    check(ShareCfgPrefix(), module(y=before), module(y=after))


def test_gather_and_timestep() -> None:
    tokens, time = source("i", (1, 5), dtype="i32"), source("t", (1,))
    table = weight("table", (7, 4))
    before = {
        "g": build("gather", table, rows(tokens)),
        "t": build("timestep_embedding", rows(time), channels=4, max_period=1e4),
    }
    after = {
        "g": rows(build("gather", table, tokens)),
        "t": rows(build("timestep_embedding", time, channels=4, max_period=1e4)),
    }
    check(ShareCfgPrefix(), module(**before), module(**after))


def test_broadcasts_merge_and_a_slice_takes_a_row() -> None:
    x = source("x", (1, 1, 8))
    before = {
        "wide": build("broadcast_to", rows(x), shape=(2, 6, 8)),
        "row": build("slice", rows(x), axis=0, start=1, stop=2),
        "fewer": build("slice", rows(x, 3), axis=0, start=1, stop=3),
    }
    wide = rows(build("broadcast_to", x, shape=(1, 6, 8)))
    check(ShareCfgPrefix(), module(**before), module(wide=wide, row=x, fewer=rows(x)))


def test_pointwise_with_real_rows_needs_no_broadcast() -> None:
    a, b = source("a", TOKENS), source("b", (2, *TOKENS[1:]))
    check(ShareCfgPrefix(), module(y=build("add", rows(a), b)), module(y=build("add", a, b)))


def test_scalar_times_broadcast() -> None:
    a = source("a", TOKENS)
    before, after = build("mul", rows(a), number(3.0)), rows(build("mul", a, number(3.0)))
    check(ShareCfgPrefix(), module(y=before), module(y=after))


def test_attention_serves_every_row_with_one_query() -> None:
    q, k, v = source("q", TOKENS), source("k", (2, 5, 8)), source("v", (2, 5, 8))
    before = build("attention", rows(q), k, v, heads=2, causal=False)
    check(ShareCfgPrefix(), module(y=before), module(y=build("attention", q, k, v, heads=2, causal=False)))


def test_self_attention_is_computed_once() -> None:
    q = source("q", TOKENS)
    before = build("attention", rows(q), rows(q), rows(q), heads=2, causal=True)
    check(
        ShareCfgPrefix(), module(y=before), module(y=rows(build("attention", q, q, q, heads=2, causal=True)))
    )


def test_attention_with_one_shared_key_keeps_its_broadcast() -> None:
    q, k, v = source("q", (2, 6, 8)), source("k", (1, 5, 8)), source("v", (2, 5, 8))
    same = module(y=build("attention", q, rows(k), v, heads=2, causal=False))
    check(ShareCfgPrefix(), same, same)


def test_concat_with_real_rows_keeps_the_broadcast_before_it() -> None:
    h, s = source("h", (2, *IMAGE[1:])), source("s", IMAGE)
    before = build("concat", h, build("silu", rows(s)), axis=3)
    after = build("concat", h, rows(build("silu", s)), axis=3)
    check(ShareCfgPrefix(), module(y=before), module(y=after))


@pytest.mark.parametrize(
    "node",
    [
        build("concat", rows(source("x", TOKENS)), source("y", TOKENS), axis=0),
        build("transpose", rows(source("x", TOKENS)), permutation=(1, 0, 2)),
        build("reshape", rows(source("x", TOKENS)), shape=(12, 8)),
        build("softmax", build("broadcast_to", source("x", (1,)), shape=(2,))),
        build("silu", build("broadcast_to", source("x", (1, 1, 8)), shape=(2, 6, 8))),
    ],
    ids=["concat of rows", "transposed rows", "reshaped rows", "softmax over rows", "wider broadcast"],
)
def test_what_mixes_rows_stays(node: Node) -> None:
    check(ShareCfgPrefix(), module(y=node), module(y=node))


def _unet(batch: int) -> Graph:
    shapes = {name: shape for layer in unet_layers(SD15) for name, shape in layer.tensors()}
    return lower_unet(SD15, lambda name: weight(name, shapes[name]), batch, 1, 64, 64, name="unet")


def test_second_row_of_sd15_costs_nothing_before_the_first_cross_attention() -> None:
    one, two = _unet(1), _unet(2)
    (shared,) = ShareCfgPrefix().apply(Module((two,)))
    once = _first_cross_attention_prefix(one)
    assert multiplies(two) > multiplies(shared)
    assert multiplies(two) - multiplies(shared) == once
    assert sum(node.op == "broadcast_to" for node in shared.nodes()) == 1  # the skip of conv_in


def test_sd15_costs_what_the_literature_says() -> None:
    assert round(multiplies(_unet(1)) / 1e9, 1) == 401.6
    parameters = sum(prod(shape) for layer in unet_layers(SD15) for _, shape in layer.tensors())
    assert parameters == 859520964


def _first_cross_attention_prefix(graph: Graph) -> int:
    """Multiplications that the first cross-attention's query needs, in a graph of one row.

    The time embedding has one row in both graphs.
    """
    attentions = [node for node in graph.nodes() if node.op == "attention"]
    query = next(a.operands[0] for a in attentions if a.operands[0].shape[1] != a.operands[1].shape[1])
    needed = Graph("prefix", {"query": query}).nodes()
    return sum(node_multiplies(node) for node in needed if len(node.shape) > 2)
