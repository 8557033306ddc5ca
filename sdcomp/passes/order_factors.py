"""order_factors: in which order a live adapter's factors are evaluated, per module, by multiply-accumulates.

For y = (W + s delta) x over n rows (pixels of a convolution), with delta = kron(A, B) of the weight's shape
[O, I, taps], A[f, g], B[O / f, I / g, taps]; R is the number of rows for which a kernel reads a panel of the
weight once:

    into the weights   s A[i, j] B is added to each panel as it is read:     ceil(n / R) O I taps
    B first            z_j = B x_j for each block j, y_i += s sum_j A[i, j] z_j:   n (g I/g O/f + f g O/f)
    A first            z_i = sum_j A[i, j] x_j, y_i += s B z_i:                    n (f g I/g + f I/g O/f)
    through the rank   B = L R^T, in one of the last two orders or, without A, alone: B x = L (R^T x)

The first one is fused into the kernel of W and computes nothing per row, so that it wins from a few rows on.
It needs B as a whole in the payload, so a delta that is a plain product L R^T (LoRA), whose B is as large as
W itself, goes through its rank. Convolutions keep their taps in B: they take the first order or, without A,
the rank.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod

from sdcomp.errors import PassError
from sdcomp.ir.graph import RATES, Graph, Module, Node, topological_order
from sdcomp.ir.ops import build
from sdcomp.ir.rates import node_rates
from sdcomp.ir.rewrite import rebuild, rewrite
from sdcomp.passes.apply_adapters import CHECKPOINT
from sdcomp.passes.base import with_graphs
from sdcomp.passes.live import Factors, Term, factors, framed, low_rank, split_live, with_terms

LEAST_ROWS = 64
"""R: tiles of a contraction have at least so many rows where a map has them, and Winograd's as many tiles."""

CONTRACTIONS = ("matmul", "conv2d")
FACT = "live/"
"""Facts `live/<graph>/<weight>` say what was chosen."""

INTO_WEIGHTS, INNER_FIRST, OUTER_FIRST, RANK = "into the weights", "B first", "A first", "through the rank"


@dataclass(frozen=True)
class Choice:
    """An order, what it costs, and the nodes of delta x; None where the weight keeps its term."""

    order: str
    multiplies: int
    evaluate: Callable[[], Node] | None

    def __str__(self) -> str:
        return f"{self.order}: {self.multiplies}"


def order_live(module: Module) -> Module:
    """Evaluates live terms of weights where that is cheaper than adding them to the weight.

    Raises PassError for a live weight that is no matrix and no filter of a convolution.
    """
    facts, graphs = dict(module.facts), []
    for graph in module:
        _check_users(graph)
        chosen: dict[str, str] = {}
        graphs.append(rewrite(graph, partial(_ordered, chosen=chosen)))
        facts |= {f"{FACT}{graph.name}/{weight}": text for weight, text in chosen.items()}
    return Module(with_graphs(module, graphs).graphs, facts)


def live_orders(module: Module) -> dict[str, dict[str, str]]:
    """What `order_live` chose: graph to weight to orders with their multiply-accumulates."""
    orders: dict[str, dict[str, str]] = {}
    for name, text in module.facts.items():
        if name.startswith(FACT):
            graph, weight = name.removeprefix(FACT).split("/")
            orders.setdefault(graph, {})[weight] = text
    return orders


def choose(node: Node, term: Term) -> Choice:
    """The cheapest order of a term of the weight of a matmul or conv2d."""
    return min(_candidates(node, factors(term.delta)), key=lambda choice: choice.multiplies)


def _ordered(node: Node, chosen: dict[str, str]) -> Node | None:
    """y = W x + s1 D1 x + ..., where a term Dx is taken out of the weight if that is cheaper."""
    if node.op not in CONTRACTIONS:
        return None
    x, weight = node.operands
    base, terms = split_live(weight)
    if not terms:
        return None
    choices = [choose(node, term) for term in terms]
    chosen[_name(base)] = "; ".join(map(str, choices))
    kept = tuple(t for t, choice in zip(terms, choices, strict=True) if choice.evaluate is None)
    result = rebuild(node, (x, with_terms(base, kept)))
    for term, choice in zip(terms, choices, strict=True):
        if choice.evaluate is not None:
            result = build("add", result, build("mul", choice.evaluate(), term.strength))
    return result


