"""pack_projections: which attentions, into what graph, and the same values."""

import pytest

from sdcomp.ir.compare import equal
from sdcomp.ir.graph import Node
from sdcomp.ir.ops import build
from sdcomp.passes.live import Term, factors, split_live, strength, with_terms
from sdcomp.passes.pack_projections import PackProjections
from tests.passes.graphs import check, check_values, module, source, weight

X, CONTEXT = source("x", (2, 6, 8)), source("context", (2, 5, 8))
WIDTHS = {"q": 8, "k": 8, "v": 8}


def _weight(name: str, dtype: str = "f32") -> Node:
    return weight(f"{name}.weight", (WIDTHS[name], 8), dtype=dtype)


def _bias(name: str) -> Node:
    return weight(f"{name}.bias", (WIDTHS[name],))


def _attention(*operands: Node) -> Node:
    return build("attention", *operands, heads=2, causal=True)


def _sliced(packed: Node) -> Node:
    return _attention(*(build("slice", packed, axis=2, start=8 * n, stop=8 * n + 8) for n in range(3)))


def _product(x: Node, name: str, bias: bool = False, dtype: str = "f32") -> Node:
    product = build("matmul", x, _weight(name, dtype))
    return build("add", product, _bias(name)) if bias else product


def test_packs_products() -> None:
    weights = build("concat", *(_weight(name) for name in "qkv"), axis=0)
    before = _attention(*(_product(X, name) for name in "qkv"))
    check(PackProjections(), module(y=before), module(y=_sliced(build("matmul", X, weights))))


def test_packs_biases() -> None:
    weights = build("concat", *(_weight(name) for name in "qkv"), axis=0)
    biases = build("concat", *(_bias(name) for name in "qkv"), axis=0)
    before = _attention(*(_product(X, name, bias=True) for name in "qkv"))
    packed = build("add", build("matmul", X, weights), biases)
    check(PackProjections(), module(y=before), module(y=_sliced(packed)))


def test_widens_where_types_differ() -> None:
    """As where an adapter changes some of the projections of a checkpoint in f16."""
    changed = build("add", _weight("q", "f16"), weight("delta", (8, 8), "adapter0"))
    plain = [build("cast", _weight(name, "f16"), dtype="f32") for name in "kv"]
    before = _attention(build("matmul", X, changed), *(_product(X, name, dtype="f16") for name in "kv"))
    after = _sliced(build("matmul", X, build("concat", changed, *plain, axis=0)))
    check(PackProjections(), module(y=before), module(y=after))


def test_packs_live_terms() -> None:
    """Each stays a term, of its rows of the packed weight."""
    delta = build("kron", weight("a", (2, 2), "adapter0"), weight("b", (4, 4), "adapter0"))
    weights = [with_terms(_weight(name), (Term(strength(0, 2), delta),)) for name in "qv"]
    q, v = (build("matmul", X, live) for live in weights)
    before = module(y=_attention(q, _product(X, "k"), v))
    after = PackProjections().apply(before)
    (product,) = (node for node in after.graphs[0].nodes() if node.op == "matmul")
    base, terms = split_live(product.operands[1])
    assert base.op == "concat"
    assert [(factors(t.delta).start, factors(t.delta).outer.shape) for t in terms] == [
        (0, (2, 2)),
        (16, (2, 2)),
    ]
    check_values(before, after)


@pytest.mark.parametrize(
    "operands",
    [
        pytest.param([_product(X, "q"), _product(CONTEXT, "k"), _product(CONTEXT, "v")], id="two inputs"),
        pytest.param([_product(X, "q"), _product(X, "k"), _product(X, "v", bias=True)], id="one bias"),
        pytest.param([_product(X, "q"), _product(X, "k"), X], id="no product"),
        pytest.param(
            [_product(X, "q"), _product(X, "k"), build("matmul", X, source("w", (8, 8)))], id="not constant"
        ),
    ],
)
def test_leaves_others(operands: list[Node]) -> None:
    before = module(y=_attention(*operands))
    assert equal(PackProjections().apply(before), before)
