"""diag-OFT and BOFT, as LyCORIS and as PEFT store them: against f64 numpy that builds whole matrices."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lycoris.functional import boft, diag_oft
from peft import BOFTConfig, OFTConfig, get_peft_model
from peft.tuners.boft.layer import BOFTLayer
from safetensors.numpy import load_file

from sdcomp.frontend.adapters.peft_oft import _neumann
from tests.frontend.adapter_case import BOUND, changed, random, scalar
from tests.passes.graphs import Array, error

SHAPES = [(12, 10), (12, 10, 3, 2), (12, 10, 1, 1)]


def block_diag(*blocks: Array) -> Array:
    return np.asarray(torch.block_diag(*(torch.from_numpy(np.ascontiguousarray(b)) for b in blocks)).numpy())


def cayley(skew: Array) -> Array:
    identity = np.eye(skew.shape[-1])
    return np.asarray((identity + skew) @ np.linalg.inv(identity - skew))


def skewed(blocks: Array, constraint: float = 0) -> Array:
    wide = blocks.astype(np.float64)
    skew = wide - np.swapaxes(wide, -1, -2)
    norm = np.sqrt((skew**2).sum())
    return skew * constraint / norm if 0 < constraint < norm else skew


def rotated_outputs(rotation: Array, before: Array) -> Array:
    return np.asarray((rotation @ before.reshape(len(before), -1).astype(np.float64)).reshape(before.shape))


@pytest.mark.parametrize("strength", [1.0, 0.4])
@pytest.mark.parametrize("alpha", [None, 0.0, 0.01, 100.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_diag_oft(shape: tuple[int, ...], alpha: float | None, strength: float, tmp_path: Path) -> None:
    blocks, before = random(3, 4, 4), random(*shape, seed=1)
    tensors = {"oft_blocks": blocks} | ({} if alpha is None else {"alpha": scalar(alpha)})
    rotation = block_diag(*(cayley(q).T for q in skewed(blocks, 12 * (alpha or 0))))
    expected = before + strength * (rotated_outputs(rotation, before) - before)
    assert error(changed(tmp_path, tensors, before, strength), expected) < BOUND


@pytest.mark.parametrize("shape", SHAPES)
def test_rescaled_diag_oft(shape: tuple[int, ...], tmp_path: Path) -> None:
    """LyCORIS rescales after the strength has been applied."""
    blocks, before = random(3, 4, 4), random(*shape, seed=1)
    rescale = random(12, *[1] * (len(shape) - 1), seed=2)
    rotation = block_diag(*(cayley(q).T for q in skewed(blocks)))
    expected = rescale.astype(np.float64) * (before + 0.4 * (rotated_outputs(rotation, before) - before))
    assert error(changed(tmp_path, {"oft_blocks": blocks, "rescale": rescale}, before, 0.4), expected) < BOUND


@pytest.mark.parametrize("constraint", [0.0, 0.01])
def test_diag_oft_equals_lycoris(constraint: float, tmp_path: Path) -> None:
    blocks, before = random(3, 4, 4), random(12, 10, 3, 3, seed=1)
    delta = diag_oft.diff_weight(
        torch.from_numpy(before), torch.from_numpy(blocks), None, constraint=12 * constraint
    )
    found = changed(tmp_path, {"oft_blocks": blocks, "alpha": scalar(constraint)}, before)
    assert error(found, before + delta.numpy()) < BOUND


def test_old_files_have_the_rotation_itself(tmp_path: Path) -> None:
    rotations, before = random(3, 4, 4), random(12, 10, seed=1)
    expected = rotated_outputs(block_diag(*(r.T.astype(np.float64) for r in rotations)), before)
    assert error(changed(tmp_path, {"oft_diag": rotations}, before), expected) < BOUND


def butterfly_order(outputs: int, half: int) -> Array:
    """Where the outputs come from after [..., 2, half] became [..., half, 2]."""
    return np.arange(outputs).reshape(-1, 2, half).transpose(0, 2, 1).reshape(-1)


@pytest.mark.parametrize("strength", [1.0, 0.4])
@pytest.mark.parametrize("alpha", [0.0, 0.01])
@pytest.mark.parametrize("shape", [(16, 6), (16, 6, 3, 3)])
def test_boft(shape: tuple[int, ...], alpha: float, strength: float, tmp_path: Path) -> None:
    blocks, before = random(3, 4, 4, 4, scale=0.4), random(*shape, seed=1)
    rescale = random(16, *[1] * (len(shape) - 1), seed=2)
    expected = before.astype(np.float64)
    for stage, skew in enumerate(skewed(blocks, 16 * alpha)):
        order = np.eye(16)[butterfly_order(16, 2**stage * 2)]
        rotation = strength * block_diag(*map(cayley, skew)) + (1 - strength) * np.eye(16)
        expected = rotated_outputs(order.T @ rotation @ order, expected)
    tensors = {"oft_blocks": blocks, "rescale": rescale, "alpha": scalar(alpha)}
    assert error(changed(tmp_path, tensors, before, strength), rescale * expected) < BOUND


@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_boft_equals_lycoris(strength: float, tmp_path: Path) -> None:
    blocks, before = random(3, 4, 4, 4, scale=0.4), random(16, 6, 3, 3, seed=1)
    delta = boft.diff_weight(
        torch.from_numpy(before), torch.from_numpy(blocks), None, constraint=0, scale=strength
    )
    found = changed(tmp_path, {"oft_blocks": blocks}, before, strength)
    assert error(found, before + delta.numpy()) < BOUND


class Layers(torch.nn.Module):
    """A linear layer and a convolution with inputs for PEFT to rotate."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(12, 8)
        self.convolution = torch.nn.Conv2d(4, 8, 3)


