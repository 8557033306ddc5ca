"""Settings that every test shares: no network, one torch thread; and the artifacts that many tests open."""

import os

import pytest

from tests.artifacts import builder, compile_once, small_artifact, small_built
from tests.golden.compare import add_golden_option, golden

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

__all__ = ["builder", "compile_once", "golden", "small_artifact", "small_built"]


def pytest_addoption(parser: pytest.Parser) -> None:
    add_golden_option(parser)
