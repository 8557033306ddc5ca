"""Peak resident memory of processes, in MiB; mapped files count as far as they were read."""

import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

MEBIBYTE = 1 << 20
_RUSAGE_UNIT = 1 if sys.platform == "darwin" else 1024
_STATUS = Path("/proc/self/status")


def own_peak_mb() -> float:
    """This process's peak.

    From VmHWM where there is one: getrusage's figure outlives exec, so a child would report its parent's.
    """
    if _STATUS.exists():
        lines = _STATUS.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 / MEBIBYTE for line in lines if line.startswith("VmHWM:"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RUSAGE_UNIT / MEBIBYTE


def run_with_peak(command: Sequence[str]) -> tuple[int, float]:
    """Runs a command to its end; its exit code and peak, or the peak of the caller if that is higher."""
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss * _RUSAGE_UNIT / MEBIBYTE
