"""Warnings: adapters that can be read in one way only, though their author may have meant another."""

from collections.abc import Iterator
from math import isclose, isfinite, sqrt

from sdcomp.frontend.adapters import peft
from sdcomp.frontend.adapters.factors import SAME_ALPHA
from sdcomp.frontend.adapters.group import Group
from sdcomp.frontend.adapters.lokr import is_whole
from sdcomp.frontend.adapters.reader import Adapter
from sdcomp.frontend.adapters.suffixes import (
    BOFT,
    DIAG_OFT,
    LOHA,
    LOKR,
    LORA,
    PEFT_OFT,
)

SENTINEL = 1e6
"""Alphas from here on say that factors are whole, nothing else."""

SCALED_BY_PEFT = (LORA, LOHA, LOKR, PEFT_OFT)


def warnings_of(adapter: Adapter) -> Iterator[str]:
    """One line for each doubt about the file."""
    for doubt in (
        _whole_factors(adapter),
        _zero_alpha(adapter),
        _no_peft_config(adapter),
        _changed_base(adapter),
    ):
        if doubt:
            yield f"{adapter.file.path}: {doubt}"


def _whole_factors(adapter: Adapter) -> str | None:
    """LyCORIS writes alpha = dim where alpha does not count, dim sqrt(dim) for rs_lora before 4."""
    for group in adapter.groups:
        dim, alpha = group.facts.dim, group.scalars.get("alpha")
        if group.algorithm != LOKR or not is_whole(group) or dim is None or alpha is None:
            continue
        if not _is_doubtful(group, alpha, dim):
            continue
        if group.facts.rs_lora and isclose(alpha, dim * sqrt(dim), rel_tol=SAME_ALPHA):
            times = f"{sqrt(dim):g} times as strong as they are applied"
            return f"LyCORIS before 4 trained whole LoKr factors with rs_lora {times}"
        ignored = f"LoKr factors are whole, so alpha {alpha:g} is ignored; the network's dimension is {dim}"
        return f"{ignored}: the trainer was not LyCORIS and may have meant a strength of {alpha / dim:g}"
    return None


def _is_doubtful(group: Group, alpha: float, dim: int) -> bool:
    return isfinite(alpha) and 0 < alpha < SENTINEL and not isclose(alpha, dim, rel_tol=SAME_ALPHA)


def _zero_alpha(adapter: Adapter) -> str | None:
    constraints = (DIAG_OFT, BOFT)
    zero = [g for g in adapter.groups if g.scalars.get("alpha") == 0 and g.algorithm not in constraints]
    if not zero:
        return None
    return f"alpha is 0 in {len(zero)} modules, which counts as alpha = rank, as trainers take it"


def _no_peft_config(adapter: Adapter) -> str | None:
    unscaled = [
        group
        for group in adapter.groups
        if peft.PREFIX in group.module
        and group.algorithm in SCALED_BY_PEFT
        and "alpha" not in group.scalars
        and peft.config_of(group.module, adapter.configs) is None
    ]
    if not unscaled:
        return None
    return f"there is no {peft.CONFIG_NAME} beside it, so PEFT's defaults are assumed: alpha = rank"


def _changed_base(adapter: Adapter) -> str | None:
    changes = {config.changes_base() for config in adapter.configs.values()} - {None}
    if not changes:
        return None
    return (
        f"training with init_lora_weights={min(map(str, changes))} changed the base weights too; "
        "convert the adapter to a plain LoRA with PEFT first, or the result is another"
    )
