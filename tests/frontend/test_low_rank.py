"""LoRA, LoCon, LoHa and DoRA of every stored form, against f64 numpy and against LyCORIS' functions."""

from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from lycoris.functional import locon, loha
from lycoris.functional.general import weight_decompose

from tests.frontend.adapter_case import BOUND, changed, dora, random, scalar, wide
from tests.passes.graphs import Array, error

Shapes = dict[str, tuple[int, ...]]

LORA: dict[str, tuple[tuple[int, ...], Shapes]] = {
    "linear": ((12, 10), {"up": (12, 3), "down": (3, 10)}),
    "linear, rank above both sides": ((4, 5), {"up": (4, 9), "down": (9, 5)}),
    "linear, stored as 1x1": ((12, 10), {"up": (12, 3, 1, 1), "down": (3, 10, 1, 1)}),
    "1x1 convolution, matrices": ((12, 10, 1, 1), {"up": (12, 3), "down": (3, 10)}),
    "convolution": ((12, 10, 3, 3), {"up": (12, 3, 1, 1), "down": (3, 10, 3, 3)}),
    "convolution, flattened": ((12, 10, 3, 2), {"up": (12, 3), "down": (3, 60)}),
    "convolution, Tucker": (
        (12, 10, 3, 2),
        {"up": (12, 3, 1, 1), "mid": (3, 3, 3, 2), "down": (3, 10, 1, 1)},
    ),
}


def lora_tensors(shapes: Shapes) -> dict[str, Array]:
    return {f"lora_{name}.weight": random(*shape) for name, shape in shapes.items()}


def lora_reference(tensors: dict[str, Array], shape: tuple[int, ...], gamma: float) -> Array:
    f = wide(tensors)
    up, down = (f[f"lora_{name}.weight"] for name in ("up", "down"))
    up = up.reshape(up.shape[:2])
    if "lora_mid.weight" in f:
        mid = f["lora_mid.weight"]
        return gamma * np.einsum("pquv,op,qi->oiuv", mid, up, down.reshape(down.shape[:2]))
    return gamma * np.tensordot(up, down.reshape(len(down), -1), 1).reshape(shape)


@pytest.mark.parametrize("strength", [1.0, -0.6])
@pytest.mark.parametrize("form", LORA)
def test_lora(form: str, strength: float, tmp_path: Path) -> None:
    shape, shapes = LORA[form]
    tensors, before = lora_tensors(shapes), random(*shape, seed=1)
    found = changed(tmp_path, {**tensors, "alpha": scalar(2)}, before, strength)
    gamma = 2 / shapes["down"][0]
    assert error(found, before + strength * lora_reference(tensors, shape, gamma)) < BOUND


@pytest.mark.parametrize("form", ["linear", "convolution", "convolution, Tucker"])
def test_lora_equals_lycoris(form: str, tmp_path: Path) -> None:
    shape, shapes = LORA[form]
    tensors = lora_tensors(shapes)
    down, up, mid = (tensors.get(f"lora_{name}.weight") for name in ("down", "up", "mid"))
    stored = [None if t is None else torch.from_numpy(t) for t in (down, up, mid)]
    expected = locon.diff_weight(*stored, gamma=2 / shapes["down"][0]).reshape(shape).numpy()
    found = changed(tmp_path, {**tensors, "alpha": scalar(2)}, np.zeros(shape, np.float32))
    assert error(found, expected) < BOUND


