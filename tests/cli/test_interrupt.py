"""Ctrl-C and SIGTERM: the command ends soon, in one line, and leaves no half-written file."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cli.command import start
from tests.cli.conftest import Built

ENDED = {signal.SIGINT: 130, signal.SIGTERM: 143}
PATIENCE = 60.0


def _wait_for(folder: Path, process: "subprocess.Popen[str]") -> None:
    """Until the folder of intermediate files is there."""
    begin = time.monotonic()
    while not os.listdir(folder):
        assert process.poll() is None
        assert time.monotonic() - begin < PATIENCE
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_build(files: tuple[Path, Path], tmp_path: Path, number: signal.Signals) -> None:
    process = start("build", files[0], "-o", tmp_path / "model.so", "--size", "64x32")
    _wait_for(tmp_path, process)
    time.sleep(0.5)
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (ENDED[number], "")
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == []


def test_run(built: Built, tmp_path: Path) -> None:
    process = start("run", built.artifact, "-p", "x", "-o", tmp_path / "x.png", "--steps", "100000")
    assert process.stdout is not None
    time.sleep(3)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert time.monotonic() - begin < 5
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == []
