"""Applies adapters to the weights they target, as expressions: no number is read here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from sdcomp.errors import PassError
from sdcomp.ir.graph import Module, Node
from sdcomp.passes.base import Pass, rewrite_module

Update = Callable[[Node], Node]
"""From a weight expression to the one with one adapter applied; LoKr's is W to W + strength * delta."""

CHECKPOINT = "model"
"""The `file` of a weight node that belongs to the checkpoint."""


@dataclass(frozen=True)
class AdapterPlan:
    """What adapters do: the updates of each weight, by canonical name, in the order of the adapters.

    `unmatched` are modules of the adapters that the model does not have, `warnings` doubts about the files.
    """

    updates: Mapping[str, tuple[Update, ...]] = field(default_factory=dict)
    unmatched: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ApplyAdapters(Pass):
    """Replaces every targeted weight W by its updated expression; without targets the module stays as it is.

    Raises PassError for a target that no graph reads, and for an update that changes a weight's shape.
    """

    plan: AdapterPlan
    name: ClassVar[str] = "apply_adapters"

    def apply(self, module: Module) -> Module:
        unread = set(self.plan.updates)

        def update(node: Node) -> Node | None:
            if node.op != "weight" or node.text("file") != CHECKPOINT:
                return None
            unread.discard(node.text("name"))
            return _updated(node, self.plan.updates.get(node.text("name"), ()))

        result = rewrite_module(module, update)
        if unread:
            raise PassError(
                f"apply_adapters: no graph reads the targeted weight {min(unread)} ({len(unread)} such)"
            )
        return result


def _updated(weight: Node, updates: tuple[Update, ...]) -> Node:
    result = weight
    for update in updates:
        result = update(result)
    if result.shape != weight.shape:
        name = weight.text("name")
        raise PassError(
            f"apply_adapters: the update of {name} {weight.type} has another shape: {result.type}"
        )
    return result
