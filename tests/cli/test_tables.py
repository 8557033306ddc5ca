"""Numbers and text for people."""

import io

import pytest
from rich.console import Console

from sdcomp.cli.tables import bytes_text, columns, count_text, facts, seconds_text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB"), (1 << 42, "4096.0 GiB")],
)
def test_bytes(count: int, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("count", "text"), [(7, "7"), (999, "999"), (999_999, "1 M"), (859_520_964, "860 M")]
)
def test_count(count: int, text: str) -> None:
    assert count_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.015, "15 ms"), (1.523, "1.52 s"), (12.41, "12.4 s"), (185.9, "3 min 5 s")]
)
def test_seconds(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_text_of_files_is_neither_markup_nor_control() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80)
    console.print(facts("[red]title", {"latents": "f32[1,4,8,8]\x1b[2J"}))
    console.print(columns("x", ("name", "[b]"), [("[bold]a", "1")]))
    shown = out.getvalue()
    assert "[red]title" in shown
    assert "f32[1,4,8,8]\N{REPLACEMENT CHARACTER}[2J" in shown
    assert "[bold]a" in shown
    assert "\x1b" not in shown
