"""The benchmarks on a small model: they measure what they say, and notice what is wrong.

Children import this file for the functions at its end, so what takes seconds to import is imported by tests.
"""

import json
import re
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks.__main__ import main
from benchmarks.cases import Array, Program
from benchmarks.checkpoint import TINY
from benchmarks.lokr import lokr_difference
from benchmarks.machine import CALLS, load_micro_kernel
from benchmarks.memory_usage import run_with_peak
from benchmarks.peers.registry import PEERS
from benchmarks.subjects.attention import AttentionCase
from benchmarks.subjects.conv import ConvCase
from benchmarks.subjects.layer import LayerCase
from benchmarks.subjects.matmul import MatmulCase
from benchmarks.workers import Worker, call_in_child
from sdcomp.compiler import AdapterFile, BuildOptions, build
from sdcomp.errors import ExecutionError
from sdcomp.frontend.checkpoint import Checkpoint
from sdcomp.frontend.family import detect
from sdcomp.frontend.synthetic_lokr import Form, write_random_lokr
from tests.artifacts import TINY as SMALLEST
from tests.checkpoints import write_checkpoint

SIZE = (32, 32)
RECORD_FIELDS = [
    *("subject", "case", "threads", "ours_ms", "ours_peak_mb"),
    *("peer", "peer_ms", "peer_peak_mb", "ratio", "peak_fraction"),
]


@dataclass(frozen=True)
class Files:
    """A checkpoint, a LoKr for it, and the artifacts without and with the LoKr."""

    checkpoint: Path
    lokr: Path
    artifact: Path
    adapted: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """All written by the benchmarks' own commands and the compiler."""
    folder = tmp_path_factory.mktemp("benchmarks")
    names = ("tiny.safetensors", "lokr.safetensors", "tiny.so", "adapted.so")
    made = Files(*(folder / name for name in names))
    assert main(["make-checkpoint", "tiny", "-o", str(made.checkpoint)]) == 0
    assert main(["make-lokr", "--model", str(made.checkpoint), "-o", str(made.lokr), "--factor", "4"]) == 0
    build(made.checkpoint, made.artifact, BuildOptions(sizes=[SIZE]))
    build(made.checkpoint, made.adapted, BuildOptions(sizes=[SIZE], adapters=[AdapterFile(made.lokr, 0.5)]))
    return made


def model_arguments(files: Files, artifact: Path) -> list[str]:
    place = ["--model", str(files.checkpoint), "--artifact", str(artifact)]
    return [*place, "--size", "32x32", "--threads", "1"]