def _candidates(node: Node, parts: Factors) -> Iterator[Choice]:
    x, weight = node.operands
    rows, product = prod(node.shape[:-1]), low_rank(parts.inner)
    if not parts.is_kronecker and product is not None:
        cost = rows * product[1].shape[1] * (weight.shape[0] + prod(weight.shape[1:]))
        yield Choice(RANK, cost, lambda: _through_rank(node, parts.start, *product))
        return
    yield Choice(INTO_WEIGHTS, -(-rows // LEAST_ROWS) * weight.type.elements, None)
    if node.op != "matmul" or not parts.is_kronecker or weight.shape[0] != parts.rows:
        return
    outer, (outputs, inputs) = parts.outer, parts.inner.shape
    f, g = outer.shape
    inner = outputs * inputs if product is None else product[1].shape[1] * (outputs + inputs)
    suffix = "" if product is None else f", B {RANK}"
    yield Choice(
        INNER_FIRST + suffix,
        rows * (g * inner + f * g * outputs),
        lambda: _flat(_mixed(_by_inner(_blocks(x, g), parts.inner), outer)),
    )
    yield Choice(
        OUTER_FIRST + suffix,
        rows * (f * inner + f * g * inputs),
        lambda: _flat(_by_inner(_mixed(_blocks(x, g), outer), parts.inner)),
    )


def _through_rank(node: Node, start: int, scale: float, left: Node, right: Node) -> Node:
    """(scale L R^T) x = (scale L) (R^T x); rows of zeros of the delta are rows of zeros of L"""
    x, weight = node.operands
    left = framed(_scaled(scale, left), start, weight.shape[0])
    down = build("transpose", right, permutation=(1, 0))
    if node.op == "matmul":
        return build("matmul", build("matmul", x, down), left)
    filters = build("reshape", down, shape=(down.shape[0], *weight.shape[1:]))
    return build("matmul", rebuild(node, (x, filters)), left)


def _blocks(x: Node, count: int) -> Node:
    """x[..., count n] as [..., count, n]"""
    return build("reshape", x, shape=(*x.shape[:-1], count, x.shape[-1] // count))


def _flat(y: Node) -> Node:
    """[..., f, o] as [..., f o]"""
    return build("reshape", y, shape=(*y.shape[:-2], y.shape[-2] * y.shape[-1]))


def _by_inner(x: Node, inner: Node) -> Node:
    """B x_j for every block x_j of x[..., g, n]: [..., g, o]"""
    product = low_rank(inner)
    if product is None:
        return build("matmul", x, inner)
    scale, left, right = product
    down = build("transpose", right, permutation=(1, 0))
    return build("matmul", build("matmul", x, down), _scaled(scale, left))


def _mixed(x: Node, outer: Node) -> Node:
    """sum_j A[i, j] x_j over the blocks of x[..., g, n]: [..., f, n]"""
    axes = tuple(range(len(x.shape)))
    swap = (*axes[:-2], axes[-1], axes[-2])
    mixed = build("matmul", build("transpose", x, permutation=swap), outer)
    return build("transpose", mixed, permutation=swap)


def _scaled(scale: float, node: Node) -> Node:
    if scale == 1:
        return node
    return build("mul", build("constant", values=(scale,), shape=(), dtype="f32"), node)


def _check_users(graph: Graph) -> None:
    """Raises PassError where something else than a contraction reads a live weight."""
    rates = node_rates(graph.outputs.values())
    for user in rates:
        for index, operand in enumerate(user.operands):
            is_weight = user.op in CONTRACTIONS and index == 1
            if rates[user] != RATES[0] and not is_weight and split_live(operand)[1]:
                name = _name(operand)
                raise PassError(
                    f"{name}: it is read by {user.op}, which takes no live adapter; fold the adapter into it "
                    "with --lokr instead of --live"
                )


def _name(weight: Node) -> str:
    """The canonical name of the checkpoint's tensor in a weight expression."""
    nodes = topological_order([weight])
    return next(n.text("name") for n in nodes if n.op == "weight" and n.text("file") == CHECKPOINT)
