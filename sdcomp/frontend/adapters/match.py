"""Finds the weights that adapters target, and plans their updates."""

from collections.abc import Iterator, Mapping, Sequence
from math import prod

from sdcomp.errors import AdapterError
from sdcomp.frontend.adapters.algorithms import ALGORITHMS, Change
from sdcomp.frontend.adapters.aliases import Target, module_aliases
from sdcomp.frontend.adapters.audit import check_values
from sdcomp.frontend.adapters.expressions import shaped, transposed
from sdcomp.frontend.adapters.group import Group
from sdcomp.frontend.adapters.lint import warnings_of
from sdcomp.frontend.adapters.live import live_strength, live_update
from sdcomp.frontend.adapters.reader import Adapter, adapter_id, listed
from sdcomp.frontend.config import ModelConfig
from sdcomp.ir.graph import Node
from sdcomp.ir.ops import build
from sdcomp.ir.types import Shape
from sdcomp.passes.apply_adapters import CHECKPOINT, AdapterPlan, Update

CONTEXT_MODULES = ("attn2_to_k", "attn2.to_k")

CONTEXT_FAMILIES = {
    768: "Stable Diffusion 1",
    1024: "Stable Diffusion 2",
    2048: "SDXL",
    1280: "the SDXL refiner",
}
"""Channels of the text encoder's output, which cross-attention reads, to the family that has them."""

MOST_GROWTH = 64
SMALL, LARGE = 1 << 20, 1 << 24
"""A factor may have MOST_GROWTH times the elements of the weight; SMALL elements always, more than LARGE only
where the weight has half as many.
"""


def match(adapters: Sequence[Adapter], config: ModelConfig, allow_unmatched: bool = False) -> AdapterPlan:
    """The plan for all adapters, stacked in the order given, live ones after all others.

    At strength 0 others than live ones leave the weight as it is.

    Raises AdapterError, naming file and module, for modules that the model does not have (unless
    `allow_unmatched`: they are in the plan then), for two modules of one file that are the same, for tensors
    that do not fit, and for values that no weight can come of.
    """
    aliases = module_aliases(config)
    plan = match_aliases(adapters, aliases, config.unet.context_channels, allow_unmatched)
    check_values(adapters, aliases)
    return plan


def match_aliases(
    adapters: Sequence[Adapter],
    aliases: Mapping[str, Target],
    context_channels: int,
    allow_unmatched: bool = False,
) -> AdapterPlan:
    """`match`, of a model that has these modules; `context_channels` are those that cross-attention reads."""
    updates: dict[str, tuple[Update, ...]] = {}
    unmatched: list[str] = []
    warnings: list[str] = []
    live = [adapter for adapter in adapters if adapter.is_live]
    for index, adapter in sorted(enumerate(adapters), key=lambda pair: pair[1].is_live):
        hint = _family_hint(adapter, context_channels)
        matched = _matched(adapter, aliases)
        unmatched += _missing(adapter, aliases, hint, allow_unmatched)
        warnings += warnings_of(adapter)
        for (target, _), group in matched.items():
            try:
                if adapter.is_live:
                    found = _live_updates(group, adapter_id(index), target, live.index(adapter), len(live))
                else:
                    found = _folded_updates(group, adapter_id(index), target, adapter)
            except AdapterError as error:
                raise AdapterError(f"{error}{hint}") from None
            for name, update in found:
                updates[name] = (*updates.get(name, ()), update)
    return AdapterPlan(updates, tuple(unmatched), tuple(warnings))


def _missing(
    adapter: Adapter, aliases: Mapping[str, Target], hint: str, allow_unmatched: bool
) -> tuple[str, ...]:
    """Modules that the model does not have; an AdapterError unless that is allowed."""
    modules = tuple(dict.fromkeys(group.module for group in adapter.groups))
    missing = tuple(module for module in modules if module not in aliases)
    if missing and not allow_unmatched:
        count = f"{len(missing)} of {len(modules)} modules are not in this model"
        raise AdapterError(f"{adapter.file.path}: {count}{hint}: {listed(list(missing))}")
    return missing


