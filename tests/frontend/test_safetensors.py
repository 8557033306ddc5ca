"""The safetensors reader against the safetensors package and torch's own conversions."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from sdcomp.errors import LoadError
from sdcomp.frontend.safetensors import SafetensorsFile

EVERY_BYTE = torch.arange(256, dtype=torch.uint8)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "int64", "uint8", "bool"])
def test_types_of_numpy_are_read_as_they_are(tmp_path: Path, dtype: str) -> None:
    values = np.random.default_rng(0).integers(-2, 3, (3, 5, 2)).astype(dtype)
    save_file({"odd": np.ones(3, np.uint8), "values": values}, tmp_path / "a.safetensors")
    with SafetensorsFile(tmp_path / "a.safetensors") as file:
        found = file.read("values")
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_every_eight_bit_float_widens_as_in_torch(tmp_path: Path, dtype: torch.dtype) -> None:
    values = EVERY_BYTE.view(dtype).reshape(16, 16)
    save_torch({"values": values}, tmp_path / "a.safetensors")
    with SafetensorsFile(tmp_path / "a.safetensors") as file:
        np.testing.assert_array_equal(file.read("values"), values.float().numpy())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_bf16_and_f64_become_f32_as_in_torch(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)
    save_torch({"values": values}, tmp_path / "a.safetensors")
    with SafetensorsFile(tmp_path / "a.safetensors") as file:
        found = file.read("values")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values.float().numpy())


def test_scalars_empty_tensors_and_metadata(tmp_path: Path) -> None:
    tensors: dict[str, Any] = {"scalar": np.array(4.5, np.float32), "empty": np.zeros((0, 3), np.float16)}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"title": "é"})
    with SafetensorsFile(tmp_path / "a.safetensors") as file:
        assert file.metadata == {"title": "é"}
        assert file.read("scalar").shape == ()
        assert float(file.read("scalar")) == 4.5
        assert file.read("empty").shape == (0, 3)


def test_a_tensor_outlives_the_file(tmp_path: Path) -> None:
    save_file({"x": np.arange(5, dtype=np.float32)}, tmp_path / "a.safetensors")
    with SafetensorsFile(tmp_path / "a.safetensors") as file:
        values = file.read("x")
    np.testing.assert_array_equal(values, np.arange(5))
    values[0] = 1
    with pytest.raises(LoadError, match="closed"):
        file.read("x")


def test_reading_keeps_one_tensor_resident(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    save_file({f"t{i}": np.full(2 << 20, i, np.float32) for i in range(8)}, path)
    with SafetensorsFile(path) as file:
        for index, name in enumerate(sorted(file.entries)):
            assert file.read(name)[-1] == index
            assert mapped_resident_bytes(path) <= 1 << 20


def mapped_resident_bytes(path: Path) -> int:
    """Resident bytes of this process's mappings of a file."""
    smaps = Path("/proc/self/smaps")
    if not smaps.exists():
        pytest.skip("needs /proc/self/smaps")
    total, inside = 0, False
    for line in smaps.read_text().splitlines():
        if "-" in line.split(maxsplit=1)[0]:
            inside = line.endswith(str(path))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def test_a_header_padded_with_spaces_is_read(tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}).encode() + b"    "
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\x01\x02")
    with SafetensorsFile(tmp_path / "a.safetensors") as file:
        assert file.read("x").tolist() == [1, 2]
