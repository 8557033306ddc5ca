"""Time and peak resident memory (MiB) of commands; mapped files count as far as they were read."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence

from sdcomp.errors import ExecutionError

SDCOMP = (sys.executable, "-m", "sdcomp")
"""The command line that is measured."""

MEBIBYTE = 1 << 20
_RUSAGE_UNIT = 1 if sys.platform == "darwin" else 1024


def run_with_peak(command: Sequence[str]) -> tuple[int, float]:
    """Runs a command to its end; its exit code and peak, or the peak of the caller if that is higher."""
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss * _RUSAGE_UNIT / MEBIBYTE


def timed(name: str, command: Sequence[str]) -> tuple[float, float]:
    """Seconds from the start of a command to its end, and its peak. Raises ExecutionError if it fails."""
    begin = time.perf_counter()
    code, peak = run_with_peak(command)
    seconds = time.perf_counter() - begin
    if code != 0:
        raise ExecutionError(f"{name}: ended with code {code}")
    return seconds, peak
