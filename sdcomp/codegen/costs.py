"""What each part of a kernel costs on a machine: shipped per target, or measured here by `sdcomp tune`.

A measured file lies in $XDG_CACHE_HOME/sdcomp (~/.cache/sdcomp), one per target and processor. `load_costs`
prefers it to the shipped one, and trusts neither: what is not as `write_costs` writes it is refused.
"""

import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sdcomp.codegen.convolution import UPSAMPLING, forms, name
from sdcomp.codegen.kernels.base import Kernel
from sdcomp.codegen.targets import Target, host_name, resolve
from sdcomp.errors import LoadError

VERSION = 2
"""Of the file and of what the times are of: raised when kernels change so much that old times mislead."""

SHIPPED, MEASURED = "shipped", "measured"
PRODUCT = "multiply"
PARTS = (PRODUCT, "input", "filter", "output")
ALGORITHMS = (UPSAMPLING, *(name(form) for form in forms(2)))

_FOLDER = Path(__file__).parent / "data"
_NEAREST = {"aarch64": "x86-64-v3"}
"""Whose shipped times serve a target that nobody has measured: decisions need ratios only."""
_LARGEST_FILE = 1 << 16
_LONGEST = 1e6
"""Nanoseconds per element."""

Times = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Costs:
    """Nanoseconds per element of every part of every algorithm, on one thread of the processor `cpu`.

    `target` is whose kernels are meant; `source` is SHIPPED or MEASURED.
    """

    target: Target
    cpu: str
    source: str
    nanoseconds: Times

    def __str__(self) -> str:
        return self.target.name

    @staticmethod
    def parse(text: str) -> "Costs":
        """The shipped costs of the target called `text`. Raises UsageError."""
        return shipped_costs(resolve(text))

    def milliseconds(self, kernels: Mapping[str, Sequence[Kernel]]) -> float:
        """Estimated time of kernels, by the names of their algorithms, one after the other on one thread."""
        return 1e-6 * sum(
            self.nanoseconds[algorithm][part] * elements
            for algorithm, stages in kernels.items()
            for part, elements in total_work(stages).items()
        )

    def describe(self) -> dict[str, Any]:
        """JSON-ready: what an artifact says of the costs behind its choices."""
        return {"source": self.source, "cpu": self.cpu, "nanoseconds": self.nanoseconds}


def total_work(kernels: Sequence[Kernel]) -> Counter[str]:
    """Elements by part, of kernels that make one convolution."""
    return sum((Counter(kernel.work) for kernel in kernels), Counter())


def load_costs(target: Target) -> Costs:
    """Those measured on this machine's processor if there are any, otherwise those that are shipped.

    Raises LoadError for a measured file that cannot be read or is not one.
    """
    path = cache_path(target)
    return _read(path, target, MEASURED) if path.is_file() else shipped_costs(target)


@cache
def shipped_costs(target: Target) -> Costs:
    """Those that come with the package."""
    return _read(shipped_path(_NEAREST.get(target.name, target.name)), target, SHIPPED)


def shipped_path(target_name: str) -> Path:
    """The file of the package."""
    return _FOLDER / f"costs-{target_name}.json"


def cache_path(target: Target) -> Path:
    """The file of this machine's processor."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    processor = re.sub(r"[^a-z0-9]+", "-", host_name().lower()).strip("-")[:80] or "unknown"
    return folder / "sdcomp" / f"costs-{target.name}-{processor}.json"


def write_costs(costs: Costs, path: Path) -> None:
    """Writes the file, whole or not at all. Raises LoadError where it cannot be written."""
    content = {
        "version": VERSION,
        "target": costs.target.name,
        "cpu": costs.cpu,
        "nanoseconds": {
            algorithm: {part: float(f"{value:.4g}") for part, value in parts.items()}
            for algorithm, parts in costs.nanoseconds.items()
        },
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".costs.", dir=path.parent) as room:
            written = Path(room) / path.name
            written.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            os.replace(written, path)
    except OSError as error:
        raise LoadError(f"{path}: cannot be written: {error.strerror or error}") from None


def _read(path: Path, target: Target, source: str) -> Costs:
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_LARGEST_FILE))
    except OSError as error:
        raise LoadError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise _malformed(path, "it is not JSON, or too large") from None
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise _malformed(path, f"it has not the version {VERSION}")
    if source == MEASURED and content.get("target") != target.name:
        raise _malformed(path, f"it is not for {target.name}")
    times, cpu = content.get("nanoseconds"), content.get("cpu")
    if not isinstance(cpu, str) or not isinstance(times, dict) or set(times) != set(ALGORITHMS):
        raise _malformed(path, f"it needs a cpu, and nanoseconds of {', '.join(ALGORITHMS)}")
    for algorithm, parts in times.items():
        if not isinstance(parts, dict) or set(parts) != set(PARTS) or not all(map(_is_time, parts.values())):
            raise _malformed(path, f"{algorithm} needs a time for each of {', '.join(PARTS)}")
    return Costs(target, cpu, source, times)


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _LONGEST


def _malformed(path: Path, reason: str) -> LoadError:
    return LoadError(f"{path}: is no file of costs: {reason}; delete it, or run `sdcomp tune` again")
