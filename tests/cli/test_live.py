"""Live adapters on the command line: `build --live`, `inspect`, `run --adapter`."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdcomp.cli.parsing import parse_strength
from sdcomp.errors import UsageError
from sdcomp.frontend.synthetic import small_config as config_of
from sdcomp.frontend.synthetic import write_random_checkpoint
from sdcomp.frontend.synthetic_lokr import write_random_lokr
from tests.artifacts import TINY
from tests.cli.command import run_apart, run_here

CONFIG = config_of(TINY.unet, TINY.vae, TINY.text)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With one live adapter, built at SDCOMP_DEBUG=1."""
    folder = tmp_path_factory.mktemp("live")
    checkpoint, adapter, path = (
        folder / "tiny.safetensors",
        folder / "my style.safetensors",
        folder / "tiny.so",
    )
    write_random_checkpoint(checkpoint, CONFIG)
    write_random_lokr(adapter, CONFIG)
    options = ("--live", f"{adapter}:0.5:0.25", "-o", path, "--size", "32x32", "--threads", "1")
    result = run_apart("build", checkpoint, *options, environment={"SDCOMP_DEBUG": "1"})
    assert result.code == 0, result.err[-2000:]
    assert "my style.safetensors live as 'my style', by default at strength 0.5" in result.out
    weight = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    assert f"live unet@32x32x2 {weight}: into the weights, at most " in result.err
    return path


def test_inspect_tells_what_is_live(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = " ".join(run_here(capsys, "inspect", artifact).out.split())
    assert "--adapter my style=..." in shown
    assert "into the weights" in shown
    manifest = json.loads(run_here(capsys, "inspect", artifact, "--json").out)["manifest"]
    (adapter,) = manifest["adapters"]
    assert (adapter["live"], adapter["strength"], adapter["te_strength"]) == (True, 0.5, 0.25)


def _picture(capsys: pytest.CaptureFixture[str], artifact: Path, path: Path, *options: str) -> bytes:
    result = run_here(capsys, "run", artifact, "-p", "a cat", "-o", path, "--steps", "1", *options)
    assert result.code == 0, result.err
    return np.asarray(Image.open(path)).tobytes()


def test_strength_changes_the_picture(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cat.png"
    default = _picture(capsys, artifact, path)
    assert _picture(capsys, artifact, path, "--adapter", "my style=0.5:0.25") == default
    assert "my style: 0.5" in Image.open(path).info["parameters"]
    assert _picture(capsys, artifact, path, "--adapter", "my style=0") != default


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("stile=1", "adapter stile: no live adapter of this artifact has this name; it has my style"),
        ("my style", "--adapter my style: expected NAME=STRENGTH[:TE_STRENGTH]"),
        ("my style=inf", "expected NAME=STRENGTH"),
    ],
)
def test_wrong_adapter_options(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, words: str
) -> None:
    path = tmp_path / "cat.png"
    result = run_here(capsys, "run", artifact, "-p", "a cat", "-o", path, "--adapter", option)
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith("error: ")
    assert words in result.err.splitlines()[-1]
    assert not path.exists()


def test_parse_strength() -> None:
    assert parse_strength("a=b=0.5") == ("a=b", (0.5, 0.5))
    assert parse_strength("style=1:-0.25") == ("style", (1.0, -0.25))
    for text in ("", "style", "=1", "style=", "style=1:2:3", "style=x"):
        with pytest.raises(UsageError, match="expected NAME=STRENGTH"):
            parse_strength(text)
