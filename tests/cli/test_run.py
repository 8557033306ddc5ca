"""`sdcomp run` by the pictures that it writes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdcomp import load
from sdcomp.runtime.pipeline import GenerateOptions
from tests.cli.command import Result, run_here
from tests.cli.conftest import Built


def _run(capsys: pytest.CaptureFixture[str], built: Built, output: Path, *options: str) -> Result:
    return run_here(capsys, "run", built.artifact, "-p", "a cat", "-o", output, "--steps", "2", *options)


def test_picture_is_that_of_the_python_interface(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cat.png"
    options = ("-n", "dog", "--cfg-scale", "3", "--seed", "7", "--sampler", "euler", "--schedule", "karras")
    result = _run(capsys, built, path, *options)
    assert result.code == 0, result.err
    with load(built.artifact) as model:
        expected = model.generate(
            GenerateOptions("a cat", "dog", steps=2, cfg_scale=3, seed=7, sampler="euler", schedule="karras")
        )
    picture = Image.open(path)
    assert picture.size == (64, 32)
    assert np.array_equal(np.asarray(picture), np.asarray(expected.images[0]))
    assert picture.info["parameters"] == expected.parameters[0]


def test_output_tells_machine_and_times(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = _run(capsys, built, tmp_path / "cat.png")
    first, times, files = result.out.splitlines()
    assert ", 1 thread; UNet: " in first
    assert "attention" in first
    for stage in ("open", "text encoder", "sampling", "decoder", "together"):
        assert f"{stage} " in times
    assert "s/step" in times
    assert files == str(tmp_path / "cat.png")
    assert "warning" not in result.err


def test_batch_is_numbered_and_threads_change_nothing(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(capsys, built, tmp_path / "cat.png", "--batch", "2", "--threads", "2").code == 0
    assert _run(capsys, built, tmp_path / "other-%02d.png", "--seed", "43").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cat-1.png", "cat-2.png", "other-01.png"]
    second, other = (Image.open(tmp_path / name) for name in ("cat-2.png", "other-01.png"))
    assert np.array_equal(np.asarray(second), np.asarray(other))


def test_truncated_prompt_warns(built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = _run(capsys, built, tmp_path / "cat.png", "-p", "word " * 100)
    assert result.code == 0
    assert "warning: " in result.err
    assert "tokens" in result.err


def test_kernel_times_and_trace(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDCOMP_DEBUG", "2")
    monkeypatch.setenv("SDCOMP_TRACE", str(tmp_path / "trace.json"))
    result = _run(capsys, built, tmp_path / "cat.png")
    assert result.code == 0, result.err
    assert "busy time by kind of kernel" in result.err
    assert "contraction " in result.err
    assert "host " in result.err
    rows = [line.split() for line in result.err.partition("idle time of the workers")[2].splitlines()]
    (worker,) = [row for row in rows if row and row[0] == "0"]
    assert float(worker[1]) > 0
    assert 0 <= float(worker[3]) < 100
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {"text_model" in event["name"] for event in events} == {True, False}
    assert all(event["ph"] == "X" and event["dur"] >= 0 and event["tid"] == 0 for event in events)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--size", "512x512"], 2, "was built for 64x32"),
        (["--size", "big"], 2, "WIDTHxHEIGHT"),
        (["--sampler", "magic"], 2, "the samplers are euler, euler_a"),
        (["--schedule", "magic"], 2, "the schedules are discrete, karras"),
        (["--steps", "0"], 2, "--steps"),
        (["--threads", "100000"], 2, "threads"),
        (["--cfg-scale", "nan"], 2, "cfg scale"),
        (["-o", "missing/cat.png"], 2, "does not exist"),
        (["-o", "cat.jpg"], 2, "PNG"),
    ],
)
def test_options_that_cannot_be_honoured(
    built: Built,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = _run(capsys, built, Path("cat.png"), *options)
    assert result.code == code
    assert words in result.err.splitlines()[-1]
    assert result.err.splitlines()[-1].startswith("error: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["run", "inspect"])
@pytest.mark.parametrize(
    ("where", "words"), [("end", "truncated"), ("code", "code is damaged"), ("weights", "damaged")]
)
def test_damaged_artifact(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, where: str, words: str
) -> None:
    if command == "inspect" and where == "weights":
        pytest.skip("inspect reads no weights")
    data = bytearray(built.artifact.read_bytes())
    if where == "end":
        del data[-200:]
    else:
        data[{"code": 5000, "weights": -1_000_000}[where]] ^= 1
    path = tmp_path / "damaged.so"
    path.write_bytes(data)
    arguments = ["-p", "x", "-o", str(tmp_path / "x.png")] if command == "run" else []
    result = run_here(capsys, command, path, *arguments)
    assert (result.code, result.out) == (1, "")
    assert result.err.count("\n") == 1
    assert result.err.startswith(f"error: {path}: ")
    assert words in result.err
    assert not (tmp_path / "x.png").exists()
