"""`sdcomp build` by its output."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from sdcomp.cli.build import build
from sdcomp.passes.pipeline import PipelineOptions, pipeline
from tests.cli.command import run_here
from tests.cli.conftest import SIZE, Built


def test_reports_what_was_built_and_assumed(built: Built) -> None:
    out = built.result.out
    assert "note: The UNet predicts the noise (eps)" in out
    assert f"adapter {built.adapter.name} at strength 0.5: " in out
    assert f"sizes {SIZE}" in out.splitlines()[-1]


def test_leaves_nothing_but_the_artifact(built: Built) -> None:
    assert os.listdir(built.artifact.parent) == [built.artifact.name]


def test_debug_ladder(built: Built) -> None:
    err = built.result.err
    assert "target x86-64" in err or "target aarch64" in err
    assert "program text: " in err
    for step in pipeline(PipelineOptions()):
        assert f"pass {step.name}: " in err
        assert f"# after {step.name}\n" in err
    assert "costs shipped, of " in err
    assert re.search(
        r"^convolution vae_decoder@\S+ first_stage\S+ 1x\S+, \d+ to \d+: .* \(direct .* ms", err, re.M
    )
    assert "stage compile: " in err
    assert "graph unet@" in err


def test_options_are_handed_on(
    files: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, Any] = {}

    def compile_model(model: str, output: Path, options: object, *callbacks: object) -> dict[str, object]:
        del callbacks
        output.touch()
        seen.update(model=model, output=output, **vars(options))
        return {
            "checkpoint": {"notes": []},
            "adapters": [],
            "unmatched_modules": ["lora_unet_x"],
            "notes": [],
            "sizes": [],
            "target": "aarch64",
        }

    monkeypatch.setattr("sdcomp.compiler.build", compile_model)
    checkpoint, adapter = files
    output = tmp_path / "model.so"
    flags = ["--split-weights", "--allow-unmatched", "--prediction", "eps", "--heads", "4", "--threads", "3"]
    choices = ["--weights", "f32", "--target", "aarch64", "--size", "64x64", "--size", "128x64"]
    adapters = ["--lokr", f"{adapter}:0.5", "--lokr", str(adapter)]
    result = run_here(capsys, build.__name__, checkpoint, "-o", output, *flags, *choices, *adapters)
    assert result.code == 0
    assert "warning: 1 modules of the adapters are not in this model: 'lora_unet_x'\n" in result.err
    assert [(a.path, a.strength) for a in seen.pop("adapters")] == [(adapter, 0.5), (adapter, 1.0)]
    assert seen == {
        "model": str(checkpoint),
        "output": output,
        "sizes": [(64, 64), (128, 64)],
        "weights": "f32",
        "target": "aarch64",
        "threads": 3,
        "split_weights": True,
        "allow_unmatched": True,
        "prediction": "eps",
        "heads": 4,
    }
