"""Live adapters: weights become W + s D with factors in D and a strength s that every run sets anew.

Each live adapter has two strengths, the UNet's and the text encoder's, which follow each other in the input
`strengths` of the programs, adapter by adapter.
"""

from collections.abc import Callable

from sdcomp.frontend.adapters.algorithms import ALGORITHMS
from sdcomp.frontend.adapters.aliases import Target
from sdcomp.frontend.adapters.dora import dora_suffix
from sdcomp.frontend.adapters.expressions import shaped, transposed
from sdcomp.frontend.adapters.group import Group
from sdcomp.frontend.adapters.lora import is_embedding
from sdcomp.frontend.adapters.suffixes import MID
from sdcomp.ir.graph import Node
from sdcomp.passes.live import Term, framed, strength, with_terms

COMPONENTS = 2
"""Strengths of one adapter: the UNet's, and the text encoder's."""


def live_strength(adapter: int, adapters: int, target: Target) -> Node:
    """The strength of live adapter number `adapter` of so many for a module of the UNet or text encoder."""
    return strength(COMPONENTS * adapter + target.is_text, COMPONENTS * adapters)


def live_update(group: Group, file: str, target: Target, factor: Node) -> Callable[[Node], Node]:
    """From W to W + factor D.

    Raises AdapterError for what has no factors to keep apart, or changes more than a weight: only LoKr and
    LoRA can be live, without DoRA, Tucker form (`lora_mid`), embedding tables and biases.
    """
    reason = _obstacle(group, target)
    if reason is not None:
        raise group.error(f"{reason} cannot be applied at run time; fold the file in with --lokr, not --live")
    make_delta = ALGORITHMS[group.algorithm].delta
    assert make_delta is not None
    delta = make_delta(group, file, target.shape)

    def update(weight: Node) -> Node:
        return with_terms(weight, (Term(factor, _placed(delta, weight, target)),))

    return update


def _obstacle(group: Group, target: Target) -> str | None:
    algorithm = ALGORITHMS[group.algorithm]
    if algorithm.delta is None:
        return group.algorithm
    if dora_suffix(group) is not None:
        return f"{group.algorithm} with DoRA"
    if MID in group.factors:
        return f"{group.algorithm} in Tucker form"
    if is_embedding(group):
        return f"{group.algorithm} of an embedding table"
    if algorithm.bias is not None and algorithm.has_bias(group, target.shape):
        return f"{group.algorithm} with a bias"
    return None


def _placed(delta: Node, weight: Node, target: Target) -> Node:
    """The delta in the weight's own shape: turned where the weight is, zeros for rows of other modules."""
    if target.turned:
        return transposed(delta)
    if target.rows is None:
        return shaped(delta, weight.shape)
    return framed(delta, target.rows[0], weight.shape[0])
