"""Reads safetensors files: lazily, from a memory map, one tensor resident at a time, trusting no header.

Format (huggingface/safetensors): a little-endian u64 header length, a JSON object of
`{name: {dtype, shape, data_offsets}}` with an optional `__metadata__` of strings, then the tensors
without gaps, little-endian and row-major.
"""

import json
import mmap
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from sdcomp.errors import LoadError
from sdcomp.ir.types import Array, Shape

MAX_HEADER_BYTES = 16 << 20
"""The largest known checkpoint headers are under 1 MiB; parsed JSON takes tens of times its text."""

MAX_TENSORS = 100_000
"""The largest known files, adapters of every module of SDXL, have some ten thousand."""

MAX_RANK = 8

MAX_NAME_LENGTH = 1024

MAX_ELEMENTS = 1 << 48
"""Bounds the sides of empty tensors too, which no offsets bound; numpy cannot address more anyway."""

LENGTH_BYTES = 8

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8, "I64": 8,
    "F8_E4M3": 1, "F8_E5M2": 1, "BF16": 2, "F16": 2, "F32": 4, "F64": 8,
}  # fmt: skip

NUMPY_TYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4",
    "U64": "<u8", "I64": "<i8", "F16": "<f2", "F32": "<f4",
}  # fmt: skip
"""Stored types that numpy reads as they are; the others are widened to float32."""

OTHER_FORMATS: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive, as PyTorch writes .ckpt and .pt files"),
    (b"\x80\x02\x8a\x0a", "a PyTorch pickle (.ckpt or .pt)"),
    (b"GGUF", "a GGUF file"),
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself: fetch it with `git lfs pull`"),
    (b"<!DOCTYPE", "a web page, not a model: the download went wrong"),
    (b"<html", "a web page, not a model: the download went wrong"),
)


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies: `begin` and `end` are byte offsets from the start of the file."""

    name: str
    dtype: str
    shape: Shape
    begin: int
    end: int


class SafetensorsFile:
    """An open safetensors file. Use it as a context manager, or call `close`.

    The whole layout is checked on opening; a LoadError names the file, the tensor and what is wrong.
    """

    path: Path
    metadata: dict[str, str]
    entries: Mapping[str, TensorEntry]

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._map: mmap.mmap | None = None
        self._file = _open(self.path)
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            header, payload = _read_header(self.path, self._file, self._size)
            self.metadata = _metadata(self.path, header.pop("__metadata__", {}))
            self.entries = _entries(self.path, header, payload, self._size)
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        except BaseException:
            self.close()
            raise

    def read(self, name: str) -> Array:
        """A copy of one tensor: float16, float32 and integers as stored; bf16, f64 and f8 as float32.

        The file's pages are released before returning, so reading a whole file keeps one tensor resident.
        Raises LoadError if the file became shorter since it was opened, KeyError if it has no such tensor.
        """
        entry = self.entries[name]
        if self._map is None:
            raise LoadError(f"{self.path}: closed before tensor {quoted(name)} was read")
        if os.fstat(self._file.fileno()).st_size < self._size:
            raise LoadError(f"{self.path}: became shorter while it was being read; leave the file alone")
        values = _decode(self._map, entry)
        self.release()
        return values

    def release(self) -> None:
        """Give the mapped pages back to the system; they are read again when needed."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Unmap and close the file; `entries` and `metadata` stay readable."""
        if self._map is not None:
            self._map.close()
            self._map = None
        self._file.close()

    def __enter__(self) -> "SafetensorsFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def quoted(name: str, limit: int = 120) -> str:
    """A name from a file, fit for one line of a message: quoted, control characters escaped, not too long."""
    return ascii(name if len(name) <= limit else name[:limit] + "...")


def _open(path: Path) -> Any:
    if path.is_dir():
        raise LoadError(f"{path}: is a folder; sdcomp reads one .safetensors file that holds the whole model")
    if not path.exists():
        raise LoadError(f"{path}: no such file")
    if not path.is_file():
        raise LoadError(f"{path}: is not a regular file")
    try:
        return path.open("rb")
    except OSError as error:
        raise LoadError(f"{path}: cannot be opened: {error.strerror}") from error


def _read_header(path: Path, file: Any, size: int) -> tuple[dict[str, Any], int]:
    """The parsed header, and the offset of the first tensor byte."""
    start = file.read(32)
    for magic, description in OTHER_FORMATS:
        if start.startswith(magic):
            raise LoadError(f"{path}: is {description}; sdcomp reads .safetensors files only")
    if size < LENGTH_BYTES:
        raise LoadError(f"{path}: has {size} bytes, too few for a safetensors file; it is truncated")
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise LoadError(
            f"{path}: is not a safetensors file, or is damaged: its header claims {length} bytes, "
            f"at most {MAX_HEADER_BYTES} are accepted"
        )
    if LENGTH_BYTES + length > size:
        raise LoadError(
            f"{path}: is truncated: its header claims {length} bytes, but only {size - LENGTH_BYTES} follow"
        )
    file.seek(LENGTH_BYTES)
    return _parse_header(path, file.read(length)), LENGTH_BYTES + length


