"""Values of options that are more than a word or a number."""

import math
import re
from pathlib import Path

from sdcomp.errors import UsageError

_SIZE = re.compile(r"([1-9]\d{0,4})[xX]([1-9]\d{0,4})", re.ASCII)


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) in pixels of `512x768`. Raises UsageError."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"--size {text}: expected WIDTHxHEIGHT in pixels, such as 512x768")
    return int(found[1]), int(found[2])


def parse_adapter(text: str) -> tuple[Path, float]:
    """The file and strength of `FILE[:STRENGTH]`; the strength is 1 if left out.

    Paths may hold colons: what exists as a whole is a path. Raises UsageError for a strength that is not a
    finite number.
    """
    path, colon, strength = text.rpartition(":")
    if not colon or not path or Path(text).exists():
        return Path(text), 1.0
    number = _number(strength)
    if number is not None and math.isfinite(number):
        return Path(path), number
    if number is None and not Path(path).exists():
        return Path(text), 1.0
    raise UsageError(f"--lokr {text}: the strength {strength!r} is not a finite number, such as 0.8")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
