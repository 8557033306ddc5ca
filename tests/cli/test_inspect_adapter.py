"""`sdcomp inspect` on adapters: what each module holds, by what it is scaled, and what does not fit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sdcomp.frontend.names import unet_layers
from tests.cli.command import run_here
from tests.cli.conftest import CONFIG

BLOCK = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0"
QUERY, OUT, FEED = f"{BLOCK}_attn1_to_q", f"{BLOCK}_attn1_to_out_0", f"{BLOCK}_ff_net_2"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"

Tensors = dict[str, Any]


def of(module: str, alpha: float | None = None, **shapes: tuple[int, ...]) -> Tensors:
    """Tensors of ones by suffix; `_weight` ends suffixes in `.weight`."""
    named = {f"{module}.{name.replace('_weight', '.weight')}": np.ones(s, "f4") for name, s in shapes.items()}
    return named if alpha is None else {**named, f"{module}.alpha": np.float32(alpha)}


WHOLE = of(QUERY, 1e10, lokr_w1=(4, 4), lokr_w2=(8, 8))
SPLIT = of(OUT, 1, lokr_w1_a=(4, 2), lokr_w1_b=(2, 4), lokr_w2_a=(8, 4), lokr_w2_b=(4, 8))
TUCKER = of(CONV, 1, lokr_w1=(4, 4), lokr_t2=(2, 2, 3, 3), lokr_w2_a=(2, 8), lokr_w2_b=(2, 8))
DORA = of(FEED, 3, lora_up_weight=(32, 6), lora_down_weight=(6, 128), dora_scale=(1, 128))
IA3 = {f"{QUERY}.weight": np.ones(32, "f4"), f"{QUERY}.on_input": np.array(0)}
OFT = of(OUT, 0.01, oft_blocks=(4, 8, 8), rescale=(32, 1))
GLORA = of(QUERY, 1, a1_weight=(32, 4), a2_weight=(4, 32), b1_weight=(32, 4), b2_weight=(4, 32))
LOHA = of(QUERY, 1, hada_w1_a=(32, 2), hada_w1_b=(2, 32), hada_w2_a=(32, 2), hada_w2_b=(2, 32))

CASES: dict[str, tuple[Tensors, str, str, int | None, float | None]] = {
    "whole factors": (WHOLE, "LoKr", "w1 whole, w2 whole", None, 1.0),
    "both split": (SPLIT, "LoKr", "w1 of rank 2, w2 of rank 4", 4, 0.25),
    "Tucker": (TUCKER, "LoKr", "w1 whole, w2 of rank 2 in Tucker form", 2, 0.5),
    "LoRA with DoRA": (DORA, "LoRA", "DoRA per input", 6, 0.5),
    "LoHa": (LOHA, "LoHa", "", 2, 0.5),
    "GLoRA": (GLORA, "GLoRA", "", 4, 0.25),
    "(IA)3": (IA3, "(IA)3", "", None, None),
    "diag-OFT": (OFT, "diag-OFT", "rescaled", None, None),
}


def inspect(
    capsys: pytest.CaptureFixture[str], folder: Path, tensors: Tensors, *options: Any, **metadata: str
) -> dict[str, Any]:
    path = folder / "adapter.safetensors"
    save_file({name: np.asarray(value) for name, value in tensors.items()}, path, metadata)
    result = run_here(capsys, "inspect", path, *options, "--json")
    assert result.code == 0, result.err
    found: dict[str, Any] = json.loads(result.out)
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_module(
    case: str, files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors, algorithm, form, rank, scale = CASES[case]
    found = inspect(capsys, tmp_path, tensors, "--model", files[0])
    (module,) = found["adapted"]
    assert module["module"] == next(iter(tensors)).partition(".")[0]
    assert (module["algorithm"], module["form"], module["rank"], module["scale"]) == (
        *(algorithm, form),
        *(rank, scale),
    )
    shapes = {name.partition(".")[2]: list(np.shape(value)) for name, value in tensors.items()}
    assert module["factors"] == {n: s for n, s in shapes.items() if n not in ("alpha", "on_input")}
    assert module["alpha"] == (
        None
        if scale is None and case != "diag-OFT"
        else pytest.approx(float(tensors.get(f"{module['module']}.alpha", 0)))
    )
    assert module["problem"] is None
    (name,) = module["weights"]
    assert found["match"]["weights"] == [name]
    shape = {f"{CONFIG.unet.prefix}{layer.path}.weight": layer.shape for layer in unet_layers(CONFIG.unet)}[
        name
    ]
    assert tuple(module["shape"]) == shape


def test_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = inspect(capsys, tmp_path, SPLIT | TUCKER)
    assert "match" not in found
    assert {module["module"]: module["scale"] for module in found["adapted"]} == {OUT: 0.25, CONV: 0.5}
    assert all(module["weights"] == [] and module["shape"] is None for module in found["adapted"])


def test_names_decide_that_it_is_an_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No prefix gives these away."""
    for suffixes in (
        {"weight": np.ones(32, "f4"), "on_input": np.array(1)},
        {"ia3_l": np.ones((1, 32), "f4")},
    ):
        found = inspect(capsys, tmp_path, {f"unet.conv_in.{name}": value for name, value in suffixes.items()})
        assert (found["kind"], found["modules"]) == ("adapter", 1)