def _matched(adapter: Adapter, aliases: Mapping[str, Target]) -> dict[tuple[Target, str], Group]:
    """Groups by target and algorithm: two algorithms may change one weight, one may not do so twice."""
    matched: dict[tuple[Target, str], Group] = {}
    for group in adapter.groups:
        target = aliases.get(group.module)
        if target is None:
            continue
        other = matched.setdefault((target, group.algorithm), group)
        if other is not group:
            raise group.error(
                f"is the same module as {other.module!r}, {target.weight}; remove one of the two"
            )
    return matched


def _live_updates(
    group: Group, file: str, target: Target, number: int, count: int
) -> list[tuple[str, Update]]:
    _check_sizes(group, target.shape)
    return [(target.weight, live_update(group, file, target, live_strength(number, count, target)))]


def _folded_updates(group: Group, file: str, target: Target, adapter: Adapter) -> list[tuple[str, Update]]:
    """Those of an adapter that is not live; none at strength 0, though what does not fit shows there too."""
    strength = adapter.text_strength if target.is_text else adapter.strength
    found = list(group_updates(group, file, target, strength))
    return found if strength != 0 else []


def group_updates(group: Group, file: str, target: Target, strength: float) -> Iterator[tuple[str, Update]]:
    """Names of the tensors that the group changes, and how. Each is tried once: what does not fit raises an
    AdapterError.
    """
    _check_sizes(group, target.shape)
    algorithm = ALGORITHMS[group.algorithm]
    if algorithm.weight is not None and algorithm.has_weight(group, target.shape):
        yield target.weight, _update(algorithm.weight, group, file, target, strength)
    if algorithm.bias is None or not algorithm.has_bias(group, target.shape):
        return
    if target.bias is not None:
        vector = Target(target.bias, target.shape[:1], target.is_text, rows=target.rows)
        yield target.bias, _update(algorithm.bias, group, file, vector, strength)
    elif not algorithm.optional_bias:
        raise group.error(f"changes a bias, but {target.weight} has none")


def _update(change: Change, group: Group, file: str, target: Target, strength: float) -> Update:
    probe = build("weight", name=target.weight, file=CHECKPOINT, shape=target.shape, dtype="f32")
    change(group, file, probe, strength)

    def update(weight: Node) -> Node:
        """Checkpoints may store a 1x1 convolution as a matrix: the algorithm sees the target's own shape."""
        part = _part(weight, target)
        changed = change(group, file, shaped(part, target.shape), strength)
        return _put_back(weight, shaped(changed, part.shape), target)

    return update


def _part(weight: Node, target: Target) -> Node:
    if target.turned:
        return transposed(weight)
    if target.rows is None:
        return weight
    return _rows(weight, *target.rows)


def _put_back(weight: Node, changed: Node, target: Target) -> Node:
    if target.turned:
        return transposed(changed)
    if target.rows is None:
        return changed
    start, stop = target.rows
    ends = ((0, start), (stop, weight.shape[0]))
    before, after = ([_widened(_rows(weight, *end))] if end[0] < end[1] else [] for end in ends)
    return build("concat", *before, changed, *after, axis=0)


def _rows(weight: Node, start: int, stop: int) -> Node:
    return build("slice", weight, axis=0, start=start, stop=stop)


def _widened(node: Node) -> Node:
    return node if node.dtype.value == "f32" else build("cast", node, dtype="f32")


def _check_sizes(group: Group, shape: Shape) -> None:
    """No trainer makes factors that are much larger than the weight; this bounds the memory of a build."""
    limit = max(min(MOST_GROWTH * prod(shape), LARGE), 2 * prod(shape), SMALL)
    for suffix, kind in group.factors.items():
        if kind.elements > limit:
            found = f"{list(kind.shape)} is absurdly large for a weight {list(shape)}"
            raise group.error(f"{found}; the file is damaged or hostile", suffix)


def trained_context_channels(adapter: Adapter) -> int | None:
    """Channels of the text that adapted cross-attention reads, if `CONTEXT_FAMILIES` has them."""
    for group in adapter.groups:
        input_width = ALGORITHMS[group.algorithm].input_width
        if not group.module.endswith(CONTEXT_MODULES) or input_width is None:
            continue
        width = input_width(group)
        if width in CONTEXT_FAMILIES:
            return width
    return None


def _family_hint(adapter: Adapter, context_channels: int) -> str:
    found = trained_context_channels(adapter)
    if found is None or found == context_channels:
        return ""
    return f" (it looks like an adapter for {CONTEXT_FAMILIES[found]})"
