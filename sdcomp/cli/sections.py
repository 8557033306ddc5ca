"""Parts that the descriptions of several kinds of files have in common."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group

from sdcomp.cli.tables import bytes_text, columns, facts

_LISTED = 20


def listed(title: str, items: Sequence[str]) -> Iterator[Group]:
    """A table of one column; nothing where there is nothing to list."""
    if items:
        more = [f"and {len(items) - _LISTED} more"] if len(items) > _LISTED else []
        yield facts(title, {item: "" for item in (*items[:_LISTED], *more)})


def lines(pairs: Mapping[str, str]) -> list[str]:
    """`name: value`"""
    return [f"{name}: {value}" for name, value in pairs.items()]


def stored(kinds: Mapping[str, Mapping[str, Any]]) -> Group:
    """Tensors and bytes of each type that the file stores."""
    rows = [(name, str(kind["tensors"]), bytes_text(kind["bytes"])) for name, kind in kinds.items()]
    return columns("stored as", ("type", "tensors", "size"), rows)
