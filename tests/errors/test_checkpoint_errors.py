"""Damaged or foreign checkpoints are refused in one line naming the file and, if there is one, the tensor."""

import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from sdcomp.errors import FamilyError, LoadError, SdcompError, UsageError
from sdcomp.frontend.checkpoint import Checkpoint
from sdcomp.frontend.family import detect
from sdcomp.frontend.safetensors import MAX_HEADER_BYTES, SafetensorsFile
from tests.checkpoints import write_checkpoint

TEXT = {"vocabulary": 16}

Tensors = dict[str, Any]


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes


def write_raw(path: Path, header: bytes, payload: bytes = bytes(8)) -> Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header + payload)
    return path


def assert_one_line(error: BaseException, path: Path) -> None:
    assert str(path) in str(error)
    assert "\n" not in str(error)


HEADERS: dict[str, tuple[bytes, str]] = {
    "not JSON": (b"{oops", "not UTF-8 JSON"),
    "not UTF-8": (b'{"\xff": 1}', "not UTF-8 JSON"),
    "nested too deep": (b"[" * 100_000, "not UTF-8 JSON"),
    "a list": (b"[1]", "not an object"),
    "a name twice": (b'{"x": 1, "x": 2}', "'x' twice"),
    "metadata not strings": (b'{"__metadata__": {"a": 1}}', "__metadata__"),
    "no entry": (b'{"x": 3}', "tensor 'x'"),
    "a missing field": (b'{"x": {"dtype": "F32"}}', "exactly dtype"),
    "an unknown dtype": (json.dumps({"x": entry(dtype="F4")}).encode(), "tensor 'x': unknown dtype 'F4'"),
    "a dtype not text": (json.dumps({"x": entry(dtype=[])}).encode(), "unknown dtype"),
    "a negative size": (json.dumps({"x": entry(shape=[-2])}).encode(), "its shape"),
    "a fractional size": (json.dumps({"x": entry(shape=[2.0])}).encode(), "its shape"),
    "a true size": (json.dumps({"x": entry(shape=[True, 2])}).encode(), "its shape"),
    "too many dimensions": (json.dumps({"x": entry(shape=[1] * 99)}).encode(), "its shape"),
    "an overflowing size": (json.dumps({"x": entry(shape=[1 << 62, 1 << 62])}).encode(), "its shape"),
    "a huge empty shape": (
        json.dumps({"x": entry(shape=[0, 1 << 62, 1 << 62], data_offsets=[0, 0])}).encode(),
        "its shape",
    ),
    "a wrapping size": (json.dumps({"x": entry(shape=[1 << 32, 1 << 16])}).encode(), "needs"),
    "too few bytes": (
        json.dumps({"x": entry(shape=[3])}).encode(),
        "needs 12 bytes, its data_offsets span 8",
    ),
    "offsets out of range": (json.dumps({"x": entry(shape=[3], data_offsets=[0, 12])}).encode(), "truncated"),
    "offsets reversed": (json.dumps({"x": entry(data_offsets=[8, 0])}).encode(), "in order"),
    "a negative offset": (json.dumps({"x": entry(data_offsets=[-8, 0])}).encode(), "data_offsets"),
    "one offset": (json.dumps({"x": entry(data_offsets=[0])}).encode(), "data_offsets"),
    "an overlap": (
        json.dumps({"x": entry(), "y": entry(shape=[1], data_offsets=[4, 8])}).encode(),
        "'y' overlaps tensor 'x'",
    ),
    "a gap": (json.dumps({"x": entry(shape=[1], data_offsets=[4, 8])}).encode(), "4 unused bytes before"),
    "trailing bytes": (
        json.dumps({"x": entry(shape=[1], data_offsets=[0, 4])}).encode(),
        "4 unused bytes behind",
    ),
    "a name without end": (json.dumps({"a." * 1000: entry()}).encode(), "2000 characters"),
    "a hostile name": (json.dumps({"\n\ud800\x1b[2J" * 99: 1}).encode(), "exactly dtype"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_wrong_header_is_refused(tmp_path: Path, case: str) -> None:
    header, message = HEADERS[case]
    path = write_raw(tmp_path / "a.safetensors", header)
    with pytest.raises(LoadError) as caught:
        SafetensorsFile(path)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert_one_line(caught.value, path)
    str(caught.value).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (b"1234567", "7 bytes"),
        (struct.pack("<Q", 100) + b"{}", "truncated"),
        (struct.pack("<Q", MAX_HEADER_BYTES + 1) + bytes(64), "at most"),
        (b"\xff" * 64, "at most"),
        (b"PK\x03\x04" + bytes(64), "zip archive"),
        (b"\x80\x02\x8a\x0a" + bytes(64), "pickle"),
        (b"GGUF" + bytes(64), "GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
        (b"<!DOCTYPE html><html>", "web page"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(LoadError, match=message) as caught:
        Checkpoint.open(path)
    assert_one_line(caught.value, path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_real_torch_file_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": {"x": torch.zeros(2)}}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(LoadError, match=r"\.ckpt"):
        Checkpoint.open(path)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text("{}")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    cases = [(tmp_path, "diffusers model folder"), (index, "sharded"), (fifo, "regular file")]
    for path, message in [*cases, (tmp_path / "none", "no such file")]:
        with pytest.raises(LoadError, match=message) as caught:
            Checkpoint.open(path)
        assert_one_line(caught.value, path)


def test_every_truncation_and_flipped_byte_is_refused_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": np.ones((3, 4), np.float32), "y": np.ones(5, np.float16)}, path, metadata={"a": "b"})
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(LoadError):
            SafetensorsFile(path)
    generator = random.Random(0)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[generator.randrange(len(whole))] = generator.randrange(256)
        path.write_bytes(damaged)
        read_everything(path)


def read_everything(path: Path) -> None:
    try:
        with SafetensorsFile(path) as file:
            for name in file.entries:
                file.read(name)
    except LoadError as error:
        assert_one_line(error, path)


def test_a_file_that_shrinks_while_open_is_an_error_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": np.ones(1 << 14, np.float32)}, path)
    with SafetensorsFile(path) as file:
        os.truncate(path, 100)
        with pytest.raises(LoadError, match="became shorter"):
            file.read("x")


def damaged(tmp_path: Path, change: Callable[[Tensors], None], **metadata: str) -> Path:
    """A small checkpoint after `change` was applied to its tensors."""
    path = tmp_path / "model.safetensors"
    write_checkpoint(path, text=TEXT)
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata=metadata)
    return path


def refusal(path: Path, **options: Any) -> str:
    with Checkpoint.open(path) as checkpoint, pytest.raises(SdcompError) as caught:
        detect(checkpoint, **options)
    assert isinstance(caught.value, FamilyError)
    assert_one_line(caught.value, path)
    return str(caught.value)


UNET = "model.diffusion_model."
QUERY = f"{UNET}input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_weights_that_are_not_numbers_are_refused(tmp_path: Path, value: float, dtype: type) -> None:
    def spoil(tensors: Tensors) -> None:
        tensors[QUERY] = tensors[QUERY].astype(dtype)
        tensors[QUERY][5, 7] = value

    with Checkpoint.open(damaged(tmp_path, spoil)) as checkpoint:
        detect(checkpoint)
        with pytest.raises(LoadError, match=r"attn1.to_q.weight.*NaN or infinity"):
            checkpoint.read(QUERY)


def test_f64_weights_too_large_for_f32_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({QUERY: np.full((2, 2), 1e300)}, path)
    with Checkpoint.open(path) as checkpoint, pytest.raises(LoadError, match="infinity"):
        checkpoint.read(QUERY)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    message = refusal(damaged(tmp_path, lambda tensors: tensors.pop(QUERY)))
    assert (
        f"1 of 626 tensors do not fit a Stable Diffusion 1.x model: {QUERY} (expected [32, 32], missing)"
        in message
    )


def test_a_wrong_shape_is_named(tmp_path: Path) -> None:
    message = refusal(
        damaged(tmp_path, lambda tensors: tensors.update({QUERY: np.zeros((32, 16), np.float16)}))
    )
    assert f"{QUERY} (expected [32, 32], found [32, 16])" in message


def test_many_missing_tensors_are_counted(tmp_path: Path) -> None:
    def drop(tensors: Tensors) -> None:
        for name in [name for name in tensors if ".norm2." in name]:
            del tensors[name]

    assert "more" in refusal(damaged(tmp_path, drop))


@pytest.mark.parametrize(
    "module",
    [
        f"{UNET}input_blocks.2",
        f"{UNET}output_blocks.3",
        f"{UNET}output_blocks.5",
        f"{UNET}middle_block.1",
        "cond_stage_model.transformer.text_model.encoder.layers.0",
        "first_stage_model.decoder.up.0",
        "first_stage_model.decoder.up.1.block.2",
        "first_stage_model.encoder.down.1",
        "first_stage_model.post_quant_conv",
    ],
)
def test_a_missing_module_is_refused(tmp_path: Path, module: str) -> None:
    def drop(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.startswith(f"{module}.")]:
            del tensors[name]

    refusal(damaged(tmp_path, drop))


@pytest.mark.parametrize(
    ("prefix", "label"),
    [(UNET, "unet"), ("first_stage_model.", "vae"), ("cond_stage_model.", "text encoder")],
)
def test_a_missing_network_is_named(tmp_path: Path, prefix: str, label: str) -> None:
    def drop(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.startswith(prefix)]:
            del tensors[name]

    assert f"has no {label}" in refusal(damaged(tmp_path, drop))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("conditioner.embedders.1.model.ln_final.weight", "Stable Diffusion XL"),
        ("conditioner.embedders.0.model.ln_final.weight", "refiner"),
        ("cond_stage_model.model.ln_final.weight", "Stable Diffusion 2.x"),
        ("text_encoder_2.text_model.final_layer_norm.weight", "Stable Diffusion XL"),
        ("model.diffusion_model.joint_blocks.0.x.weight", "diffusion transformer"),
        ("lora_unet_down_blocks_0_attentions_0_proj_in.lokr_w1", "adapter"),
        ("edm_vpred.sigma_max", "EDM"),
        (f"{UNET}label_emb.0.0.weight", "class conditioning"),
    ],
)
def test_other_families_are_recognised(tmp_path: Path, name: str, message: str) -> None:
    path = damaged(tmp_path, lambda tensors: tensors.update({name: np.zeros((2, 2), np.float16)}))
    found = refusal(path)
    assert message in found
    assert "Stable Diffusion 1.x only" in found


@pytest.mark.parametrize(
    ("unet", "text", "message"),
    [
        ({"in_channels": 9}, {}, "inpainting"),
        ({"in_channels": 5}, {}, "depth"),
        ({"context_channels": 1024}, {}, "Stable Diffusion 2.x"),
        ({"out_channels": 8}, {}, "writes 8 channels"),
        ({"context_channels": 96}, {}, "64 wide"),
        ({"model_channels": 48}, {}, "multiple"),
        ({"model_channels": 96, "heads": 8}, {"heads": 7}, "divide"),
    ],
)
def test_shapes_that_do_not_fit_are_explained(
    tmp_path: Path, unet: dict[str, Any], text: dict[str, Any], message: str
) -> None:
    path = tmp_path / "model.safetensors"
    metadata = {"sdcomp.text.heads": str(text.get("heads", 1))}
    write_checkpoint(path, unet=unet, text=TEXT, metadata=metadata)
    assert message in refusal(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("modelspec.prediction_type", "v", "only eps is"),
        ("modelspec.prediction_type", "sample", "only eps is"),
        ("sdcomp.unet.heads", "0", "positive integer"),
        ("sdcomp.unet.heads", "7", "do not divide"),
        ("sdcomp.unet.head_channels", "9" * 9, "positive integer"),
        ("sdcomp.text.heads", "x\n", "positive integer"),
        ("sdcomp.norm_groups", "0", "positive integer"),
        ("sdcomp.norm_groups", "24", "multiple"),
        ("sdcomp.vae.scaling_factor", "nan", "positive number"),
        ("sdcomp.vae.scaling_factor", "much", "positive number"),
    ],
)
def test_metadata_that_cannot_be_honoured(tmp_path: Path, key: str, value: str, message: str) -> None:
    path = tmp_path / "model.safetensors"
    write_checkpoint(path, text=TEXT, metadata={key: value})
    assert message in refusal(path)


def test_the_v_marker_is_heeded(tmp_path: Path) -> None:
    path = damaged(tmp_path, lambda tensors: tensors.update({"v_pred": np.zeros(0, np.float32)}))
    assert "v_pred" in refusal(path)


def test_options_that_cannot_be_honoured(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_checkpoint(path, text=TEXT)
    assert "only eps is" in refusal(path, prediction="v")
    with Checkpoint.open(path) as checkpoint:
        for options in ({"prediction": "flow"}, {"heads": 0}, {"heads": -8}):
            with pytest.raises(UsageError):
                detect(checkpoint, **options)


@pytest.mark.parametrize(
    ("name", "message"),
    [("x.scale_weight", "quantised"), ("scaled_fp8", "quantised"), ("x.comfy_quant", "quantised")],
)
def test_quantised_checkpoints_are_refused(tmp_path: Path, name: str, message: str) -> None:
    path = damaged(tmp_path, lambda tensors: tensors.update({name: np.zeros(1, np.uint8)}))
    with pytest.raises(LoadError, match=message) as caught:
        Checkpoint.open(path)
    assert_one_line(caught.value, path)


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    path = damaged(tmp_path, lambda tensors: tensors.update({QUERY: np.zeros((32, 32), np.int8)}))
    with pytest.raises(LoadError, match=r"to_q.weight.*stored as I8"):
        Checkpoint.open(path)


def test_two_names_of_one_tensor_are_refused(tmp_path: Path) -> None:
    twin = QUERY.replace("model.diffusion_model.", "unet.")
    path = damaged(tmp_path, lambda tensors: tensors.update({twin: tensors[QUERY]}))
    with pytest.raises(LoadError, match="both the tensor"):
        Checkpoint.open(path)
