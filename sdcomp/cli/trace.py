"""Where the time of a picture went: tables at SDCOMP_DEBUG=2, and a file for Chrome's trace viewer."""

import json
import os
import sys
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from sdcomp.cli.debug import TIMES, debug_level
from sdcomp.cli.tables import columns
from sdcomp.errors import ExecutionError, UsageError
from sdcomp.runtime.context import TracedRun, TraceEvent

_TOP_KERNELS = 20
_NANOSECONDS = 1e-9


@dataclass(frozen=True)
class Tracing:
    """What to do with traced runs; `runs` is None where nobody asked."""

    runs: list[TracedRun] | None
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

    def report(self, threads: int) -> None:
        """Prints the tables and writes the file, as asked. Raises ExecutionError where that fails."""
        if self.table and self.runs:
            print_times(self.runs, threads)
        if self.file is not None:
            write_chrome_trace(self.file, self.runs or ())


@dataclass(frozen=True)
class WorkerTime:
    """Seconds in which a thread computed and in which it did not, both while a program ran."""

    busy: float
    idle: float


def print_times(runs: Sequence[TracedRun], threads: int) -> None:
    """Busy time of all threads, by kind of kernel and for the kernels that took longest, then busy and idle
    time of each thread, on stderr.
    """
    by_kernel: dict[str, float] = defaultdict(float)
    for name, _, begin, end in _events(runs):
        by_kernel[name] += (end - begin) * _NANOSECONDS
    by_kind: dict[str, float] = defaultdict(float)
    for name, seconds in by_kernel.items():
        by_kind[name.partition(" ")[0]] += seconds
    out = Console(file=sys.stderr, width=None if sys.stderr.isatty() else 120, highlight=False)
    out.print(columns("busy time by kind of kernel", _HEADER, _ranked(by_kind)))
    out.print(columns("busy time of the slowest kernels", _HEADER, _ranked(by_kernel)[:_TOP_KERNELS]))
    workers = _by_worker(worker_times(runs, threads))
    out.print(columns("busy and idle time of the workers while a program ran", _WORKER_HEADER, workers))


def worker_times(runs: Iterable[TracedRun], threads: int) -> list[WorkerTime]:
    """Of each of `threads` workers, by its number.

    A run lasts from the begin of its first event to the end of its last, and a worker that is not busy then
    is idle. Between two runs the sampler computes, in Python: that is nobody's idle time.
    """
    busy, lasted = [0] * threads, 0
    for run in runs:
        for _, worker, begin, end in run.events:
            busy[worker] += end - begin
        lasted += _nanoseconds(run)
    return [WorkerTime(taken * _NANOSECONDS, (lasted - taken) * _NANOSECONDS) for taken in busy]


def _nanoseconds(run: TracedRun) -> int:
    begins, ends = [event[2] for event in run.events], [event[3] for event in run.events]
    return max(ends, default=0) - min(begins, default=0)


def _events(runs: Iterable[TracedRun]) -> Iterator[TraceEvent]:
    return (event for run in runs for event in run.events)


_HEADER = ("kernel", "seconds", "share")
_WORKER_HEADER = ("worker", "busy seconds", "idle seconds", "idle share")


def _ranked(seconds: dict[str, float]) -> list[tuple[str, str, str]]:
    total = sum(seconds.values()) or 1.0
    ranking = sorted(seconds.items(), key=lambda pair: -pair[1])
    return [(name, f"{taken:.3f}", f"{100 * taken / total:.1f} %") for name, taken in ranking]


def _by_worker(times: Sequence[WorkerTime]) -> list[tuple[str, str, str, str]]:
    together = WorkerTime(sum(time.busy for time in times), sum(time.idle for time in times))
    named = [*((str(number), time) for number, time in enumerate(times)), ("all", together)]
    return [(name, f"{time.busy:.3f}", f"{time.idle:.3f}", _share(time)) for name, time in named]


def _share(time: WorkerTime) -> str:
    return f"{100 * time.idle / ((time.busy + time.idle) or 1.0):.1f} %"


def write_chrome_trace(path: Path, runs: Iterable[TracedRun]) -> None:
    """Writes Chrome's trace event format (chrome://tracing, ui.perfetto.dev): one lane per thread.

    The file appears whole or not at all. Raises ExecutionError if writing fails.
    """
    rows = [
        {"name": name, "ph": "X", "pid": 0, "tid": worker, "ts": begin / 1000, "dur": (end - begin) / 1000}
        for name, worker, begin, end in _events(runs)
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
