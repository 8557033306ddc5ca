"""How a UNet evaluation uses threads: all against one, and with a core that another process shares."""

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.synchronize import Event
from statistics import median

from benchmarks.measure import turn
from benchmarks.records import Record
from benchmarks.subjects.network import load_artifact
from benchmarks.subjects.unet import UNetCase
from benchmarks.workers import Worker
from sdcomp.errors import UsageError

_STOLEN = 0.5
"""Of a core, by a process that never sleeps: the scheduler gives it every other slice of time."""


@dataclass(frozen=True)
class _Seconds:
    """Of every evaluation."""

    one: list[float] = field(default_factory=list)
    all: list[float] = field(default_factory=list)
    disturbed: list[float] = field(default_factory=list)


def measure_scaling(case: UNetCase, threads: int, runs: int) -> list[Record]:
    """Three records: one thread; all threads, against one; all threads while half a core is stolen, against
    the time that the rest of the machine would take if work were divided perfectly.

    The three take turns. Raises UsageError for fewer than two threads.
    """
    if threads < 2:
        raise UsageError(f"--threads {threads}: scaling needs at least two threads")
    with _worker(case, 1) as one, _worker(case, threads) as all_:
        seconds = _Seconds()
        for worker in (one, all_):
            worker.outputs()
        for _ in range(runs):
            seconds.one.extend(turn(one))
            seconds.all.extend(turn(all_))
            with _thief():
                seconds.disturbed.extend(turn(all_))
        peaks = one.peak_mb(), all_.peak_mb()
    return _records(case, threads, seconds, peaks)


def _records(case: UNetCase, threads: int, seconds: _Seconds, peaks: tuple[float, float]) -> list[Record]:
    one, all_, disturbed = (1e3 * median(times) for times in (seconds.one, seconds.all, seconds.disturbed))
    alone = Record("scaling", case.name, 1, one, peaks[0])
    together = Record("scaling", case.name, threads, all_, peaks[1])
    stolen = replace(together, case=f"{case.name}, half a core stolen", ours_ms=disturbed)
    ideal = all_ * threads / (threads - _STOLEN)
    return [alone, _against(together, "1 thread", one), _against(stolen, "ideal", ideal)]


def _against(record: Record, peer: str, peer_ms: float) -> Record:
    return replace(record, peer=peer, peer_ms=peer_ms, ratio=record.ours_ms / peer_ms)


def _worker(case: UNetCase, threads: int) -> Worker:
    return Worker(
        f"sdcomp, {threads} threads",
        threads,
        partial(load_artifact, case.artifact, threads, case.before(), case.programs(), case.inputs()),
    )


@contextmanager
def _thief() -> Iterator[None]:
    """A process on the last CPU that never sleeps."""
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=_spin, args=(max(os.sched_getaffinity(0)), started), daemon=True)
    process.start()
    try:
        started.wait()
        yield
    finally:
        process.kill()
        process.join()


def _spin(cpu: int, started: Event) -> None:
    os.sched_setaffinity(0, {cpu})
    started.set()
    while True:
        pass
