"""Rates (binding times): how often the value of a node can change."""

from collections.abc import Iterable

from sdcomp.errors import VerifyError
from sdcomp.ir.graph import RATES, Node, topological_order


def faster(a: str, b: str) -> str:
    """The faster of two rates."""
    return max(a, b, key=RATES.index)


def node_rates(roots: Iterable[Node]) -> dict[Node, str]:
    """The rate of every node that `roots` reach, operands first: the fastest of its operands', "model"
    without inputs.

    Raises VerifyError for an input whose rate is none of RATES.
    """
    rates: dict[Node, str] = {}
    for node in topological_order(roots):
        rates[node] = _input_rate(node) if node.op == "input" else RATES[0]
        for operand in node.operands:
            rates[node] = faster(rates[node], rates[operand])
    return rates


def _input_rate(node: Node) -> str:
    rate = node.text("rate")
    if rate not in RATES:
        raise VerifyError(f"input {node.text('name')}: rate must be one of {', '.join(RATES)}, got {rate!r}")
    return rate
