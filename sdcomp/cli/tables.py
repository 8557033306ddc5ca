"""Tables and numbers for people. Text out of files is shown as it is, never as markup or control codes."""

from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

_WIDTH_WITHOUT_TERMINAL = 160


def console() -> Console:
    """stdout; wide where it is a file or a pipe, so that cells stay on one line."""
    terminal = Console(highlight=False)
    return terminal if terminal.is_terminal else Console(highlight=False, width=_WIDTH_WITHOUT_TERMINAL)


def facts(title: str, rows: Mapping[str, str]) -> Group:
    """A title and a table of two columns, without a header."""
    table = Table(box=box.SIMPLE, show_header=False)
    for name, value in rows.items():
        table.add_row(plain(name), plain(value))
    return Group(plain(title), table)


def columns(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Group:
    """A title and a table; a column but the first is to the right where all its cells begin with digits."""
    cells = [[plain(cell) for cell in row] for row in rows]
    table = Table(box=box.SIMPLE)
    for index, name in enumerate(header):
        numbers = index > 0 and all(row[index].plain[:1].isdigit() for row in cells)
        table.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    return Group(plain(title), table)


def plain(text: str) -> Text:
    """The characters of `text`, with a replacement for those that would move the cursor or worse."""
    return Text(
        "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    )


def bytes_text(count: int) -> str:
    """`1.5 MiB`"""
    size, units = float(count), ["bytes", "KiB", "MiB", "GiB"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.0f} {units[0]}" if units[0] == "bytes" else f"{size:.1f} {units[0]}"


def count_text(count: int) -> str:
    """`860 M`: at most three digits and a unit."""
    size, units = float(count), ["", " k", " M", " G", " T"]
    while size >= 999.5 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.3g}{units[0]}"


def seconds_text(seconds: float) -> str:
    """`15 ms`, `1.52 s`, `12.4 s`, `3 min 5 s`"""
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"
