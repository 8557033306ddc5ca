"""`sdcomp inspect` on the three kinds of files."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from sdcomp import load
from tests.cli.command import run_here
from tests.cli.conftest import CONFIG, Built


def _json(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    result = run_here(capsys, "inspect", *arguments, "--json")
    assert result.code == 0, result.err
    found: dict[str, Any] = json.loads(result.out)
    return found


def _shapes(path: Path) -> dict[str, list[int]]:
    with safe_open(path, "numpy") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


def test_artifact_manifest_is_the_libraries_and_no_code_runs(
    built: Built, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with load(built.artifact) as model:
        expected = model.manifest

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError(f"loaded {arguments} {options}")

    monkeypatch.setattr("ctypes.CDLL", refuse)
    found = _json(capsys, built.artifact)
    assert (found["kind"], found["bytes"]) == ("artifact", built.artifact.stat().st_size)
    assert found["manifest"] == expected


def test_artifact_tables(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    out = run_here(capsys, "inspect", built.artifact).out
    for words in (
        "64x32",
        "style.safetensors",
        "arena peak",
        "unet.prompt@64x32x2",
        "f32[1,4,16,32]",
        "vae_decoder@64x32",
        "convolutions, by shipped costs of ",
    ):
        assert words in out


def test_checkpoint(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    found = _json(capsys, built.checkpoint)
    shapes = _shapes(built.checkpoint)
    assert found["kind"] == "checkpoint"
    assert sum(network["tensors"] for network in found["networks"].values()) == len(shapes)
    assert sum(network["parameters"] for network in found["networks"].values()) == sum(
        map(math.prod, shapes.values())
    )
    assert found["stored"]["F16"]["tensors"] == len(shapes)
    assert found["architecture"]["unet"]["model_channels"] == CONFIG.unet.model_channels
    out = run_here(capsys, "inspect", built.checkpoint).out
    assert "sd1" in out
    assert "the rule of Stable Diffusion 1.x" in out


def test_adapter(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    found = _json(capsys, built.adapter)
    modules = {name.rpartition(".")[0] for name in _shapes(built.adapter)}
    assert (found["kind"], found["modules"], found["algorithms"]) == (
        "adapter",
        len(modules),
        {"LoKr": len(modules)},
    )
    assert "match" not in found
    assert "LoKr" in run_here(capsys, "inspect", built.adapter).out


def test_adapter_with_model(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    found = _json(capsys, built.adapter, "--model", built.checkpoint)
    assert len(found["match"]["weights"]) == found["modules"]
    assert found["match"]["unmatched"] == []
    out = run_here(capsys, "inspect", built.adapter, "--model", built.checkpoint).out
    assert f"{found['modules']} of {found['modules']} modules" in out


def test_model_is_for_adapters(built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_here(capsys, "inspect", built.checkpoint, "--model", built.checkpoint)
    assert (result.code, result.out) == (2, "")
    assert result.err == f"error: --model is for adapters, but {built.checkpoint} is a checkpoint\n"
