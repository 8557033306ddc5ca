"""Settings that every test shares: no network, one torch thread, costs of kernels as they are shipped, Ctrl-C
as Python handles it; and the artifacts that many tests open.
"""

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from tests.artifacts import builder, compile_once, small_artifact, small_built
from tests.golden.compare import add_golden_option, golden

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

_user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault(
    "ZIG_GLOBAL_CACHE_DIR", str(_user_cache / "zig")
)  # the C library need not be built again
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="sdcomp-tests-")
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have it ignored in the background
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

__all__ = ["builder", "compile_once", "golden", "small_artifact", "small_built"]


def pytest_addoption(parser: pytest.Parser) -> None:
    add_golden_option(parser)
