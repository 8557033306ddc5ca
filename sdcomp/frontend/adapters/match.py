"""Finds the weights that adapters target, and plans their updates."""

from collections.abc import Callable, Mapping, Sequence

from sdcomp.errors import AdapterError
from sdcomp.frontend.adapters.aliases import Target, module_aliases
from sdcomp.frontend.adapters.expressions import scaled, shaped
from sdcomp.frontend.adapters.lokr import lokr_delta, lokr_input_width
from sdcomp.frontend.adapters.reader import LOKR, Adapter, Group, adapter_id, listed
from sdcomp.frontend.config import ModelConfig
from sdcomp.ir.graph import Node
from sdcomp.ir.ops import build
from sdcomp.ir.types import Shape
from sdcomp.passes.apply_adapters import AdapterPlan, Update

DELTAS: dict[str, Callable[[Group, str, Shape], Node]] = {LOKR: lokr_delta}
"""Algorithm to what makes W's difference from a group's tensors, the adapter's id and W's shape."""

INPUT_WIDTHS: dict[str, Callable[[Group], int | None]] = {LOKR: lokr_input_width}

CONTEXT_MODULES = ("attn2_to_k", "attn2.to_k")

CONTEXT_FAMILIES = {
    768: "Stable Diffusion 1",
    1024: "Stable Diffusion 2",
    2048: "SDXL",
    1280: "the SDXL refiner",
}
"""Channels of the text encoder's output, which cross-attention reads, to the family that has them."""


def match(adapters: Sequence[Adapter], config: ModelConfig, allow_unmatched: bool = False) -> AdapterPlan:
    """The plan for all adapters, stacked in the order given; strength 0 leaves the weight as it is.

    Raises AdapterError, naming file and module, for modules that the model does not have (unless
    `allow_unmatched`: they are in the plan then), for two modules of one file that are the same, for an
    algorithm that is not supported, and for tensors that do not fit.
    """
    aliases = module_aliases(config)
    updates: dict[str, tuple[Update, ...]] = {}
    unmatched: list[str] = []
    for index, adapter in enumerate(adapters):
        hint = _family_hint(adapter, config.unet.context_channels)
        matched = _matched(adapter, aliases)
        missing = [group.module for group in adapter.groups if group.module not in aliases]
        if missing and not allow_unmatched:
            count = f"{len(missing)} of {len(adapter.groups)} modules are not in this model"
            raise AdapterError(f"{adapter.file.path}: {count}{hint}: {listed(missing)}")
        unmatched += missing
        for target, group in matched.items():
            strength = adapter.text_strength if target.is_text else adapter.strength
            update = _update(group, adapter_id(index), target, strength, hint)
            if strength != 0:
                updates[target.weight] = (*updates.get(target.weight, ()), update)
    return AdapterPlan(updates, tuple(unmatched))


def _matched(adapter: Adapter, aliases: Mapping[str, Target]) -> dict[Target, Group]:
    matched: dict[Target, Group] = {}
    for group in adapter.groups:
        target = aliases.get(group.module)
        if target is None:
            continue
        other = matched.setdefault(target, group)
        if other is not group:
            raise group.error(
                f"is the same module as {other.module!r}, {target.weight}; remove one of the two"
            )
    return matched


def _update(group: Group, file: str, target: Target, strength: float, hint: str) -> Update:
    make_delta = DELTAS.get(group.algorithm)
    if make_delta is None:
        raise group.error(
            f"{group.algorithm} is not supported by this version, which reads {', '.join(DELTAS)}"
        )
    try:
        delta = scaled(strength, make_delta(group, file, target.shape))
    except AdapterError as error:
        raise AdapterError(f"{error}{hint}") from None
    return lambda weight: build("add", weight, shaped(delta, weight.shape))


def _family_hint(adapter: Adapter, context_channels: int) -> str:
    for group in adapter.groups:
        if not group.module.endswith(CONTEXT_MODULES) or group.algorithm not in INPUT_WIDTHS:
            continue
        width = INPUT_WIDTHS[group.algorithm](group)
        if width in CONTEXT_FAMILIES and width != context_channels:
            return f" (it looks like an adapter for {CONTEXT_FAMILIES[width]})"
    return ""