def test_what_does_not_fit_is_told(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A build refuses this file; inspect goes on to the next module."""
    same = f"{CONFIG.unet.prefix}input_blocks.1.1.transformer_blocks.0.attn1.to_q"
    tensors = {
        **WHOLE,
        **of(same, lokr_w1=(4, 4), lokr_w2=(8, 8)),
        **of(OUT, lokr_w1=(4, 4), lokr_w2=(8, 9)),
        **of(FEED, float("inf"), lora_up_weight=(32, 6), lora_down_weight=(6, 128)),
        **of("lora_unet_nowhere", lokr_w1=(4, 4), lokr_w2=(8, 8)),
    }
    found = inspect(capsys, tmp_path, tensors, "--model", files[0])
    problems = found["match"]["problems"]
    assert list(found["match"]["unmatched"]) == ["lora_unet_nowhere"]
    assert set(problems) == {same, OUT, FEED}
    assert f"is the same module as '{QUERY}'" in problems[same]
    assert "[4, 4] and [8, 9] make [32, 36]; it is for another model" in problems[OUT]
    assert "its scale is inf" in problems[FEED]
    (infinite,) = (module for module in found["adapted"] if module["module"] == FEED)
    assert (infinite["alpha"], infinite["scale"]) == ("inf", None)
    assert len(found["match"]["weights"]) == 1
    out = run_here(capsys, "inspect", tmp_path / "adapter.safetensors", "--model", files[0]).out
    assert "1 of 5 modules" in out
    assert "it is for another model" in " ".join(out.split())


def test_family_and_warnings(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = of(f"{BLOCK}_attn2_to_k", 1, lokr_w1=(4, 8), lokr_w2=(8, 256))
    found = inspect(capsys, tmp_path, tensors, ss_network_dim="32")
    assert found["looks_made_for"] == "SDXL"
    (warning,) = found["warnings"]
    assert "may have meant a strength of 0.03125" in warning
    out = run_here(capsys, "inspect", tmp_path / "adapter.safetensors", "--model", files[0]).out
    assert "SDXL" in out
    assert "may have meant a strength of 0.03125" in " ".join(out.split())


def test_modules_that_are_alike_are_one_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors: Tensors = {}
    for index in range(300):
        tensors |= of(f"lora_unet_blocks_{index}_to_q", 2, lokr_w1=(4, 4), lokr_w2=(8, 8 + index % 3))
    save_file({name: np.asarray(value) for name, value in tensors.items()}, tmp_path / "a.safetensors")
    out = run_here(capsys, "inspect", tmp_path / "a.safetensors").out
    rows = [line.split() for line in out.splitlines() if "w1 whole" in line]
    assert [row[0] for row in rows] == ["100"] * 3
    assert "300" in out
    assert len(out.splitlines()) < 40
