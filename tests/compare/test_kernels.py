"""`sdcomp compare --per-kernel`: names exactly the kernels that are wrong."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from sdcomp.codegen import artifact, module
from sdcomp.codegen.kernels.attention import Attention
from sdcomp.codegen.kernels.base import Kernel
from sdcomp.codegen.kernels.group_norm import GroupNormCombine
from sdcomp.codegen.kernels.rows import LayerNorm
from sdcomp.codegen.plan import Call
from sdcomp.codegen.tables import PlannedProgram
from sdcomp.codegen.targets import Target
from sdcomp.compare import CompareOptions, KernelReport, compare_kernels
from sdcomp.compare.pieces import PieceByPiece, Place, TracedModel
from sdcomp.compiler import AdapterFile, BuildOptions, build
from sdcomp.errors import SdcompError
from sdcomp.export import ExportOptions, export_onnx
from sdcomp.frontend.synthetic_lokr import write_random_lokr
from tests.artifacts import TINY_SIZE, Built
from tests.cli.command import run_here
from tests.compare.conftest import Pair

SIZE = "x".join(map(str, TINY_SIZE))
EXACT = CompareOptions(tolerance=1e-5, threads=1)


@pytest.fixture(scope="module")
def clean(pair: Pair) -> KernelReport:
    return compare_kernels(pair.artifact, pair.folder, EXACT)


def test_a_right_artifact_has_no_wrong_kernel(clean: KernelReport, small_built: Built) -> None:
    assert clean.departing == []
    assert clean.skipped == ()
    assert any(found.error > 0 for found in clean.results)
    programs = small_built.manifest["programs"]
    counted = {program["name"]: sum(program["kernels"].values()) for program in programs}
    compared = dict.fromkeys(counted, 0)
    for found in clean.results:
        compared[found.program] += len(found.kinds)
    assert compared == counted


def test_results_say_what_a_kernel_is(clean: KernelReport) -> None:
    program = f"unet@{SIZE}x2"
    label = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.norm1"
    found = [row for row in clean.results if (row.program, row.label) == (program, label)]
    assert [(row.kinds, row.node) for row in found] == [(("layer_norm",), f"{label}/LayerNormalization")]
    norms = [row for row in clean.results if row.kinds[-1] == "group_norm_apply"]
    stages = ("group_norm_statistics", "group_norm_combine", "group_norm_apply")
    assert {row.kinds for row in norms} == {stages}


class Saboteur:
    """Builds with kernels that do not compute what they should."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.programs: Sequence[PlannedProgram] = ()
        self._twins: dict[Kernel, Kernel] = {}
        encode = artifact.encode_values

        def listen(programs: Sequence[PlannedProgram]) -> bytes:
            self.programs = programs
            return encode(programs)

        def emit(symbols: dict[Kernel, str], target: Target) -> list[bytes]:
            self._choose(symbols)
            return module.emit_objects({self._twins.get(k, k): name for k, name in symbols.items()}, target)

        monkeypatch.setattr(artifact, "encode_values", listen)
        monkeypatch.setattr(artifact, "emit_objects", emit)

    def _choose(self, symbols: dict[Kernel, str]) -> None:
        """One attention, one layer norm and one group norm; what they become has no name of its own yet."""
        wrong: dict[type[Kernel], dict[str, Any]] = {
            Attention: {"causal": True},
            LayerNorm: {"eps": 0.4},
            GroupNormCombine: {"eps": 0.3},
        }
        for kind, change in wrong.items():
            kernels = [k for k in symbols if isinstance(k, kind)]
            victim = next(k for k in reversed(kernels) if replace(k, **change) not in symbols)  # type: ignore[type-var]
            self._twins[victim] = replace(victim, **change)  # type: ignore[type-var]

    def expected(self) -> list[tuple[str, int]]:
        """The calls whose results are wrong: those of a kernel with a twin, or of a group that has one."""
        return [
            (planned.program.name, number)
            for planned in self.programs
            for number in _results_of(planned.program.calls, set(self._twins))
        ]


def _results_of(calls: Sequence[Call], kernels: set[Kernel]) -> list[int]:
    ends = [number for number, call in enumerate(calls) if call.result is not None]
    wrong = [number for number, call in enumerate(calls) if call.kernel in kernels]
    return [min(end for end in ends if end >= number) for number in wrong]