def test_winograd_error(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["winograd-error", "tiny", "--size", "32x32", "--only", "upsampled"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines
    for line in lines:
        found = dict(re.findall(r"(direct|F\(\d,3\)(?: of 2x)?) (\d\S+e-\d+)", line))
        assert set(found) == {"direct", "F(2,3)", "F(4,3)", "F(2,3) of 2x", "F(4,3) of 2x"}
        assert all(1e-9 < float(error) < 2e-6 for error in found.values())
        assert float(found["F(4,3) of 2x"]) < float(found["F(4,3)"])


def test_unet_against_torch(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "records.json"
    measured = ["--runs", "1", "--peers", "torch", "--only", "x1", "--json", str(path)]
    assert main(["unet", *model_arguments(files, files.artifact), *measured]) == 0
    (record,) = json.loads(path.read_text())
    assert list(record) == RECORD_FIELDS
    assert (record["subject"], record["case"], record["peer"]) == ("unet", "32x32x1", "torch")
    assert record["ratio"] == pytest.approx(record["ours_ms"] / record["peer_ms"])
    assert 0 < record["peak_fraction"] < 1
    assert 10 < record["ours_peak_mb"] < record["peer_peak_mb"]
    assert "relative difference to torch" in capsys.readouterr().out


def test_adapters_folded_and_live(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, lokr, path = (tmp_path / name for name in ("m.safetensors", "a.safetensors", "records.json"))
    write_checkpoint(checkpoint, unet=SMALLEST.unet, vae=SMALLEST.vae, text=SMALLEST.text)
    assert main(["make-lokr", "--model", str(checkpoint), "-o", str(lokr), "--factor", "4", "--linear"]) == 0
    model = ["--model", str(checkpoint), "--lokr", f"{lokr}:0.5", "--size", "32x32"]
    assert main(["adapters", *model, "--threads", "1", "--runs", "1", "--json", str(path)]) == 0
    folded, live = json.loads(path.read_text())
    assert [record["case"].rpartition(", ")[2] for record in (folded, live)] == ["folded", "live"]
    assert folded["ratio"] == pytest.approx(folded["ours_ms"] / folded["peer_ms"])
    assert folded["peer_ms"] == live["peer_ms"]
    lines = capsys.readouterr().out.splitlines()
    said = [line.partition("difference of ")[2].split() for line in lines if "difference of" in line]
    differences = {words[0]: float(words[-1]) for words in said}
    assert differences["live"] < 1e-2 < differences["folded"]
    assert not any(name.endswith("lokr_t2") or "_conv1." in name for name in load_file(lokr))


def test_other_weights_are_noticed(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--runs", "1", "--peers", "torch"]
    assert main(["text", *model_arguments(files, files.adapted), *arguments]) == 1
    assert "compute different things" in capsys.readouterr().err


def test_scaling(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    arguments = ["scaling", *model_arguments(files, files.artifact), "--runs", "1", "--json", str(path)]
    assert main(arguments) == 2, "one thread scales to nothing"
    assert main([*arguments, "--threads", "2"]) == 0
    one, both, stolen = json.loads(path.read_text())
    assert [record["threads"] for record in (one, both, stolen)] == [1, 2, 2]
    assert both["peer_ms"] == one["ours_ms"]
    assert stolen["peer_ms"] == pytest.approx(both["ours_ms"] * 2 / 1.5)
    assert stolen["ratio"] == pytest.approx(stolen["ours_ms"] / stolen["peer_ms"])


def test_picture_against_torch(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    arguments = ["image", *model_arguments(files, files.artifact), "--peers", "torch", "--steps", "2"]
    assert main([*arguments, "--json", str(path)]) == 0
    (record,) = json.loads(path.read_text())
    assert list(record) == RECORD_FIELDS
    assert (record["subject"], record["case"], record["peer"]) == ("image", "32x32, 2 steps", "torch")
    assert record["ratio"] == pytest.approx(record["ours_ms"] / record["peer_ms"])
    assert min(record["ours_peak_mb"], record["peer_peak_mb"]) > 10


def test_another_picture_is_noticed(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["image", *model_arguments(files, files.adapted), "--peers", "torch", "--steps", "2"]
    assert main(arguments) == 1
    assert "makes another picture" in capsys.readouterr().err


def test_accuracy_of_an_exact_model(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["accuracy", *model_arguments(files, files.artifact)]) == 0
    lines = capsys.readouterr().out.splitlines()
    programs = [line.split()[0] for line in lines]
    vae = ["vae_decoder@32x32", "vae_encoder@32x32", "vae_encoder@32x32"]
    assert programs == ["text", "unet@32x32x1", "unet@32x32x2", *vae]
    assert all(float(line.split()[2]) < 1e-5 and "float64" in line for line in lines)


def test_accuracy_with_lokr(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    """The reference merges by its own formula; at another strength it finds another model."""
    arguments = ["accuracy", *model_arguments(files, files.adapted)]
    assert main([*arguments, "--lokr", f"{files.lokr}:0.5"]) == 0
    capsys.readouterr()
    assert main([*arguments, "--lokr", str(files.lokr)]) == 2
    assert "was built with the adapters" in capsys.readouterr().err


def test_checkpoint_is_of_its_family(files: Files) -> None:
    with Checkpoint.open(files.checkpoint) as checkpoint:
        found = detect(checkpoint)
    assert (found.unet, found.text, found.vae) == (TINY.unet, TINY.text, TINY.vae)


def test_lokr_formula_is_that_of_lycoris(tmp_path: Path) -> None:
    path = tmp_path / "lokr.safetensors"
    write_random_lokr(path, TINY, factor=8, seed=1, forms=tuple(Form))
    groups: dict[str, dict[str, Array]] = {}
    for name, tensor in load_file(path).items():
        key, _, suffix = name.partition(".")
        groups.setdefault(key, {})[suffix] = tensor.astype(np.float64)
    forms = {tuple(sorted(group)) for group in groups.values()}
    assert len(forms) == 4
    for group in groups.values():
        expected = lycoris_difference(group)
        found = lokr_difference(group, expected.shape)
        assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected)
        assert np.linalg.norm(expected) > 0


def lycoris_difference(group: dict[str, Array]) -> Array:
    import lycoris.functional.lokr  # type: ignore[import-untyped]
    import torch

    names = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")
    factors = [torch.from_numpy(group[f"lokr_{name}"]) if f"lokr_{name}" in group else None for name in names]
    alpha = float(group["alpha"])
    difference = lycoris.functional.lokr.diff_weight(*factors, gamma=alpha)
    return np.asarray(difference.numpy())


LAYERS: list[LayerCase] = [
    MatmulCase(rows=9, depth=24, columns=20),
    ConvCase(16, 24, side=8),
    ConvCase(16, 24, side=8, stride=2),
    ConvCase(16, 24, side=8, upsampled=True),
    AttentionCase(queries=12, keys=20, heads=2, channels=8),
    AttentionCase(queries=12, keys=12, heads=2, channels=8, causal=True),
]


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_layers_agree_with_torch_in_every_form(case: LayerCase, tmp_path: Path) -> None:
    case.prepare_ours(tmp_path)
    ours = case.load_ours(tmp_path, threads=1)
    found = ours.finish(ours.evaluate())
    assert ours.multiplies
    for _, form in case.forms("torch"):
        program = PEERS["torch"].load(form, tmp_path, 1)
        expected = program.finish(program.evaluate())
        for a, b in zip(found, expected, strict=True):
            assert a.shape == b.shape
            assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b)


@pytest.mark.parametrize("peer", ["openvino", "onnxruntime"])
def test_converted_layers_agree_with_torch(peer: str, tmp_path: Path) -> None:
    pytest.importorskip(peer)
    case = MatmulCase(rows=9, depth=24, columns=20)
    load = partial(_converted, peer, case, tmp_path)
    with Worker(peer, 1, load) as worker:
        (found,) = worker.outputs()
    (expected,) = PEERS["torch"].load(case, tmp_path, 1).evaluate()
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


def test_worker_times_evaluations() -> None:
    with Worker("sleeper", 1, partial(_sleeper, 0.02)) as worker:
        assert worker.multiplies == 7
        assert worker.outputs()[0].tolist() == [1, 1, 1]
        times = worker.measure(0.1)
        assert 2 <= len(times) <= 5
        assert median(times) >= 0.02
        assert worker.peak_mb() > 1


def test_failures_of_children_are_told() -> None:
    with pytest.raises(ExecutionError, match="odd: no such model"):
        Worker("odd", 1, _failure)
    with pytest.raises(ExecutionError, match="ended with code 3"):
        Worker("odd", 1, partial(sys.exit, 3))


def test_outputs_must_be_row_major() -> None:
    with Worker("lazy", 1, _promise) as worker, pytest.raises(ExecutionError, match="row-major"):
        worker.outputs()


def test_peak_is_the_childs_own() -> None:
    kept = np.ones(600 << 20, np.uint8)
    with Worker("small", 1, partial(_sleeper, 0.0)) as small:
        assert small.peak_mb() < 300
    with Worker("large", 1, partial(_holder, 400)) as large:
        assert 400 < large.peak_mb() < 700
    assert kept[-1] == 1


def test_calls_in_a_child_return() -> None:
    assert call_in_child("abs", 1, partial(abs, -3)) == 3


def test_peak_of_a_command() -> None:
    """Started by a small process: memory is shared until exec, so its peak would count as the command's."""
    command = (sys.executable, "-c", "import sys; sys.exit(len(bytearray(300 << 20)) % 7)")
    code, peak = call_in_child("command", 1, partial(run_with_peak, command))
    assert code == (300 << 20) % 7
    assert 300 < peak < 400


@pytest.mark.parametrize("threads", [1, 2])
def test_micro_kernel_counts_what_it_computes(threads: int) -> None:
    """Every call sums `depth` products of ones into each element of C, on every thread."""
    program = load_micro_kernel(threads)
    outputs = program.evaluate()
    (depth,) = {value for output in outputs for value in output.tolist()}
    assert len(outputs) == threads
    assert program.multiplies == CALLS * depth * sum(output.size for output in outputs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["matmul", "--only", "nothing like it"], "no case of matmul"),
        (["matmul", "--peers", "tvm"], "tvm is unknown"),
        (["text", "--model", "absent.safetensors"], "absent.safetensors"),
    ],
)
def test_usage_errors_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) != 0
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def _converted(peer: str, case: MatmulCase, folder: Path) -> Program:
    PEERS[peer].prepare(case, folder)
    return PEERS[peer].load(case, folder, 1)


def _sleeper(seconds: float) -> Program:
    def evaluate() -> list[Array]:
        time.sleep(seconds)
        return [np.ones(3, np.float32)]

    return Program(evaluate, 7, list)


def _promise() -> Program:
    return Program(lambda: [np.ones((3, 4), np.float32).T], None, list)


def _failure() -> Program:
    raise ExecutionError("no such model")


def _holder(megabytes: int) -> Program:
    held = np.ones(megabytes << 20, np.uint8)
    return Program(lambda: [held[:1]], None, list)