def merged_by_peft(config: Any, folder: Path) -> dict[str, Any]:
    """The weights before and after, and the adapter saved in `folder`."""
    torch.manual_seed(0)
    layers = Layers()
    before = {name: value.detach().clone().numpy() for name, value in layers.named_parameters()}
    model = get_peft_model(layers, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "oft_" in name:
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    merged = model.merge_and_unload()
    return {name: (before[name], value.detach().numpy()) for name, value in merged.named_parameters()}


OFT = {
    "Neumann": {},
    "Neumann of three terms": {"num_cayley_neumann_terms": 3},
    "Neumann of seven terms": {"num_cayley_neumann_terms": 7},
    "Cayley": {"use_cayley_neumann": False},
    "shared block": {"use_cayley_neumann": False, "block_share": True},
    "constrained": {"use_cayley_neumann": False, "coft": True, "eps": 0.5},
}


@pytest.mark.parametrize("options", OFT)
def test_oft_that_peft_writes(options: str, tmp_path: Path) -> None:
    config = OFTConfig(target_modules=["linear", "convolution"], r=0, oft_block_size=4, **OFT[options])
    check_peft(merged_by_peft(config, tmp_path), tmp_path)


@pytest.mark.parametrize("size", [2, 4])
def test_boft_that_peft_writes(size: int, tmp_path: Path) -> None:
    config = BOFTConfig(target_modules=["linear", "convolution"], boft_block_size=size)
    check_peft(merged_by_peft(config, tmp_path), tmp_path)


def check_peft(merged: dict[str, Any], folder: Path) -> None:
    file = load_file(folder / "adapter_model.safetensors")
    for layer in ("linear", "convolution"):
        module = f"base_model.model.{layer}"
        owned = {key.removeprefix(f"{module}."): v for key, v in file.items() if key.startswith(module)}
        before, after = merged[f"{layer}.weight"]
        assert error(changed(folder, owned, before, name=module), after) < BOUND
        half = changed(folder, owned, before, 0.5, name=module)
        assert error(half, (before.astype(np.float64) + after) / 2) < BOUND


@pytest.mark.parametrize("stages", [2, 3])
def test_butterfly_of_peft(stages: int, tmp_path: Path) -> None:
    """Without its CUDA extension PEFT makes one stage only, but tells the order of inputs of all."""
    blocks, lengths, before = random(stages, 4, 4, 4, scale=0.4), random(8, 1, seed=2), random(8, 16, seed=1)
    layer = BOFTLayer(torch.nn.Linear(16, 8))
    rotation = np.eye(16)
    for stage, stored in enumerate(blocks.astype(np.float64)):
        order = layer.block_butterfly_perm(16, 4 // 2**stage, 2, stages - 1).numpy()
        matrix = np.eye(16)[order]
        skew = 0.5 * (stored - stored.transpose(0, 2, 1))
        rotation = matrix @ block_diag(*map(cayley, -skew)) @ matrix.T @ rotation
    found = changed(tmp_path, {"boft_R": blocks, "boft_s": lengths}, before)
    assert error(found, (rotation @ before.T).T * lengths) < BOUND


def test_neumann_coefficients() -> None:
    assert [_neumann(terms) for terms in (1, 2, 3, 4, 5)] == [
        *([1], [1, 2], [1, 2, 2, 1], [1, 2, 2, 1], [1, 2, 2, 2, 1]),
    ]
