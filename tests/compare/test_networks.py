"""`sdcomp compare` and `sdcomp export`: what differs fails, and what cannot be compared is told."""

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdcomp.errors import ExecutionError
from sdcomp.export import ExportOptions, export_onnx
from sdcomp.frontend.synthetic_lokr import write_random_lokr
from sdcomp.workers import Worker
from tests.artifacts import TINY_SIZE, Built
from tests.cli.command import Result, run_here, start
from tests.compare.conftest import Pair

SIZE = "x".join(map(str, TINY_SIZE))
QUICK = ("--repeats", "1", "--threads", "1", "--steps", "0")
PROGRAMS = ["text", f"unet@{SIZE}x1", f"unet@{SIZE}x2", f"vae_decoder@{SIZE}"]


def compare(capsys: pytest.CaptureFixture[str], pair: Pair, *options: str | Path) -> Result:
    return run_here(capsys, "compare", pair.artifact, pair.folder, *QUICK, *options)


def rows(result: Result) -> dict[str, dict[str, Any]]:
    return {row["program"]: row for row in json.loads(result.out)["comparisons"]}


def test_equal_models_pass(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    result = compare(capsys, pair, "--json", "--tolerance", "1e-5")
    assert result.code == 0, result.err
    found = rows(result)
    assert list(found) == PROGRAMS
    for row in found.values():
        assert 0 < row["error"] < 1e-5
        assert 0 < row["largest"] < 1e-3
        assert min(row["seconds"], row["onnx_seconds"]) > 0
        assert min(row["peak_bytes"], row["onnx_peak_bytes"]) > 1 << 20
    assert json.loads(result.out)["picture"] is None
    assert found["text"]["once_seconds"] == 0 < found[f"unet@{SIZE}x1"]["once_seconds"]


def test_table(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    result = compare(capsys, pair)
    assert result.code == 0, result.err
    for words in (*PROGRAMS, "onnxruntime peak", "1 thread each", "all within the tolerance of 0.002"):
        assert words in result.out


def test_other_weights_fail(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str], small_built: Built
) -> None:
    """The exported model has an adapter that the artifact lacks; the VAE is the same."""
    write_random_lokr(tmp_path / "style.safetensors", small_built.config)
    adapter = ("--lokr", f"{tmp_path / 'style.safetensors'}:0.5")
    made = run_here(capsys, "export", pair.checkpoint, *adapter, "--dynamic", "-o", tmp_path / "onnx")
    assert made.code == 0, made.err
    assert f"{tmp_path / 'onnx'}: 3 models" in made.out
    other = Pair(pair.artifact, pair.checkpoint, tmp_path / "onnx")
    result = compare(capsys, other)
    assert result.code == 1
    assert "FAILED" in result.out
    assert "not all within" in result.out
    report = compare(capsys, other, "--json")
    assert (report.code, json.loads(report.out)["passed"]) == (1, False)
    errors = {name: row["error"] for name, row in rows(report).items()}
    assert errors["text"] > 0.01
    assert errors[f"unet@{SIZE}x2"] > 0.01
    assert errors[f"vae_decoder@{SIZE}"] < 1e-5


def test_given_inputs_are_used(pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Zeros in, so that the largest difference shrinks to that of the biases; the rest stays as it was."""
    np.savez(tmp_path / "in.npz", **{"vae_decoder/latents": np.zeros((1, 4, 32, 32))})
    before, after = (
        rows(compare(capsys, pair, "--json", *options)) for options in ((), ("--inputs", tmp_path / "in.npz"))
    )
    assert before["text"]["error"] == after["text"]["error"]
    assert before[f"vae_decoder@{SIZE}"]["error"] != after[f"vae_decoder@{SIZE}"]["error"]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("unet/latents", np.zeros((1, 4, 8, 8)), "unet/latents|must be f32\\[1, 4, 32, 32\\], found"),
        ("unet/noise", np.zeros(1), "'unet/noise' is no input; known are text/tokens, "),
        ("text/tokens", np.array(["a cat"]), "text/tokens must be i32"),
    ],
)
def test_inputs_that_do_not_fit(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, value: Any, words: str
) -> None:
    np.savez(tmp_path / "in.npz", **{name: value})
    result = compare(capsys, pair, "--inputs", tmp_path / "in.npz")
    assert result.code == 2
    assert re.search(words, result.err)


@pytest.mark.parametrize("content", [b"PK\x03\x04", b"", b"\x80\x04N."])
def test_files_that_are_no_inputs(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (tmp_path / "in.npz").write_bytes(content)
    result = compare(capsys, pair, "--inputs", tmp_path / "in.npz")
    assert result.code == 1
    assert "in.npz: is not an .npz file of plain arrays" in result.err


def test_models_of_another_size(pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the text encoder has no size."""
    export_onnx(pair.checkpoint, tmp_path / "onnx", ExportOptions(size=(64, 64)))
    result = compare(capsys, Pair(pair.artifact, pair.checkpoint, tmp_path / "onnx"))
    assert result.code == 0
    assert f"warning: the models have another size than unet@{SIZE}x1, " in result.err


def test_missing_models_and_packages(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = compare(capsys, Pair(pair.artifact, pair.checkpoint, tmp_path))
    assert missing.code == 2
    assert f"{tmp_path}/text_encoder/model.onnx: no such file; make it with sdcomp export" in missing.err
    monkeypatch.setattr("sdcomp.compare.cases.find_spec", lambda name: None)
    absent = compare(capsys, pair)
    assert absent.code == 2
    assert "pip install onnxruntime" in absent.err


def test_a_damaged_model(pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text_encoder").mkdir()
    for network in ("text_encoder", "unet", "vae_decoder"):
        (tmp_path / network).mkdir(exist_ok=True)
        (tmp_path / network / "model.onnx").write_bytes(b"not a model")
    result = compare(capsys, Pair(pair.artifact, pair.checkpoint, tmp_path))
    assert result.code == 1
    assert "text_encoder/model.onnx: onnxruntime cannot load it" in result.err


def _ends_suddenly() -> Any:
    return lambda question: os._exit(question)


def test_a_process_that_dies_is_told() -> None:
    with (
        Worker("the peer", _ends_suddenly) as worker,
        pytest.raises(ExecutionError, match="the peer ended with code 3"),
    ):
        worker.ask(3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--size", "512"), "--size 512: expected WIDTHxHEIGHT"),
        (("--dynamic", "--size", "64x64"), "with --dynamic every size will do"),
        (("--dynamic", "--plan"), "give --size instead of --dynamic"),
        (("--weights", "q4"), "--weights q4: expected one of f32, f16"),
        (("--target", "z80"), "--target z80: unknown"),
    ],
)
def test_export_refuses(
    pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    result = run_here(capsys, "export", pair.checkpoint, "-o", tmp_path / "out", *arguments)
    assert result.code == 2
    assert words in result.err
    assert os.listdir(tmp_path) == []


def test_export_options_are_handed_on(pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choices = ("--size", SIZE, "--weights", "f16", "--plan", "--heads", "4", "--prediction", "eps")
    result = run_here(capsys, "export", pair.checkpoint, "-o", tmp_path / "out", *choices)
    assert result.code == 0, result.err
    assert "note: The VAE's scaling factor" in result.out
    assert (tmp_path / f"out/plan/unet@{SIZE}x2.onnx").is_file()
    assert json.loads((tmp_path / "out/unet/config.json").read_text())["attention_head_dim"] == [4]
    full = (pair.folder / "unet/model.onnx_data").stat().st_size
    assert (tmp_path / "out/unet/model.onnx_data").stat().st_size < 0.7 * full


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_export_leaves_nothing(
    pair: Pair, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = start("export", pair.checkpoint, "-o", tmp_path / "out", "--size", "64x64", "--plan")
    begin = time.monotonic()
    while not os.listdir(tmp_path) and time.monotonic() - begin < 60:
        time.sleep(0.005)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == []
