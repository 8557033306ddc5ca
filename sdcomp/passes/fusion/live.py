"""Live adapters that a contraction adds to its weight: their factors as the kernel reads them."""

from math import prod

from sdcomp.codegen.kernels.live import KroneckerTerm
from sdcomp.codegen.plan import Buffer, View
from sdcomp.codegen.weights import InnerFactor, OuterFactor, Panels
from sdcomp.errors import PassError
from sdcomp.ir.graph import Node
from sdcomp.passes.fusion.lowering import Lowering, label
from sdcomp.passes.live import Term, factors


def lower_terms(
    weight: Node, terms: tuple[Term, ...], panels: Panels, lowering: Lowering
) -> tuple[tuple[KroneckerTerm, ...], list[View | Buffer]]:
    """The terms of a weight stored in `panels`, and their operands: strength, outer and inner factor of each.

    Raises PassError where factors do not fit the weight.
    """
    live: list[KroneckerTerm] = []
    operands: list[View | Buffer] = []
    taps = prod(weight.shape[2:])
    for term in terms:
        parts = factors(term.delta)
        outer, inner = parts.outer, parts.inner
        depth, start = inner.shape[1] // taps, parts.start
        kind = KroneckerTerm(outer.shape[1], inner.shape[0], depth, start, start + parts.rows)
        if kind.blocks * kind.depth * taps != prod(weight.shape[1:]) or kind.stop > weight.shape[0]:
            found = f"factors {outer.type} and {inner.type}"
            raise PassError(f"{label(weight)}: {found} do not fit {weight.type}")
        columns = OuterFactor(panels.width, panels.gated, kind.columns, parts.start, weight.shape[0])
        live.append(kind)
        operands.append(lowering.view(term.strength))
        operands.append(lowering.weight(outer, columns))
        operands.append(lowering.weight(inner, InnerFactor(taps, lowering.target.lanes)))
    return tuple(live), operands
