"""Sizes, and adapters with strengths."""

from pathlib import Path

import pytest

from sdcomp.cli.parsing import parse_adapter, parse_size
from sdcomp.errors import UsageError


@pytest.mark.parametrize(("text", "size"), [("512x768", (512, 768)), ("64X32", (64, 32)), (" 8x8 ", (8, 8))])
def test_size(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "512", "512x", "x512", "0x8", "8x0", "-8x8", "8x8x8", "1e3x8", "999999x8", "٨x8"]
)
def test_bad_size(text: str) -> None:
    with pytest.raises(UsageError, match="expected WIDTHxHEIGHT"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "path", "strength"),
    [
        ("style.safetensors", "style.safetensors", 1.0),
        ("style.safetensors:0.5", "style.safetensors", 0.5),
        ("style.safetensors:-1", "style.safetensors", -1.0),
        ("folder:2/style.safetensors", "folder:2/style.safetensors", 1.0),
        ("folder:2/style.safetensors:2e-1", "folder:2/style.safetensors", 0.2),
        (":0.5", ":0.5", 1.0),
    ],
)
def test_adapter(text: str, path: str, strength: float) -> None:
    assert parse_adapter(text) == (Path(path), strength, None)


def test_adapter_with_a_strength_for_the_text_encoder() -> None:
    assert parse_adapter("style.safetensors:0.5:0.25") == (Path("style.safetensors"), 0.5, 0.25)


def test_an_existing_path_is_a_path(tmp_path: Path) -> None:
    path = tmp_path / "style:0.5"
    path.touch()
    assert parse_adapter(str(path)) == (path, 1.0, None)
    assert parse_adapter(f"{path}:0.25") == (path, 0.25, None)


@pytest.mark.parametrize("strength", ["nan", "inf", "strong", ""])
def test_bad_strength(tmp_path: Path, strength: str) -> None:
    path = tmp_path / "style"
    path.touch()
    with pytest.raises(UsageError, match="not a finite number"):
        parse_adapter(f"{path}:{strength}")
