"""Adapters that cannot be used: each one clear line that names the file and the key."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sdcomp.errors import AdapterError, LoadError
from sdcomp.frontend.adapters import match, open_adapter
from sdcomp.frontend.weights import WeightSource
from tests.checkpoints import SMALL
from tests.passes.graphs import weight

Q = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
SAME_Q = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"


def ones(*shape: int, dtype: Any = np.float32) -> Any:
    return np.ones(shape, dtype)


def lokr(module: str, w1: tuple[int, ...] = (4, 4), w2: tuple[int, ...] = (8, 8)) -> dict[str, Any]:
    return {f"{module}.lokr_w1": ones(*w1), f"{module}.lokr_w2": ones(*w2)}


def low_rank(**others: Any) -> dict[str, Any]:
    factors = {"lokr_w1": ones(4, 4), "lokr_w2_a": ones(8, 2), "lokr_w2_b": ones(2, 8), **others}
    return {f"{Q}.{suffix}": value for suffix, value in factors.items() if value is not None}


def tucker(**others: Any) -> dict[str, Any]:
    shapes = {"w1": (4, 4), "t2": (2, 2, 3, 3), "w2_a": (2, 8), "w2_b": (2, 8)} | others
    return {f"{CONV}.lokr_{name}": ones(*shape) for name, shape in shapes.items()}


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "no adapter at all": (
        {"conv_in.weight": ones(4, 4)},
        "no tensor of it belongs to an adapter; is it a checkpoint",
    ),
    "empty file": ({}, "no tensor of it belongs to an adapter"),
    "unknown suffix": (
        lokr(Q) | {f"{Q}.lokr_w3": ones(2), "more": ones(2)},
        rf"2 tensors are not part of any known adapter format: .*'{Q}.lokr_w3'",
    ),
    "PEFT": (lokr("base_model.model.conv_in"), "PEFT's adapter format is not supported by this version"),
    "only alpha": ({f"{Q}.alpha": ones()}, f"'{Q}': has alpha but no factors; the file is incomplete"),
    "two algorithms": (
        lokr(Q) | {f"{Q}.lora_up.weight": ones(4, 4)},
        f"'{Q}': has tensors of two algorithms, LoKr and LoRA",
    ),
    "other algorithm": ({f"{Q}.hada_w1_a": ones(4, 4)}, f"'{Q}': LoHa is not supported by this version"),
    "w1 without w2": (
        {f"{Q}.lokr_w1": ones(4, 4)},
        "needs either lokr_w2 or lokr_w2_a and lokr_w2_b, has neither",
    ),
    "half of w2": (low_rank(lokr_w2_b=None), "has lokr_w2_a; the file is incomplete"),
    "w1 twice": (
        lokr(Q) | {f"{Q}.lokr_w1_a": ones(4, 2), f"{Q}.lokr_w1_b": ones(2, 4)},
        "has lokr_w1, lokr_w1_a, lokr_w1_b",
    ),
    "t2 beside a whole w2": (lokr(Q) | {f"{Q}.lokr_t2": ones(2, 2, 3, 3)}, "lokr_t2': stands beside lokr_w2"),
    "t1": (lokr(Q) | {f"{Q}.lokr_t1": ones(2, 2)}, f"'{Q}.lokr_t1': no known trainer writes this tensor"),
    "DoRA": (lokr(Q) | {f"{Q}.dora_scale": ones(32, 1)}, f"'{Q}.dora_scale': DoRA is not supported"),
    "wrong shape": (
        lokr(Q, (4, 4), (8, 9)),
        rf"'{Q}': the weight is \[32, 32\], but the factors \[4, 4\] and \[8, 9\] make \[32, 36\]",
    ),
    "same size, other sides": (lokr(Q, (2, 8), (8, 8)), r"make \[16, 64\]"),
    "kernel split between factors": (lokr(CONV, (4, 96), (8, 3)), r"\[4, 96\] and \[8, 3\] make \[32, 288\]"),
    "other kernel": (
        lokr(CONV, (4, 4), (8, 8, 9, 1)),
        r"\[8, 8, 9, 1\] is for another kernel than the weight's \[3, 3\]",
    ),
    "kernel for a linear layer": (lokr(Q, (4, 4), (8, 2, 2, 2)), r"another kernel than the weight's \[\]"),
    "axes": (lokr(Q, (4, 4), (8, 8, 1)), r"lokr_w2': must have 2 or 4 axes, its shape is \[8, 8, 1\]"),
    "ranks differ": (low_rank(lokr_w2_b=ones(3, 8)), r"lokr_w2_b': its rank 3 is not that of its other half"),
    "Tucker ranks differ": (
        tucker(t2=(2, 3, 3, 3)),
        r"lokr_t2': \[2, 3, 3, 3\] does not fit lokr_w2_a and lokr_w2_b",
    ),
    "Tucker kernel": (tucker(t2=(2, 2, 1, 3)), "lokr_t2': .* is for another kernel"),
    "empty factor": (lokr(Q, (4, 0)), r"lokr_w1': is empty: its shape is \[4, 0\]"),
    "integer factor": (
        low_rank(lokr_w1=ones(4, 4, dtype=np.int32)),
        "lokr_w1': must be of floating point, is I32",
    ),
    "alpha of many numbers": (low_rank(alpha=ones(3)), r"alpha': must be one number, its shape is \[3\]"),
    "no alpha at all": (low_rank(alpha=ones(0)), r"alpha': must be one number, its shape is \[0\]"),
    "infinite alpha": (
        low_rank(alpha=np.float32(np.inf)),
        f"'{Q}': its scale is inf: alpha, scale and scalar",
    ),
    "alpha NaN": (low_rank(alpha=np.float16(np.nan)), "its scale is nan"),
    "infinite scale": (low_rank(scale=np.float32(-np.inf)), "its scale is -inf"),
    "same module twice": (lokr(Q) | lokr(SAME_Q), f"'{SAME_Q}': is the same module as '{Q}'"),
    "unmatched": (
        lokr("lora_unet_nowhere") | lokr(Q),
        r"1 of 2 modules are not in this model: 'lora_unet_nowhere'$",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str, tmp_path: Path) -> None:
    tensors, message = CASES[case]
    path = tmp_path / "adapter.safetensors"
    save_file({name: np.asarray(value) for name, value in tensors.items()}, path)
    with pytest.raises(AdapterError, match=message) as found, open_adapter(path) as adapter:
        match([adapter], SMALL)
    assert str(found.value).startswith(f"{path}: ")
    assert "\n" not in str(found.value)


def test_ten_unmatched_modules_and_a_count(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    modules = [f"lora_unet_no_{index:02}" for index in range(12)]
    save_file({name: value for module in modules for name, value in lokr(module).items()}, path)
    with pytest.raises(AdapterError, match="12 of 12 modules") as found, open_adapter(path) as adapter:
        match([adapter], SMALL)
    assert str(found.value).endswith("and 2 more")
    assert sum(module in str(found.value) for module in modules) == 10


@pytest.mark.parametrize(
    ("width", "family"), [(2048, "SDXL"), (1024, "Stable Diffusion 2"), (1280, "the SDXL refiner")]
)
@pytest.mark.parametrize("block", [0, 1], ids=["of the wrong shape", "missing"])
def test_adapter_of_another_family_is_recognised(width: int, family: str, block: int, tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    module = f"lora_unet_down_blocks_1_attentions_0_transformer_blocks_{block}_attn2_to_k"
    save_file(lokr(module, (8, 8), (80, width // 8)), path)
    with (
        pytest.raises(AdapterError, match=f"it looks like an adapter for {family}"),
        open_adapter(path) as adapter,
    ):
        match([adapter], SMALL)


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_strength_must_be_finite(strength: float, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="strength must be a finite number"):
        open_adapter(tmp_path / "any.safetensors", 1.0, strength)


def test_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    save_file(lokr(Q), path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(LoadError, match="truncated"):
        open_adapter(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_factor_that_is_not_finite(value: float, tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    tensors = lokr(Q)
    tensors[f"{Q}.lokr_w1"][1, 2] = value
    save_file(tensors, path)
    with open_adapter(path) as adapter:
        match([adapter], SMALL)
        source = WeightSource({}, [adapter])  # type: ignore[arg-type]
        with pytest.raises(AdapterError, match=f"'{Q}.lokr_w1': contains NaN or infinity"):
            source.read_weight(weight(f"{Q}.lokr_w1", (4, 4), "adapter0"))


def test_shape_that_changed_since_the_plan(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    save_file(lokr(Q), path)
    with open_adapter(path) as adapter:
        source = WeightSource({}, [adapter])  # type: ignore[arg-type]
        with pytest.raises(LoadError, match=r"expected shape \[4, 5\], found \[4, 4\]"):
            source.read_weight(weight(f"{Q}.lokr_w1", (4, 5), "adapter0"))


def test_very_many_modules_are_refused_soon(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    save_file({f"m{index}.alpha": ones() for index in range(50_000)} | lokr("m0"), path)
    start = time.monotonic()
    with pytest.raises(AdapterError, match="'m1': has alpha but no factors"):
        open_adapter(path)
    assert time.monotonic() - start < 5
