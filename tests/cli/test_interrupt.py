"""Ctrl-C and SIGTERM: the command ends soon, in one line, and leaves no half-written file."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.command import start
from tests.cli.conftest import Built

ENDED = {signal.SIGINT: 130, signal.SIGTERM: 143}
PATIENCE = 60.0
SOON = 5.0
"""Seconds; Ctrl-C takes less than one on a machine with nothing else to do."""


@contextmanager
def _started(
    *arguments: str | Path, environment: Mapping[str, str] | None = None
) -> "Iterator[subprocess.Popen[str]]":
    """A command that does not outlive its test."""
    process = start(*arguments, environment=environment)
    try:
        yield process
    finally:
        process.kill()


def _wait_for(folder: Path, process: "subprocess.Popen[str]") -> None:
    """Until the folder of intermediate files is there."""
    begin = time.monotonic()
    while not os.listdir(folder):
        assert process.poll() is None
        assert time.monotonic() - begin < PATIENCE
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_build(files: tuple[Path, Path], tmp_path: Path, number: signal.Signals) -> None:
    with _started("build", files[0], "-o", tmp_path / "model.so", "--size", "64x32") as process:
        _wait_for(tmp_path, process)
        time.sleep(0.5)
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (ENDED[number], "")
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == []


def test_run(built: Built, tmp_path: Path) -> None:
    environment = {"SDCOMP_TRACE": str(tmp_path / "trace.json")}
    arguments = ("run", built.artifact, "-p", "x", "-o", tmp_path / "x.png", "--steps", "100000")
    with _started(*arguments, environment=environment) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the artifact is open
        time.sleep(0.5)
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    assert time.monotonic() - begin < SOON
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == []
