"""A hand-made artifact, built once for all tests that open one."""

import shutil
from pathlib import Path

import pytest

from tests.runtime.artifacts import add_payload, compile_runtime, link_library


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="session")
def objects(folder: Path) -> list[Path]:
    return compile_runtime(folder)


@pytest.fixture(scope="session")
def bare(folder: Path, objects: list[Path]) -> Path:
    """The library without a payload."""
    return link_library(folder / "bare.so", objects)


@pytest.fixture(scope="session")
def artifact(folder: Path, bare: Path) -> Path:
    return add_payload(Path(shutil.copy(bare, folder / "model.so")))
