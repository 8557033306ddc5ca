"""(IA)3, full differences, norms and GLoRA, against f64 numpy."""

from pathlib import Path

import numpy as np
import pytest

from tests.frontend.adapter_case import BOUND, changed, random, scalar, wide
from tests.passes.graphs import Array, error


@pytest.mark.parametrize("strength", [1.0, -0.5])
@pytest.mark.parametrize("on_input", [0, 1])
@pytest.mark.parametrize("shape", [(6, 10), (6, 10, 3, 3)])
def test_ia3(shape: tuple[int, ...], on_input: int, strength: float, tmp_path: Path) -> None:
    before, count = random(*shape, seed=1), shape[on_input]
    stored = random(count) if len(shape) == 2 else random(1, count, 1, 1)
    expected = before.astype(np.float64)
    for channel, value in enumerate(stored.reshape(-1)):
        expected[(slice(None),) * on_input + (channel,)] *= 1 + strength * float(value)
    tensors = {"weight": stored, "on_input": np.array(on_input)}
    assert error(changed(tmp_path, tensors, before, strength), expected) < BOUND


@pytest.mark.parametrize("stored", [(6, 1), (1, 10)])
def test_ia3_of_peft(stored: tuple[int, int], tmp_path: Path) -> None:
    before, scales = random(6, 10, seed=1), random(*stored)
    expected = before * (1 + 0.5 * (scales.astype(np.float64) - 1))
    assert error(changed(tmp_path, {"ia3_l": scales}, before, 0.5), expected) < BOUND


@pytest.mark.parametrize("inputs", [False, True])
def test_ia3_of_peft_on_a_convolution(inputs: bool, tmp_path: Path) -> None:
    before, scales = random(6, 10, 3, 3, seed=1), random(1, 10 if inputs else 6, 1, 1)
    factor = scales if inputs else scales.transpose(1, 0, 2, 3)
    assert error(changed(tmp_path, {"ia3_l": scales}, before), before * factor.astype(np.float64)) < BOUND


def test_ia3_of_peft_scales_the_bias(tmp_path: Path) -> None:
    before, scales = random(6, seed=1), random(6, 1)
    found = changed(tmp_path, {"ia3_l": scales}, before, 0.5, bias=True)
    assert error(found, before * (1 + 0.5 * (scales.astype(np.float64)[:, 0] - 1))) < BOUND


@pytest.mark.parametrize(
    ("suffix", "shape", "stored"),
    [
        ("diff", (6, 5), (6, 5)),
        ("diff", (6, 5), (6, 5, 1, 1)),
        ("diff", (6, 5, 1, 1), (6, 5)),
        ("diff", (6, 5, 3, 3), (6, 5, 3, 3)),
        ("diff", (7,), (7,)),
        ("w_norm", (7,), (7,)),
    ],
)
def test_difference(suffix: str, shape: tuple[int, ...], stored: tuple[int, ...], tmp_path: Path) -> None:
    before, difference = random(*shape, seed=1), random(*stored)
    expected = before + 0.3 * difference.astype(np.float64).reshape(shape)
    assert error(changed(tmp_path, {suffix: difference}, before, 0.3), expected) < BOUND


@pytest.mark.parametrize("suffix", ["diff_b", "b_norm"])
def test_difference_of_a_bias(suffix: str, tmp_path: Path) -> None:
    before, difference = random(7, seed=1), random(7)
    found = changed(tmp_path, {suffix: difference}, before, 0.3, bias=True)
    assert error(found, before + 0.3 * difference.astype(np.float64)) < BOUND


GLORA = {
    "linear": ((12, 10), {"a1": (10, 3), "a2": (3, 10), "b1": (12, 3), "b2": (3, 10)}),
    "square": ((10, 10), {"a1": (10, 3), "a2": (3, 10), "b1": (10, 3), "b2": (3, 10)}),
    "convolution": (
        (12, 10, 3, 2),
        {"a1": (10, 3, 1, 1), "a2": (3, 10, 1, 1), "b1": (12, 3, 1, 1), "b2": (3, 10, 3, 2)},
    ),
    "1x1 for a linear layer": (
        (12, 10),
        {"a1": (10, 3, 1, 1), "a2": (3, 10, 1, 1), "b1": (12, 3, 1, 1), "b2": (3, 10, 1, 1)},
    ),
    "convolution, Tucker": (
        (12, 10, 3, 2),
        {
            **{"a1": (10, 3, 1, 1), "a2": (3, 10, 1, 1), "b1": (12, 3, 1, 1), "b2": (3, 10, 1, 1)},
            "bm": (3, 3, 3, 2),
        },
    ),
}
OLD_NAMES = {"a1": "a2", "a2": "a1", "b1": "b2", "b2": "b1", "bm": "bm"}


def glora_reference(tensors: dict[str, Array], before: Array, gamma: float) -> Array:
    f = {name: v.reshape(v.shape[:2]) if v.shape[2:] == (1, 1) else v for name, v in wide(tensors).items()}
    inner = np.einsum("oi...,ij,jk->ok...", before.astype(np.float64), f["a1"], f["a2"])
    if "bm" in f:
        outer = np.einsum("pquv,op,qi->oiuv", f["bm"], f["b1"], f["b2"])
    else:
        outer = np.einsum("or,r...->o...", f["b1"], f["b2"])
    return before + gamma * (inner + outer.reshape(before.shape))


@pytest.mark.parametrize("is_old", [False, True], ids=["new", "old"])
@pytest.mark.parametrize("form", GLORA)
def test_glora(form: str, is_old: bool, tmp_path: Path) -> None:
    shape, shapes = GLORA[form]
    tensors = {name: random(*stored, seed=ord(name[1])) for name, stored in shapes.items()}
    before = random(*shape, seed=1)
    expected = glora_reference(tensors, before, 0.6 * 2 / 3)
    file = {f"{OLD_NAMES[name] if is_old else name}.weight": value for name, value in tensors.items()}
    assert error(changed(tmp_path, {**file, "alpha": scalar(2)}, before, 0.6), expected) < BOUND


def test_glora_stores_plain_alpha_with_rs_lora(tmp_path: Path) -> None:
    shape, shapes = GLORA["linear"]
    tensors = {name: random(*stored, seed=ord(name[1])) for name, stored in shapes.items()}
    before = random(*shape, seed=1)
    file = {f"{name}.weight": value for name, value in tensors.items()} | {"alpha": scalar(2)}
    metadata = {"ss_network_alpha": "5", "ss_network_args": '{"rs_lora": "True"}'}
    found = changed(tmp_path, file, before, metadata=metadata)
    assert error(found, glora_reference(tensors, before, 2 / np.sqrt(3))) < BOUND
