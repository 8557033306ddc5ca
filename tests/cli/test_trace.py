"""Busy and idle time of workers, from runs written by hand."""

import pytest

from sdcomp.cli.trace import WorkerTime, print_times, worker_times
from sdcomp.runtime.context import TracedRun

SECOND = 10**9
FORKED = TracedRun(
    "unet",
    (
        ("product a", 1, 12 * SECOND, 15 * SECOND),
        ("product b", 0, 10 * SECOND, 11 * SECOND),
        ("sum", 0, 15 * SECOND, 16 * SECOND),
    ),
)
SERIAL = TracedRun("decoder", (("sum", 0, 100 * SECOND, 104 * SECOND),))


def test_idle_time_is_that_within_runs() -> None:
    """84 seconds lie between the two runs."""
    first, second = worker_times([FORKED, SERIAL], threads=2)
    assert first == WorkerTime(busy=pytest.approx(6), idle=pytest.approx(4))
    assert second == WorkerTime(busy=pytest.approx(3), idle=pytest.approx(7))


def test_worker_that_was_given_nothing_is_idle() -> None:
    assert worker_times([SERIAL], threads=2)[1] == WorkerTime(busy=0, idle=pytest.approx(4))


def test_runs_without_events_take_no_time() -> None:
    assert worker_times([TracedRun("empty", ()), SERIAL], threads=1) == worker_times([SERIAL], threads=1)


def test_table_has_a_row_per_worker_and_their_sum(capsys: pytest.CaptureFixture[str]) -> None:
    print_times([FORKED, SERIAL], threads=2)
    table = capsys.readouterr().err.partition("idle time of the workers")[2]
    rows = [line.split() for line in table.splitlines() if line.strip().endswith("%")]
    assert rows == [
        ["0", "6.000", "4.000", "40.0", "%"],
        ["1", "3.000", "7.000", "70.0", "%"],
        ["all", "9.000", "11.000", "55.0", "%"],
    ]
