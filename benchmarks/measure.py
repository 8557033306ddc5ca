"""Measures a case: ours and a peer in turns, so that what slows the machine slows both."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.cases import Array, Case
from benchmarks.peers.base import Peer, Report
from benchmarks.records import Record
from benchmarks.workers import Worker, call_in_child
from sdcomp.errors import ExecutionError

MOST_DIFFERENCE = 1e-2
"""Relative difference of outputs above which two programs do not compute the same; rounding makes less."""

_TURN_SECONDS = 0.1
"""A turn lasts at least this long: short evaluations are mostly measured with their data in caches."""

_SETTLE_SECONDS = 0.05
"""Between turns: the threads of the program that was just measured stop spinning."""


@dataclass(frozen=True)
class Settings:
    """How to measure. `runs` are turns per program."""

    threads: int
    runs: int
    report: Report


def measure(case: Case, peers: Sequence[Peer], settings: Settings, folder: Path) -> Iterator[Record]:
    """One record per form of each peer, or one of ours alone; converted models go below `folder`.

    The micro-kernel takes turns too, for what the machine can do at the time. A peer that is not installed or
    fails is reported and left out. Raises ExecutionError if ours fails, or if a peer computes something else.
    """
    from benchmarks.machine import load_micro_kernel

    threads = settings.threads
    with TemporaryDirectory(dir=folder) as name, ExitStack() as stack:
        ours_folder = Path(name)
        call_in_child("sdcomp", threads, partial(case.prepare_ours, ours_folder))
        load = partial(case.load_ours, ours_folder, threads)
        ours = stack.enter_context(Worker("sdcomp", threads, load))
        limit = Worker("the micro-kernel", threads, partial(load_micro_kernel, threads))
        turns = _Turns(case, ours, stack.enter_context(limit), settings)
        outputs = ours.outputs()
        limit.outputs()  # which nobody needs: programs take turns warmed up
        if not peers:
            yield turns.alone()
        for peer in peers:
            yield from _against(turns, outputs, peer, folder)


@dataclass(frozen=True)
class _Turns:
    """Programs that take turns on a case: ours, the micro-kernel, and perhaps a peer."""

    case: Case
    ours: Worker
    limit: Worker
    settings: Settings

    def alone(self) -> Record:
        return self._record(*in_turns([self.ours, self.limit], self.settings.runs))

    def against(self, peer: Worker) -> Record:
        ours, limit, theirs = in_turns([self.ours, self.limit, peer], self.settings.runs)
        record, seconds = self._record(ours, limit), median(theirs)
        return replace(
            record,
            peer=peer.name,
            peer_ms=1e3 * seconds,
            peer_peak_mb=peer.peak_mb(),
            ratio=record.ours_ms / (1e3 * seconds),
        )

    def _record(self, ours: list[float], limit: list[float]) -> Record:
        fraction = None
        if self.ours.multiplies is not None and self.limit.multiplies is not None:
            rate, most = self.ours.multiplies / median(ours), self.limit.multiplies / median(limit)
            self.settings.report(f"{self.case.name}: micro-kernel {most / 1e9:.1f} G multiply-accumulates/s")
            fraction = rate / most
        return Record(
            subject=self.case.subject,
            case=self.case.name,
            threads=self.settings.threads,
            ours_ms=1e3 * median(ours),
            ours_peak_mb=self.ours.peak_mb(),
            peak_fraction=fraction,
        )


def _against(turns: _Turns, outputs: list[Array], peer: Peer, folder: Path) -> Iterator[Record]:
    case, settings = turns.case, turns.settings
    if not peer.is_installed(settings.report):
        return
    for label, form in case.forms(peer.name):
        name = peer.form_name(label)
        with TemporaryDirectory(dir=folder) as peer_folder:
            try:
                worker = _start(name, peer, form, Path(peer_folder), settings.threads)
            except ExecutionError as error:
                settings.report(f"left out: {error}")
                continue
            with worker:
                _check_same(case, name, outputs, worker.outputs(), settings.report)
                yield turns.against(worker)


def _start(name: str, peer: Peer, form: Case, folder: Path, threads: int) -> Worker:
    call_in_child(name, threads, partial(peer.prepare, form, folder))
    return Worker(name, threads, partial(peer.load, form, folder, threads))


def in_turns(workers: Sequence[Worker], runs: int) -> list[list[float]]:
    """Seconds of every evaluation of each worker: A B A B ...; the caller has warmed them up."""
    seconds: list[list[float]] = [[] for _ in workers]
    for _ in range(runs):
        for worker, times in zip(workers, seconds, strict=True):
            times.extend(turn(worker))
    return seconds


def turn(worker: Worker) -> list[float]:
    """Seconds of each evaluation of one turn."""
    time.sleep(_SETTLE_SECONDS)
    return worker.measure(_TURN_SECONDS)


def relative_difference(found: Array, expected: Array) -> float:
    """norm(found - expected) / norm(expected), in f64. Raises ExecutionError for other shapes and for NaN."""
    if found.shape != expected.shape:
        raise ExecutionError(f"expected an output of shape {list(expected.shape)}, found {list(found.shape)}")
    reference = expected.astype(np.float64)
    difference = float(np.linalg.norm(found.astype(np.float64) - reference) / np.linalg.norm(reference))
    if not np.isfinite(difference):
        raise ExecutionError("an output holds NaN or infinity")
    return difference


def _check_same(case: Case, name: str, ours: list[Array], theirs: list[Array], report: Report) -> None:
    if len(ours) != len(theirs):
        raise ExecutionError(f"{case.name}: sdcomp has {len(ours)} outputs, {name} has {len(theirs)}")
    differences = [relative_difference(a, b) for a, b in zip(ours, theirs, strict=True)]
    report(f"{case.name}: relative difference to {name} {max(differences):.1e}")
    if max(differences) > MOST_DIFFERENCE:
        raise ExecutionError(
            f"{case.name}: sdcomp and {name} compute different things, by {max(differences):.1e} in norm; "
            "is the artifact made from this checkpoint, without adapters?"
        )
