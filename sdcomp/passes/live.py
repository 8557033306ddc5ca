"""Weights with live adapters: W + s1 D1 + s2 D2 ..., where each strength s is an input of the program.

W and every D are weight expressions that no input reaches. A strength is one element of the input
`strengths`, which changes at rate `model`: it is fixed for a run, and enters nothing but weights, so no
program computes anything of it that another one needs.
"""

from dataclasses import dataclass
from functools import cache
from math import prod

from sdcomp.ir.graph import RATES, Node
from sdcomp.ir.ops import build
from sdcomp.ir.types import DType
from sdcomp.runtime.strengths import STRENGTHS

_ONE = build("constant", values=(1.0,), shape=(1, 1), dtype="f32")


@dataclass(frozen=True)
class Term:
    """strength * delta"""

    strength: Node
    delta: Node


@dataclass(frozen=True)
class Factors:
    """A delta [O, I, kernel ...] as zeros around kron(outer, inner): its rows from `start` on are

        delta[i o + c, j n + d, ...] = outer[i, j] inner[c, d ...]

    for outer[f, g] and inner[o, n ...], whose further axes are flattened into its columns. A delta that is no
    Kronecker product has the outer factor [[1]].
    """

    outer: Node
    inner: Node
    start: int = 0

    @property
    def rows(self) -> int:
        """Rows that are not zero by construction."""
        return self.inner.shape[0] * self.outer.shape[0]

    @property
    def is_kronecker(self) -> bool:
        return self.outer is not _ONE


def strength(index: int, count: int) -> Node:
    """Element `index` of the input `strengths`, which has `count`: f32[1]."""
    return build("slice", _strengths(count), axis=0, start=index, stop=index + 1)


@cache
def _strengths(count: int) -> Node:
    """One node for all weights: a graph may not have two inputs of one name."""
    return build("input", name=STRENGTHS, rate=RATES[0], shape=(count,), dtype="f32")


def is_strength(node: Node) -> bool:
    """Whether a node is one strength."""
    source = node.operands[0] if node.op == "slice" else node
    return source.op == "input" and source.text("rate") == RATES[0] and node.type.elements == 1


def split_live(weight: Node) -> tuple[Node, tuple[Term, ...]]:
    """W and the terms of W + s1 D1 + s2 D2 ..., in order; any other node is a W without terms."""
    terms: list[Term] = []
    while weight.op == "add" and _is_term(weight.operands[1]):
        weight, product = weight.operands
        terms.insert(0, Term(*product.operands))
    return weight, tuple(terms)


def _is_term(node: Node) -> bool:
    return node.op == "mul" and is_strength(node.operands[0])


def with_terms(weight: Node, terms: tuple[Term, ...]) -> Node:
    """W + s1 D1 + s2 D2 ..."""
    for term in terms:
        weight = build("add", weight, build("mul", term.strength, term.delta))
    return weight


def framed(rows: Node, start: int, count: int) -> Node:
    """Zeros with `rows` from row `start` on, `count` rows in all; an expression `factors` understands."""
    ends = (start, count - start - rows.shape[0])
    before, after = (
        [build("constant", values=(0.0,), shape=(end, *rows.shape[1:]), dtype="f32")] if end else []
        for end in ends
    )
    if not any(ends):
        return rows
    wide = rows if rows.dtype is DType.F32 else build("cast", rows, dtype=DType.F32.value)
    return build("concat", *before, wide, *after, axis=0)


def factors(delta: Node) -> Factors:
    """The factors of a delta that `fold_kronecker` has brought to its canonical form."""
    matrix = _as_matrix(delta)
    start = 0
    if matrix.op == "concat" and matrix.integer("axis") == 0:
        parts = [part for part in matrix.operands if not _is_zero(part)]
        if len(parts) == 1:
            start = sum(part.shape[0] for part in matrix.operands[: matrix.operands.index(parts[0])])
            matrix = _as_matrix(parts[0])
    if matrix.op == "kron":
        outer, inner = matrix.operands
        return Factors(outer, inner, start)
    return Factors(_ONE, matrix, start)


def low_rank(inner: Node) -> tuple[float, Node, Node] | None:
    """scale, L[o, r] and R[n, r] of an inner factor scale L R^T; None for one that is no product."""
    scale = 1.0
    while True:
        inner = _as_matrix(inner)
        factor, rest = _scaled(inner)
        if rest is inner:
            break
        scale, inner = scale * factor, rest
    if inner.op != "matmul" or len(inner.operands[0].shape) != 2:
        return None
    left, right = inner.operands
    return scale, left, right


def _scaled(node: Node) -> tuple[float, Node]:
    """s and X of s X, under what keeps the matrix; 1 and the node itself for any other."""
    under = node.operands[0] if node.op == "reshape" else node
    if (
        under.shape[:1] != node.shape[:1]
        or under.op != "mul"
        or under.operands[0].op != "constant"
        or under.operands[0].type.elements != 1
    ):
        return 1.0, node
    values = under.operands[0].attributes["values"]
    assert isinstance(values, tuple)
    return float(values[0]), under.operands[1]


def _as_matrix(node: Node) -> Node:
    """A node as a matrix of its first axis and all others; reshapes that keep the first are undone."""
    while node.op == "reshape" and node.operands[0].shape[:1] == node.shape[:1]:
        (node,) = node.operands
    shape = (node.shape[0], prod(node.shape[1:]))
    return node if node.shape == shape else build("reshape", node, shape=shape)


def _is_zero(node: Node) -> bool:
    return node.op == "constant" and node.attributes["values"] == (0.0,)
