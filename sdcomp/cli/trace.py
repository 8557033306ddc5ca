"""Where the time of a run went: a table by kernel at SDCOMP_DEBUG=2, and a file for Chrome's trace viewer."""

import json
import os
import sys
import uuid
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from sdcomp.cli.debug import TIMES, debug_level
from sdcomp.cli.tables import columns
from sdcomp.errors import ExecutionError, UsageError
from sdcomp.runtime.context import TraceEvent

_TOP_KERNELS = 20
_NANOSECONDS = 1e-9


@dataclass(frozen=True)
class Tracing:
    """What to do with trace events; `events` is None where nobody asked."""

    events: list[TraceEvent] | None
    table: bool
    file: Path | None

    @classmethod
    def from_environment(cls) -> "Tracing":
        """As SDCOMP_DEBUG and SDCOMP_TRACE say. Raises UsageError for a trace file that cannot be written."""
        name = os.environ.get("SDCOMP_TRACE")
        file = Path(name) if name else None
        if file is not None and not (
            file.absolute().parent.is_dir() and os.access(file.absolute().parent, os.W_OK)
        ):
            raise UsageError(
                f"SDCOMP_TRACE={file}: its folder does not exist or is not writable; choose another one"
            )
        table = debug_level() >= TIMES
        return cls([] if table or file else None, table, file)

    def report(self) -> None:
        """Prints the table and writes the file, as asked. Raises ExecutionError where that fails."""
        if self.table and self.events:
            print_times(self.events)
        if self.file is not None:
            write_chrome_trace(self.file, self.events or ())


def print_times(events: Iterable[TraceEvent]) -> None:
    """Busy time of all threads, by kind of kernel and for the kernels that took longest, on stderr."""
    by_kernel: dict[str, float] = defaultdict(float)
    for name, _, begin, end in events:
        by_kernel[name] += (end - begin) * _NANOSECONDS
    by_kind: dict[str, float] = defaultdict(float)
    for name, seconds in by_kernel.items():
        by_kind[name.partition(" ")[0]] += seconds
    out = Console(file=sys.stderr, width=None if sys.stderr.isatty() else 120, highlight=False)
    out.print(columns("busy time by kind of kernel", _HEADER, _ranked(by_kind)))
    out.print(columns("busy time of the slowest kernels", _HEADER, _ranked(by_kernel)[:_TOP_KERNELS]))


_HEADER = ("kernel", "seconds", "share")


def _ranked(seconds: dict[str, float]) -> list[tuple[str, str, str]]:
    total = sum(seconds.values()) or 1.0
    ranking = sorted(seconds.items(), key=lambda pair: -pair[1])
    return [(name, f"{taken:.3f}", f"{100 * taken / total:.1f} %") for name, taken in ranking]


def write_chrome_trace(path: Path, events: Iterable[TraceEvent]) -> None:
    """Writes events in Chrome's trace event format (chrome://tracing, ui.perfetto.dev): one lane per thread.

    The file appears whole or not at all. Raises ExecutionError if writing fails.
    """
    rows = [
        {"name": name, "ph": "X", "pid": 0, "tid": worker, "ts": begin / 1000, "dur": (end - begin) / 1000}
        for name, worker, begin, end in events
    ]
    partial = path.absolute().with_name(f".{uuid.uuid4().hex}.partial")
    try:
        partial.write_text(json.dumps({"traceEvents": rows}))
        partial.replace(path)
    except OSError as error:
        raise ExecutionError(f"{path}: cannot write the trace: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
