"""One small model, built once for all tests of the command line."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from sdcomp.frontend.synthetic import small_config, write_random_checkpoint
from sdcomp.frontend.synthetic_lokr import write_random_lokr
from tests.cli.command import Result, run_apart

CONFIG = small_config(
    unet={"res_blocks": 1}, vae={"decoder_res_blocks": 2, "has_encoder": False}, text={"layers": 1}
)
SIZE = "64x32"


@dataclass(frozen=True)
class Built:
    """The files of a build with an adapter, and how the command ended."""

    checkpoint: Path
    adapter: Path
    artifact: Path
    result: Result


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint and an adapter for it."""
    folder = tmp_path_factory.mktemp("files")
    checkpoint, adapter = folder / "small.safetensors", folder / "style.safetensors"
    write_random_checkpoint(checkpoint, CONFIG)
    write_random_lokr(adapter, CONFIG)
    return checkpoint, adapter


@pytest.fixture(scope="session")
def built(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An artifact built by the command line, at SDCOMP_DEBUG=3."""
    checkpoint, adapter = files
    artifact = tmp_path_factory.mktemp("artifact") / "model.so"
    options = ("--lokr", f"{adapter}:0.5", "-o", artifact, "--size", SIZE, "--threads", "1")
    result = run_apart("build", checkpoint, *options, environment={"SDCOMP_DEBUG": "3"})
    assert result.code == 0, result.err[-2000:]
    return Built(checkpoint, adapter, artifact, result)
