"""The description of an adapter as tables; modules that are alike are one row."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group

from sdcomp.cli.sections import lines, listed, stored
from sdcomp.cli.tables import bytes_text, columns, count_text, facts

_MOST_KINDS = 40
_NAME_WIDTH = 32
_PREFIXES = ("lokr_", "hada_", "lora_")

Description = Mapping[str, Any]


def render_adapter(description: Description) -> Iterator[Group]:
    """The tables of an adapter, and of how it fits the checkpoint that it was matched with."""
    algorithms = ", ".join(f"{name} ({count} modules)" for name, count in description["algorithms"].items())
    yield facts(
        f"adapter {description['file']}",
        {
            "size": bytes_text(description["bytes"]),
            "algorithm": algorithms,
            "modules": str(description["modules"]),
            "parameters": count_text(description["parameters"]),
            "looks made for": description["looks_made_for"] or "unknown",
        },
    )
    yield stored(description["stored"])
    yield from listed("metadata", lines(description["metadata"]))
    yield from _kinds(description["adapted"])
    if "match" in description:
        yield from _matched(description["match"], description["modules"])
    yield from listed("warnings", description["warnings"])


def _kinds(adapted: Sequence[Description]) -> Iterator[Group]:
    """One row for all modules with the same algorithm, factors and scale, the most frequent first."""
    kinds: dict[Hashable, list[Description]] = {}
    for found in adapted:
        kinds.setdefault(_cells(found), []).append(found)
    ordered = sorted(kinds.values(), key=len, reverse=True)
    rows = [
        (str(len(alike)), *_cells(alike[0]), _tail(alike[0]["module"])) for alike in ordered[:_MOST_KINDS]
    ]
    title = "adapted modules, by kind"
    if len(ordered) > _MOST_KINDS:
        title += f": the {_MOST_KINDS} most frequent of {len(ordered)}; --json has all"
    header = ("modules", "algorithm", "form", "factors", "scale", "weight", "such as")
    yield columns(title, header, rows)


def _cells(found: Description) -> tuple[str, ...]:
    factors = ", ".join(f"{_short(name)} {_sides(shape)}" for name, shape in found["factors"].items())
    scale = "none" if found["scale"] is None else f"{found['scale']:g}"
    return found["algorithm"], _form(found), factors, scale, _sides(found["shape"] or ())


def _form(found: Description) -> str:
    """LoKr's words tell its ranks."""
    rank = [] if found["rank"] is None or found["form"].startswith("w1") else [f"rank {found['rank']}"]
    return ", ".join([*rank, *([found["form"]] if found["form"] else [])])


def _short(suffix: str) -> str:
    for prefix in _PREFIXES:
        suffix = suffix.removeprefix(prefix)
    return suffix.removesuffix(".weight")


def _tail(module: str) -> str:
    """The end of a long name tells more than its beginning."""
    return module if len(module) <= _NAME_WIDTH else f"...{module[3 - _NAME_WIDTH :]}"


def _sides(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _matched(match: Description, modules: int) -> Iterator[Group]:
    unmatched, problems = match["unmatched"], match["problems"]
    yield facts(
        f"with the checkpoint {match['model']}",
        {
            "matched": f"{modules - len(unmatched) - len(problems)} of {modules} modules",
            "weights changed": str(len(match["weights"])),
        },
    )
    yield from listed("modules that the checkpoint does not have", unmatched)
    yield from listed("modules that do not fit the checkpoint", list(problems.values()))