def _parse_header(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) == len(pairs):
            return result
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise LoadError(f"{path}: its header names {quoted(twice)} twice")

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{path}: its header is not UTF-8 JSON ({error}); the file is damaged") from error
    if not isinstance(header, dict):
        raise LoadError(f"{path}: its header is JSON, but not an object; the file is damaged")
    return header


def _metadata(path: Path, found: Any) -> dict[str, str]:
    if isinstance(found, dict) and all(isinstance(value, str) for value in found.values()):
        return found
    raise LoadError(f"{path}: __metadata__ must map names to strings")


def _entries(path: Path, header: Mapping[str, Any], payload: int, size: int) -> dict[str, TensorEntry]:
    if len(header) > MAX_TENSORS:
        raise LoadError(f"{path}: has {len(header)} tensors, at most {MAX_TENSORS} are read")
    entries = [_entry(path, name, fields, payload, size) for name, fields in header.items()]
    _check_contiguous(path, sorted(entries, key=lambda entry: (entry.begin, entry.end)), payload, size)
    return {entry.name: entry for entry in entries}


def _entry(path: Path, name: str, fields: Any, payload: int, size: int) -> TensorEntry:
    where = f"{path}: tensor {quoted(name)}"
    if len(name) > MAX_NAME_LENGTH:
        raise LoadError(f"{where}: its name has {len(name)} characters, at most {MAX_NAME_LENGTH} are read")
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise LoadError(f"{where}: its header entry must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise LoadError(f"{where}: unknown dtype {quoted(str(dtype))}; known are {', '.join(ITEM_BYTES)}")
    if not _sizes(shape) or len(shape) > MAX_RANK or prod(max(1, side) for side in shape) > MAX_ELEMENTS:
        raise LoadError(f"{where}: its shape must be a list of at most {MAX_RANK} sensible sizes")
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise LoadError(f"{where}: its data_offsets must be two non-negative integers in order")
    begin, end = (payload + offset for offset in offsets)
    if end > size:
        raise LoadError(f"{where}: ends at byte {end}, but the file ends at {size}; it is truncated")
    needed = prod(shape) * ITEM_BYTES[dtype]
    if needed != end - begin:
        raise LoadError(f"{where}: {dtype} {shape} needs {needed} bytes, its data_offsets span {end - begin}")
    return TensorEntry(name, dtype, tuple(shape), begin, end)


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _check_contiguous(path: Path, ordered: Iterable[TensorEntry], payload: int, size: int) -> None:
    """The format allows neither overlaps nor gaps: both hide data or read it twice."""
    reached, previous = payload, "the header"
    for entry in ordered:
        if entry.begin < reached:
            raise LoadError(f"{path}: tensor {quoted(entry.name)} overlaps {previous}; the file is damaged")
        if entry.begin > reached:
            unused = f"{entry.begin - reached} unused bytes before tensor {quoted(entry.name)}"
            raise LoadError(f"{path}: {unused}; the file is damaged")
        reached, previous = entry.end, f"tensor {quoted(entry.name)}"
    if reached != size:
        raise LoadError(f"{path}: {size - reached} unused bytes behind the last tensor; the file is damaged")


def _decode(data: mmap.mmap, entry: TensorEntry) -> Array:
    count = prod(entry.shape)
    if entry.dtype in NUMPY_TYPES:
        stored = np.frombuffer(data, NUMPY_TYPES[entry.dtype], count, entry.begin)
        values: Array = np.array(stored, stored.dtype.newbyteorder("=")).reshape(entry.shape)
        return values
    if entry.dtype == "F64":
        with np.errstate(over="ignore"):
            narrowed = np.frombuffer(data, "<f8", count, entry.begin).astype(np.float32)
        return narrowed.reshape(entry.shape)
    if entry.dtype == "BF16":
        bits = np.left_shift(np.frombuffer(data, "<u2", count, entry.begin), 16, dtype=np.uint32)
        widened: Array = bits.view(np.float32).reshape(entry.shape)
        return widened
    table = {"F8_E4M3": _e4m3_values, "F8_E5M2": _e5m2_values}[entry.dtype]()
    looked_up: Array = table[np.frombuffer(data, np.uint8, count, entry.begin)]
    return looked_up.reshape(entry.shape)


def _e4m3_values() -> npt.NDArray[np.float32]:
    """float32 value of every float8_e4m3fn byte: bias 7, no infinity, NaN is all ones but the sign."""
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    normal = np.ldexp(1 + mantissa / 8, exponent - 7)
    magnitude = np.where(exponent > 0, normal, np.ldexp(mantissa / 8, -6)).astype(np.float32)
    magnitude[code & 0x7F == 0x7F] = np.nan
    return np.where(code < 128, magnitude, -magnitude)


def _e5m2_values() -> npt.NDArray[np.float32]:
    """float32 value of every float8_e5m2 byte: the upper half of a float16."""
    halves = (np.arange(256, dtype=np.uint16) << np.uint16(8)).view(np.float16)
    return np.array(halves, np.float32)
