"""Peak resident memory of commands, in MiB; mapped files count as far as they were read."""

import os
import subprocess
import sys
from collections.abc import Sequence

MEBIBYTE = 1 << 20
_RUSAGE_UNIT = 1 if sys.platform == "darwin" else 1024


def run_with_peak(command: Sequence[str]) -> tuple[int, float]:
    """Runs a command to its end; its exit code and peak, or the peak of the caller if that is higher."""
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss * _RUSAGE_UNIT / MEBIBYTE
