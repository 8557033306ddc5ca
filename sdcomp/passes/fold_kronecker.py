"""Kronecker algebra on weight expressions: the fewest operations of full size for the same weight.

Canonical form assumed: none. While the pass runs, equal expressions are one node, as after
`eliminate_common`, so that rules know a shared factor by identity. Canonical form afterwards: that; a `kron`
whose first operand is a matrix has matrices for operands; its scale sits in its smaller factor; neighbours in
a sum share no factor. When the model is built each expression is evaluated tensor by tensor; what this pass
saves are passes over matrices as large as the weight itself.

s is a constant of one element; A, B, C are any weight expressions. Identities: Van Loan 2000, "The ubiquitous
Kronecker product".
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from sdcomp.ir.graph import Module, Node
from sdcomp.ir.ops import build
from sdcomp.passes.base import Pass, rewrite_module
from sdcomp.passes.eliminate_common import Interner
from sdcomp.passes.live import Term, split_live, with_terms
from sdcomp.passes.order_factors import order_live


@dataclass(frozen=True)
class FoldKronecker(Pass):
    """Applies the rules of this file, bottom-up, to expressions that no program input reaches.

    Weights with live adapters are brought to the form of `live`, and `order_factors` decides which of their
    terms are evaluated for activations; facts `live/<graph>/<weight>` say so.
    """

    name: ClassVar[str] = "fold_kronecker"

    def apply(self, module: Module) -> Module:
        interner = Interner()
        dynamic: set[Node] = set()

        def fold_weights(node: Node) -> Node:
            if node.op != "input" and dynamic.isdisjoint(node.operands):
                return interner.intern(fold(node))
            kept = interner.intern(_live_reshape(node) or node)
            dynamic.add(kept)
            return kept

        return order_live(rewrite_module(module, fold_weights))


def fold(node: Node) -> Node:
    """`node`, whose operands are folded and interned, in canonical form."""
    for rule in _RULES.get(node.op, ()):
        folded = rule(node)
        if folded is not None:
            return folded
    return node


def _live_reshape(node: Node) -> Node | None:
    """reshape(W + s D) = reshape(W) + s reshape(D), for live adapters' terms s D"""
    if node.op != "reshape":
        return None
    base, terms = split_live(node.operands[0])
    if not terms:
        return None
    shaped = tuple(Term(t.strength, _made("reshape", t.delta, shape=node.shape)) for t in terms)
    return with_terms(_made("reshape", base, shape=node.shape), shaped)


def _made(op: str, *operands: Node, **attributes: tuple[int, ...]) -> Node:
    return fold(build(op, *operands, **attributes))


def _scale_and_rest(node: Node) -> tuple[Node, Node] | None:
    """s and X of a node s X."""
    for scale, rest in (node.operands, node.operands[::-1]):
        if scale.op == "constant" and scale.type.elements == 1 and rest.shape == node.shape:
            return scale, rest
    return None


def _scaled_scaled(node: Node) -> Node | None:
    found = _scale_and_rest(node)
    inner = _scale_and_rest(found[1]) if found and found[1].op == "mul" else None
    if found is None or inner is None:
        return None
    return _made("mul", _constant_product(found[0], inner[0]), inner[1])


def _constant_product(a: Node, b: Node) -> Node:
    factor = _number(a) * _number(b)
    return build("constant", values=(factor,), shape=(), dtype="f32")


def _number(node: Node) -> float:
    values = node.attributes["values"]
    assert isinstance(values, tuple)
    return float(values[0])


def _scaled_reshape(node: Node) -> Node | None:
    found = _scale_and_rest(node)
    if found is None or found[1].op != "reshape" or found[1].operands[0].op != "kron":
        return None
    scale, reshaped = found
    return build("reshape", _made("mul", scale, reshaped.operands[0]), shape=node.shape)


def _scaled_kron(node: Node) -> Node | None:
    found = _scale_and_rest(node)
    if found is None or found[1].op != "kron":
        return None
    scale, (a, b) = found[0], found[1].operands
    if a.type.elements <= b.type.elements:
        return build("kron", _made("mul", scale, a), b)
    return build("kron", a, _made("mul", scale, b))


def _flat_kron(node: Node) -> Node | None:
    a, b = node.operands
    if len(a.shape) != 2 or len(b.shape) <= 2:
        return None
    flat = build("reshape", b, shape=(b.shape[0], b.type.elements // b.shape[0]))
    return build("reshape", build("kron", a, flat), shape=node.shape)


def _turned_kron(node: Node) -> Node | None:
    (x,) = node.operands
    if x.op != "kron" or node.integers("permutation") != (1, 0) or any(len(o.shape) != 2 for o in x.operands):
        return None
    return build("kron", *(build("transpose", o, permutation=(1, 0)) for o in x.operands))


def _sum_of_reshapes(node: Node) -> Node | None:
    a, b = node.operands
    if a.op != "reshape" or b.op != "reshape" or a.shape != b.shape:
        return None
    (x,), (y,) = a.operands, b.operands
    total = _shared_sum(x, y)
    return build("reshape", total, shape=node.shape) if total else None


def _sum_of_krons(node: Node) -> Node | None:
    return _shared_sum(*node.operands)


def _shared_sum(x: Node, y: Node) -> Node | None:
    """kron(A, B) + kron(A, C) = kron(A, B + C) and kron(A, C) + kron(B, C) = kron(A + B, C)"""
    if x.op != "kron" or y.op != "kron":
        return None
    (a, b), (c, d) = x.operands, y.operands
    if a is c and b.shape == d.shape:
        return build("kron", a, _made("add", b, d))
    if b is d and a.shape == c.shape:
        return build("kron", _made("add", a, c), b)
    return None


def _associated_sum(node: Node) -> Node | None:
    inner, y = node.operands
    if inner.op != "add" or inner.shape != node.shape:
        return None
    rest, x = inner.operands
    if rest.shape != node.shape or x.shape != y.shape:
        return None
    pair = build("add", x, y)
    total = fold(pair)
    return _made("add", rest, total) if total is not pair else None


_RULES: dict[str, tuple[Callable[[Node], Node | None], ...]] = {
    "mul": (
        # s (t X) = (s t) X
        _scaled_scaled,
        # s reshape(kron(A, B)) = reshape(s kron(A, B))
        _scaled_reshape,
        # s kron(A, B) = kron(s A, B) = kron(A, s B)
        _scaled_kron,
    ),
    # kron(A[l,m], B[k,n,...]) = reshape(kron(A, reshape(B, [k, n ...]))): B's further axes are innermost on
    # both sides
    "kron": (_flat_kron,),
    # kron(A, B)^T = kron(A^T, B^T)
    "transpose": (_turned_kron,),
    "add": (
        # kron(A, B) + kron(A, C) = kron(A, B + C)
        _sum_of_krons,
        # reshape(X) + reshape(Y) = reshape(X + Y), where X + Y folds
        _sum_of_reshapes,
        # (W + X) + Y = W + (X + Y), where X + Y folds
        _associated_sum,
    ),
}
