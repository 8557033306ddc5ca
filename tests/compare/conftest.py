"""An artifact and the models exported from its checkpoint, once for all tests that compare them."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from sdcomp.export import ExportOptions, export_onnx
from tests.artifacts import TINY_SIZE, Built


@dataclass(frozen=True)
class Pair:
    """An artifact, and the models exported from its checkpoint."""

    artifact: Path
    checkpoint: Path
    folder: Path


@pytest.fixture(scope="session")
def pair(small_built: Built, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """With its programs after all passes."""
    folder = tmp_path_factory.mktemp("compare") / "onnx"
    export_onnx(small_built.checkpoint, folder, ExportOptions(size=TINY_SIZE, plan=True))
    return Pair(small_built.path, small_built.checkpoint, folder)
