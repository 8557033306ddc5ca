"""Values of options that are more than a word or a number."""

import math
import re
from pathlib import Path

from sdcomp.errors import UsageError

MOST_STRENGTHS = 2
"""The UNet's and the text encoder's."""

_SIZE = re.compile(r"([1-9]\d{0,4})[xX]([1-9]\d{0,4})", re.ASCII)


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) in pixels of `512x768`. Raises UsageError."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"--size {text}: expected WIDTHxHEIGHT in pixels, such as 512x768")
    return int(found[1]), int(found[2])


def parse_adapter(text: str, option: str = "--lokr") -> tuple[Path, float, float | None]:
    """File, strength and text encoder's strength of `FILE[:STRENGTH[:TE_STRENGTH]]`.

    The strength is 1 if left out, that of the text encoder None. Paths may hold colons: what exists as a
    whole is a path. Raises UsageError for a strength that is not a finite number; it names the `option`.
    """
    path, strengths = text, list[float]()
    while len(strengths) < MOST_STRENGTHS and not Path(path).exists():
        rest, colon, last = path.rpartition(":")
        if not colon or not rest:
            break
        number = _number(last)
        if number is None and not Path(rest).exists():
            break
        if number is None or not math.isfinite(number):
            raise UsageError(f"{option} {text}: the strength {last!r} is not a finite number, such as 0.8")
        path, strengths = rest, [number, *strengths]
    strength, *text_strength = strengths or [1.0]
    return Path(path), strength, text_strength[0] if text_strength else None


def parse_strength(text: str) -> tuple[str, tuple[float, float]]:
    """Name, and strengths of the UNet and the text encoder, of `NAME=STRENGTH[:TE_STRENGTH]`.

    A single strength is that of both. Raises UsageError.
    """
    name, equals, strengths = text.rpartition("=")
    numbers = [_number(part) for part in strengths.split(":")]
    finite = [number for number in numbers if number is not None and math.isfinite(number)]
    if not name or not equals or len(finite) < len(numbers) or len(numbers) > MOST_STRENGTHS:
        raise UsageError(f"--adapter {text}: expected NAME=STRENGTH[:TE_STRENGTH], such as style=0.8")
    return name, (finite[0], finite[-1])


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
