"""Checkpoints read by canonical name, whatever the file calls its tensors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch

from sdcomp.frontend.checkpoint import Checkpoint
from sdcomp.ir.types import DType
from tests.checkpoints import random_tensors, small_config, write_checkpoint

TEXT = {"vocabulary": 32}
ATTENTION = "first_stage_model.decoder.mid.attn_1.q.weight"


@pytest.mark.parametrize("layout", ["ldm", "diffusers"])
@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_every_layout_reads_as_the_same_tensors(tmp_path: Path, layout: str, dtype: str) -> None:
    path = tmp_path / "model.safetensors"
    config = write_checkpoint(path, text=TEXT, dtype=dtype, layout=layout)
    expected = random_tensors(config, dtype)
    with Checkpoint.open(path) as checkpoint:
        assert set(checkpoint.tensors) == set(expected)
        for name, values in expected.items():
            found = checkpoint.read(name)
            assert found.dtype == values.dtype == checkpoint.tensors[name].dtype.numpy
            assert found.shape == values.shape == checkpoint.tensors[name].shape
            np.testing.assert_array_equal(found, values)
        assert checkpoint.unknown == checkpoint.ignored == ()


def test_attention_of_diffusers_is_linear_in_the_file_and_convolution_here(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_checkpoint(path, text=TEXT, layout="diffusers")
    assert load_file(path)["vae.decoder.mid_block.attentions.0.to_q.weight"].shape == (64, 64)
    with Checkpoint.open(path) as checkpoint:
        assert checkpoint.tensors[ATTENTION].shape == checkpoint.read(ATTENTION).shape == (64, 64, 1, 1)


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        (torch.bfloat16, "BF16"),
        (torch.float64, "F64"),
        (torch.float8_e4m3fn, "F8_E4M3"),
        (torch.float8_e5m2, "F8_E5M2"),
    ],
)
def test_other_types_are_seen_as_f32(tmp_path: Path, dtype: torch.dtype, stored: str) -> None:
    values = torch.randn(4, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    save_torch({ATTENTION: values}, tmp_path / "a.safetensors")
    with Checkpoint.open(tmp_path / "a.safetensors") as checkpoint:
        info = checkpoint.tensors[ATTENTION]
        assert (info.dtype, info.stored, info.shape) == (DType.F32, stored, (4, 6, 1, 1))
        found = checkpoint.read(ATTENTION)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:, :, 0, 0], values.float().numpy())


def test_names_that_are_not_weights_are_sorted_out(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    extra: dict[str, Any] = {
        "alphas_cumprod": np.zeros(1000),
        "model_ema.num_updates": np.array(3),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": np.arange(77)[None],
        "mystery": np.zeros(1, np.float16),
    }
    tensors: dict[str, Any] = random_tensors(small_config(text=TEXT)) | extra
    save_file(tensors, path, metadata={"modelspec.title": "Some"})
    with Checkpoint.open(path) as checkpoint:
        assert set(checkpoint.ignored) == set(extra) - {"mystery"}
        assert checkpoint.unknown == ("mystery",)
        assert not set(extra) & set(checkpoint.tensors)
        assert checkpoint.metadata == {"modelspec.title": "Some"}
        assert checkpoint.path == path


def test_stored_bytes_are_counted_by_type(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {"input_blocks.0.0.weight": np.zeros((2, 3), np.float16), "out.2.bias": np.zeros(5, np.float32)}
    save_file(tensors, path)
    with Checkpoint.open(path) as checkpoint:
        assert checkpoint.stored_bytes() == {"F16": (1, 12), "F32": (1, 20)}


def test_a_value_that_is_not_there(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a.safetensors", text=TEXT)
    with Checkpoint.open(tmp_path / "a.safetensors") as checkpoint, pytest.raises(KeyError):
        checkpoint.read("model.diffusion_model.none")