def test_names_exactly_the_kernels_that_are_wrong(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saboteur = Saboteur(monkeypatch)
    build(pair.checkpoint, tmp_path / "model.so", BuildOptions(sizes=[TINY_SIZE]))
    expected = saboteur.expected()
    assert len(expected) >= 3
    result = run_here(capsys, "compare", tmp_path / "model.so", pair.folder, "--per-kernel", "--json")
    assert result.code == 1
    report = json.loads(result.out)
    wrong = [row for row in report["results"] if row["error"] > report["tolerance"]]
    assert [(row["program"], row["kernel"]) for row in wrong] == expected
    table = run_here(capsys, "compare", tmp_path / "model.so", pair.folder, "--per-kernel").out
    assert "kernels that depart, the first one first" in table
    assert wrong[0]["kinds"][-1] in table
    assert f"{len(expected)} of {len(report['results'])} nodes" in table


def test_table_of_a_right_artifact(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_here(capsys, "compare", pair.artifact, pair.folder, "--per-kernel", "--threads", "2")
    assert result.code == 0, result.err
    assert "each kernel of the artifact on onnxruntime's values, 2 threads" in result.out
    assert "none of " in result.out


def test_models_of_other_files_are_refused(pair: Pair, small_built: Built, tmp_path: Path) -> None:
    write_random_lokr(tmp_path / "style.safetensors", small_built.config)
    adapters = [AdapterFile(tmp_path / "style.safetensors")]
    export_onnx(pair.checkpoint, tmp_path / "onnx", ExportOptions(adapters, TINY_SIZE, plan=True))
    with pytest.raises(SdcompError, match=r"plan/text.onnx: does not compute what the artifact computes"):
        compare_kernels(pair.artifact, tmp_path / "onnx", EXACT)


def test_missing_and_damaged_plans(pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = run_here(capsys, "compare", pair.artifact, tmp_path, "--per-kernel")
    assert missing.code == 2
    assert f"{tmp_path}/plan: no such folder; make it with sdcomp export --plan" in missing.err
    (tmp_path / "plan").mkdir()
    none = run_here(capsys, "compare", pair.artifact, tmp_path, "--per-kernel")
    assert none.code == 2
    assert "its programs have other sizes than" in none.err
    (tmp_path / "plan/text.onnx").write_bytes(b"no model")
    damaged = run_here(capsys, "compare", pair.artifact, tmp_path, "--per-kernel")
    assert damaged.code == 1
    assert "plan/text.onnx: is not a program of sdcomp export --plan" in damaged.err
    assert "Traceback" not in damaged.err


def test_sizes_that_were_not_exported_are_skipped(pair: Pair, tmp_path: Path) -> None:
    shutil.copytree(pair.folder / "plan", tmp_path / "plan")
    for path in (tmp_path / "plan").glob("unet*"):
        path.unlink()
    report = compare_kernels(pair.artifact, tmp_path, EXACT)
    assert report.skipped == (f"unet@{SIZE}x1", f"unet@{SIZE}x2")
    assert {found.program for found in report.results} == {"text", f"vae_decoder@{SIZE}"}


# Pieces


def test_pieces_give_what_the_whole_model_gives(pair: Pair) -> None:
    """Cut into as many pieces as there are values: nothing is kept that no later piece reads."""
    path = pair.folder / "plan" / f"vae_decoder@{SIZE}.onnx"
    model = TracedModel(path)
    latents = np.random.default_rng(0).standard_normal((1, 4, *TINY_SIZE)).astype(np.float32)
    made = [node.output[0] for node in model.nodes if node.op_type in ("Conv", "Add")]
    names = list(dict.fromkeys(name for name in (*made, *model.outputs()) if name in model.types))
    pieces = PieceByPiece(model, names, {"latents": latents, "others": latents}, 1, limit=1)
    most = 0
    for name in names:
        pieces.value(Place(name, channels_first=False))
        most = max(most, pieces.kept)
    (expected,) = onnxruntime.InferenceSession(path).run(None, {"latents": latents})
    np.testing.assert_allclose(pieces.outputs()["image"], expected, rtol=1e-4, atol=1e-5)
    assert most <= 5 < len(names) / 4
