"""Measures a case: ours and a peer in turns, so that what slows the machine slows both."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
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
    """How to measure. `runs` are turns per program; `peak_rate` is in multiplies per second and thread."""

    threads: int
    runs: int
    peak_rate: float
    report: Report


@dataclass(frozen=True)
class Turns:
    """Seconds of every timed evaluation."""

    ours: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)


def measure(case: Case, peers: Sequence[Peer], settings: Settings, folder: Path) -> Iterator[Record]:
    """One record per form of each peer, or one of ours alone; converted models go below `folder`.

    A peer that is not installed or fails is reported and left out. Raises ExecutionError if ours fails, or if
    a peer computes something else.
    """
    with TemporaryDirectory(dir=folder) as ours_folder:
        ours_path = Path(ours_folder)
        call_in_child("sdcomp", settings.threads, partial(case.prepare_ours, ours_path))
        with Worker("sdcomp", settings.threads, partial(case.load_ours, ours_path, settings.threads)) as ours:
            outputs = ours.outputs()
            if not peers:
                yield _record(case, ours, None, _alternate(ours, None, settings.runs), settings)
            for peer in peers:
                yield from _against(case, ours, outputs, peer, settings, folder)


def _against(
    case: Case, ours: Worker, outputs: list[Array], peer: Peer, settings: Settings, folder: Path
) -> Iterator[Record]:
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
                yield _record(case, ours, worker, _alternate(ours, worker, settings.runs), settings)


def _start(name: str, peer: Peer, form: Case, folder: Path, threads: int) -> Worker:
    call_in_child(name, threads, partial(peer.prepare, form, folder))
    return Worker(name, threads, partial(peer.load, form, folder, threads))


def _alternate(ours: Worker, peer: Worker | None, runs: int) -> Turns:
    return Turns(*in_turns([ours] if peer is None else [ours, peer], runs))


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


def _record(case: Case, ours: Worker, peer: Worker | None, turns: Turns, settings: Settings) -> Record:
    ours_seconds = median(turns.ours)
    rate = None if ours.multiplies is None else ours.multiplies / ours_seconds
    alone = Record(
        subject=case.subject,
        case=case.name,
        threads=settings.threads,
        ours_ms=1e3 * ours_seconds,
        ours_peak_mb=ours.peak_mb(),
        peak_fraction=None if rate is None else rate / (settings.threads * settings.peak_rate),
    )
    return alone if peer is None else _compared(alone, peer, median(turns.peer))


def _compared(alone: Record, peer: Worker, seconds: float) -> Record:
    return replace(
        alone,
        peer=peer.name,
        peer_ms=1e3 * seconds,
        peer_peak_mb=peer.peak_mb(),
        ratio=alone.ours_ms / (1e3 * seconds),
    )


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