SPELLINGS = {
    "sd-scripts": ("lora_up.weight", "lora_down.weight"),
    "PEFT": ("lora_B.weight", "lora_A.weight"),
    "PEFT with the adapter's name": ("lora_B.some_name.weight", "lora_A.some_name.weight"),
    "parameters": ("lora_B", "lora_A"),
    "diffusers": ("lora.up.weight", "lora.down.weight"),
    "diffusers, linear layers": ("lora_linear_layer.up.weight", "lora_linear_layer.down.weight"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings(spelling: str, tmp_path: Path) -> None:
    up, down = random(12, 3), random(3, 10)
    before = random(12, 10, seed=1)
    found = changed(tmp_path, dict(zip(SPELLINGS[spelling], (up, down), strict=True)), before)
    assert error(found, before + up.astype(np.float64) @ down) < BOUND


def test_embedding(tmp_path: Path) -> None:
    down, up, before = random(3, 20), random(6, 3), random(20, 6, seed=1)
    tensors = {"lora_embedding_A": down, "lora_embedding_B": up, "alpha": scalar(6)}
    found = changed(tmp_path, tensors, before)
    assert error(found, before + 2 * (up.astype(np.float64) @ down).T) < BOUND


def test_bias_of_peft(tmp_path: Path) -> None:
    bias, before = random(12), random(12, seed=1)
    tensors = {"lora_B.weight": random(12, 3), "lora_A.weight": random(3, 10), "lora_B.bias": bias}
    found = changed(tmp_path, {**tensors, "alpha": scalar(1.5)}, before, 0.5, bias=True)
    assert error(found, before + 0.25 * bias.astype(np.float64)) < BOUND


LOHA: dict[str, tuple[tuple[int, ...], Shapes]] = {
    "linear": ((12, 10), {"w1_a": (12, 3), "w1_b": (3, 10), "w2_a": (12, 3), "w2_b": (3, 10)}),
    "linear, ranks differ": ((12, 10), {"w1_a": (12, 3), "w1_b": (3, 10), "w2_a": (12, 2), "w2_b": (2, 10)}),
    "convolution": (
        (12, 10, 3, 2),
        {"w1_a": (12, 3), "w1_b": (3, 60), "w2_a": (12, 3), "w2_b": (3, 60)},
    ),
    "convolution, Tucker": (
        (12, 10, 3, 2),
        {
            **{"w1_a": (3, 12), "w1_b": (3, 10), "w2_a": (3, 12), "w2_b": (3, 10)},
            **{"t1": (3, 3, 3, 2), "t2": (3, 3, 3, 2)},
        },
    ),
}


def loha_tensors(shapes: Shapes) -> dict[str, Array]:
    return {f"hada_{name}": random(*shape, seed=ord(name[1])) for name, shape in shapes.items()}


def loha_reference(tensors: dict[str, Array], shape: tuple[int, ...], gamma: float) -> Array:
    f = wide(tensors)
    halves = []
    for half in "12":
        a, b, core = (f.get(f"hada_{name}") for name in (f"w{half}_a", f"w{half}_b", f"t{half}"))
        if core is None:
            halves.append((a @ b).reshape(shape))
        else:
            halves.append(np.einsum("ijuv,ip,jq->pquv", core, a, b))
    return gamma * halves[0] * halves[1]


@pytest.mark.parametrize("form", LOHA)
def test_loha(form: str, tmp_path: Path) -> None:
    shape, shapes = LOHA[form]
    tensors, before = loha_tensors(shapes), random(*shape, seed=1)
    found = changed(tmp_path, {**tensors, "alpha": scalar(2)}, before, 0.7)
    assert error(found, before + 0.7 * loha_reference(tensors, shape, 2 / 3)) < BOUND


@pytest.mark.parametrize("form", ["linear", "convolution", "convolution, Tucker"])
def test_loha_equals_lycoris(form: str, tmp_path: Path) -> None:
    shape, shapes = LOHA[form]
    tensors = loha_tensors(shapes)
    names = ("w1_b", "w1_a", "w2_b", "w2_a", "t1", "t2")
    stored = [torch.from_numpy(tensors[f"hada_{n}"]) if n in shapes else None for n in names]
    expected = loha.diff_weight(*stored, gamma=torch.tensor(2 / 3)).reshape(shape).numpy()
    found = changed(tmp_path, {**tensors, "alpha": scalar(2)}, np.zeros(shape, np.float32))
    assert error(found, expected) < BOUND


def lengths(shape: tuple[int, ...], axis: int) -> Array:
    stored = [1] * len(shape)
    stored[axis] = shape[axis]
    return np.abs(random(*stored, seed=3)) + 0.5


@pytest.mark.parametrize("strength", [1.0, 0.3])
@pytest.mark.parametrize("axis", [0, 1], ids=["per output", "per input"])
@pytest.mark.parametrize("form", ["linear", "convolution", "1x1 convolution, matrices"])
def test_dora_on_lora(form: str, axis: int, strength: float, tmp_path: Path) -> None:
    shape, shapes = LORA[form]
    tensors, before, scale = lora_tensors(shapes), random(*shape, seed=1), lengths(shape, axis)
    found = changed(tmp_path, {**tensors, "alpha": scalar(2), "dora_scale": scale}, before, strength)
    delta = lora_reference(tensors, shape, 2 / 3)
    assert error(found, dora(before, delta, scale, axis, strength)) < BOUND


@pytest.mark.parametrize("axis", [0, 1], ids=["per output", "per input"])
def test_dora_of_a_square_weight_is_told_by_its_shape(axis: int, tmp_path: Path) -> None:
    tensors, before = {"lora_up.weight": random(8, 2), "lora_down.weight": random(2, 8)}, random(8, 8, seed=1)
    scale = lengths((8, 8), axis)
    found = changed(tmp_path, {**tensors, "dora_scale": scale}, before)
    assert error(found, dora(before, lora_reference(tensors, (8, 8), 1), scale, axis, 1)) < BOUND


@pytest.mark.parametrize("axis", [0, 1], ids=["per output", "per input"])
def test_dora_equals_lycoris(axis: int, tmp_path: Path) -> None:
    shape, shapes = LORA["convolution"]
    tensors, before, scale = lora_tensors(shapes), random(*shape, seed=1), lengths(shape, axis)
    merged = torch.from_numpy((before + lora_reference(tensors, shape, 1)).astype(np.float32))
    expected = weight_decompose(merged, torch.from_numpy(scale), wd_on_out=axis == 0).numpy()
    assert error(changed(tmp_path, {**tensors, "dora_scale": scale}, before), expected) < BOUND


def test_dora_on_loha(tmp_path: Path) -> None:
    shape, shapes = LOHA["convolution"]
    tensors, before, scale = loha_tensors(shapes), random(*shape, seed=1), lengths(shape, 1)
    found = changed(tmp_path, {**tensors, "dora_scale": scale}, before)
    assert error(found, dora(before, loha_reference(tensors, shape, 1), scale, 1, 1)) < BOUND


def test_dora_on_lokr(tmp_path: Path) -> None:
    first, second, before = random(3, 2), random(4, 5), random(12, 10, seed=1)
    scale = lengths((12, 10), 0)
    tensors = {"lokr_w1": first, "lokr_w2": second, "alpha": scalar(np.inf), "dora_scale": scale}
    expected = dora(before, np.kron(first.astype(np.float64), second), scale, 0, 0.8)
    assert error(changed(tmp_path, tensors, before, 0.8), expected) < BOUND


@pytest.mark.parametrize("stored", [(12,), (1, 12, 1, 1)])
@pytest.mark.parametrize("suffix", ["lora_magnitude_vector", "lora_magnitude_vector.default.weight"])
def test_magnitude_vector_of_peft_is_per_output(stored: tuple[int, ...], suffix: str, tmp_path: Path) -> None:
    shape, shapes = LORA["convolution"]
    tensors, before = lora_tensors(shapes), random(*shape, seed=1)
    scale = np.abs(random(*stored, seed=3)) + 0.5
    found = changed(tmp_path, {**tensors, suffix: scale}, before)
    assert error(found, dora(before, lora_reference(tensors, shape, 1), scale, 0, 1, eps=0)) < BOUND


def test_rank_of_every_form_is_that_of_down() -> None:
    """The forms above would not tell a rank from another side if these were equal."""
    for shape, shapes in LORA.values():
        rank = shapes["down"][0]
        assert rank not in (shape[0], shape[1], prod(shape[1:]))
