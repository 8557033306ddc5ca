"""What an adapter holds, module by module, and how it fits a model: what is wrong is told, not refused."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sdcomp.errors import AdapterError
from sdcomp.frontend.adapters.algorithms import ALGORITHMS
from sdcomp.frontend.adapters.aliases import Target
from sdcomp.frontend.adapters.dora import dora_axis, dora_suffix
from sdcomp.frontend.adapters.factors import scale_of
from sdcomp.frontend.adapters.group import Group
from sdcomp.frontend.adapters.lokr import lokr_form
from sdcomp.frontend.adapters.match import group_updates
from sdcomp.frontend.adapters.reader import Adapter
from sdcomp.frontend.adapters.suffixes import LOKR, RESCALE
from sdcomp.ir.types import Shape

TUCKER_CORES = ("lora_mid.weight", "hada_t1", "bm.weight")
NOT_IN_MODEL = "the model has no such module"


@dataclass(frozen=True)
class Finding:
    """One module of an adapter, as one algorithm changes it.

    `factors` are shapes by suffix, `form` says in words how they are stored. `scale` is what multiplies the
    difference at strength 1, None for algorithms that do not scale; `alpha` is the file's. `weights` are the
    tensors of the model that change, `shape` that of the module's weight; `problem` is why none does, or why
    there is no scale.
    """

    module: str
    algorithm: str
    form: str
    factors: Mapping[str, Shape]
    rank: int | None
    alpha: float | None
    scale: float | None
    weights: tuple[str, ...] = ()
    shape: Shape | None = None
    problem: str | None = None


def survey(adapter: Adapter, aliases: Mapping[str, Target] | None = None) -> list[Finding]:
    """A finding for every module and algorithm; `aliases` are those of the model to match with, if any."""
    taken: dict[tuple[Target, str], Group] = {}
    return [_finding(group, *_fit(group, aliases, taken)) for group in adapter.groups]


def _finding(group: Group, target: Target | None, weights: tuple[str, ...], problem: str | None) -> Finding:
    rank_of = ALGORITHMS[group.algorithm].rank
    try:
        scale = (
            None
            if rank_of is None
            else scale_of(group, rank_of(group), ALGORITHMS[group.algorithm].plain_alpha)
        )
    except AdapterError as error:
        scale, problem = None, problem or _reason(group, error)
    return Finding(
        group.module,
        group.algorithm,
        ", ".join(_form(group)),
        {suffix: kind.shape for suffix, kind in group.factors.items()},
        None if rank_of is None else rank_of(group),
        group.scalars.get("alpha"),
        scale,
        weights,
        None if target is None else target.shape,
        problem,
    )


def _fit(
    group: Group, aliases: Mapping[str, Target] | None, taken: dict[tuple[Target, str], Group]
) -> tuple[Target | None, tuple[str, ...], str | None]:
    """The module that the model has, the names of the tensors that change, and what is wrong."""
    if aliases is None:
        return None, (), None
    target = aliases.get(group.module)
    if target is None:
        return None, (), NOT_IN_MODEL
    other = taken.setdefault((target, group.algorithm), group)
    if other is not group:
        return target, (), f"is the same module as {other.module!r}"
    try:
        return target, tuple(name for name, _ in group_updates(group, "adapter", target, 1.0)), None
    except AdapterError as error:
        return target, (), _reason(group, error)


def _reason(group: Group, error: AdapterError) -> str:
    return str(error).removeprefix(f"{group.path}: ")


def _form(group: Group) -> Iterator[str]:
    if group.algorithm == LOKR:
        yield lokr_form(group)
    if any(core in group.factors for core in TUCKER_CORES):
        yield "Tucker form"
    suffix = dora_suffix(group)
    if suffix is not None:
        yield f"DoRA per {('output', 'input')[dora_axis(group, suffix)]}"
    if RESCALE in group.factors:
        yield "rescaled"
