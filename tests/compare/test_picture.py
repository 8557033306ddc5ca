"""A whole picture by both sides: the same for the same model, another one for another."""

import json
from math import inf
from pathlib import Path

import numpy as np
import pytest

from sdcomp.compare.picture import psnr
from sdcomp.compiler import AdapterFile
from sdcomp.export import ExportOptions, export_onnx
from sdcomp.frontend.synthetic_lokr import write_random_lokr
from tests.artifacts import TINY_SIZE, Built
from tests.cli.command import Result, run_here
from tests.compare.conftest import Pair

OPTIONS = ("--repeats", "1", "--threads", "1", "--steps", "2", "--prompt", "a [bold] cat")


def compare(capsys: pytest.CaptureFixture[str], pair: Pair, *options: str) -> Result:
    return run_here(capsys, "compare", pair.artifact, pair.folder, *OPTIONS, *options)


def test_equal_models_make_the_same_picture(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    result = compare(capsys, pair, "--json")
    assert result.code == 0, result.err
    picture = json.loads(result.out)["picture"]
    assert picture["psnr"] > 80
    assert (picture["prompt"], picture["steps"], picture["size"]) == ("a [bold] cat", 2, list(TINY_SIZE))
    assert min(picture["peak_bytes"], picture["onnx_peak_bytes"]) > 1 << 20


def test_other_weights_make_another_picture(
    pair: Pair, small_built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_random_lokr(tmp_path / "style.safetensors", small_built.config)
    adapters = [AdapterFile(tmp_path / "style.safetensors", 0.5)]
    export_onnx(pair.checkpoint, tmp_path / "onnx", ExportOptions(adapters, TINY_SIZE))
    other = Pair(pair.artifact, pair.checkpoint, tmp_path / "onnx")
    result = compare(capsys, other)
    assert result.code == 1
    assert "picture: 'a [bold] cat', 32x32, 2 steps: PSNR " in result.out
    assert json.loads(compare(capsys, other, "--json").out)["picture"]["psnr"] < 40


def test_psnr() -> None:
    """A difference of 0.02 between -1 and 1 is 0.01 between 0 and 1: 40 dB."""
    image = np.linspace(-0.9, 0.9, 48, dtype=np.float32).reshape(1, 3, 4, 4)
    assert psnr(image + np.float32(0.02), image) == pytest.approx(40, abs=1e-3)
    assert psnr(image, image) == inf
    assert psnr(image + np.float32(np.nan), image) == 0
    assert psnr(image * 0 + 3, image * 0 + 1) == inf
