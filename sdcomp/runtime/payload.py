"""Writes and finds the weights payload of an artifact; `docs/artifact.md` describes the format.

The plan inside an artifact holds the hash of its payload, so the payload is made first: `PayloadWriter`
streams it to a file of its own, which is already what a split artifact ships, and `append_payload` puts it
behind a linked library.
"""

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from sdcomp.errors import ArtifactError, LinkError

PAYLOAD_ALIGNMENT = 1 << 16
CHUNK_BYTES = 1 << 20
TENSOR_ALIGNMENT = 64
VERSION = 1
MAGIC = b"SDCOMPWT"
TRAILER = struct.Struct("<8sIIQQQQQQ")
WEIGHTS_SUFFIX = ".weights"

_WORD_MASK = (1 << 64) - 1
_COPY_BYTES = 64 << 20
_COPY_UNSUPPORTED = {errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM}

PathName: TypeAlias = str | os.PathLike[str]
Words: TypeAlias = npt.NDArray[np.uint64]
Data: TypeAlias = bytes | bytearray | memoryview | npt.NDArray[Any]


def _multipliers(indices: Words) -> Words:
    """Outputs of splitmix64 (Steele, Lea and Flood 2014) seeded with 0, made odd so as to lose no bit."""
    mixed = (indices + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    odd: Words = (mixed ^ (mixed >> np.uint64(31))) | np.uint64(1)
    return odd


_CHUNK_MULTIPLIERS = _multipliers(np.arange(CHUNK_BYTES // 8, dtype=np.uint64))
_LENGTH_MULTIPLIER = int(_multipliers(np.array([_WORD_MASK], dtype=np.uint64))[0])


def _factors(count: int) -> Words:
    if count <= len(_CHUNK_MULTIPLIERS):
        return _CHUNK_MULTIPLIERS[:count]
    return _multipliers(np.arange(count, dtype=np.uint64))


def hash_bytes(data: bytes | bytearray) -> int:
    """Sum of (w[i] ^ w[i] >> 32) * m[i] over the words of data, plus length * m[2**64 - 1], modulo 2**64.

    Words are 64 bits, little-endian, the last one filled up with zeros; m is the sequence of odd numbers of
    `_multipliers`. Detects damage, not tampering: a change within one word is always found, and accidental
    changes of several words are missed with a chance of 2**-32 at most.
    """
    whole = len(data) // 8
    words = np.frombuffer(data, dtype="<u8", count=whole)
    if len(data) % 8:
        words = np.append(words, np.frombuffer(data[8 * whole :].ljust(8, b"\0"), dtype="<u8"))
    terms = words >> np.uint64(32)
    terms ^= words
    terms *= _factors(len(words))
    return (int(terms.sum(dtype=np.uint64)) + len(data) * _LENGTH_MULTIPLIER) & _WORD_MASK


def _hash_table(hashes: list[int]) -> tuple[bytes, int]:
    table = np.array(hashes, dtype="<u8").tobytes()
    return table, hash_bytes(table)


@dataclass(frozen=True)
class Trailer:
    """The last 64 bytes of a file that carries a payload. Offsets count bytes from the start of the file."""

    payload_offset: int
    payload_bytes: int
    table_offset: int
    weights_hash: int
    image_hash: int

    @property
    def table_bytes(self) -> int:
        """One hash of 8 bytes per chunk."""
        return 8 * -(-self.payload_bytes // CHUNK_BYTES)

    def pack(self) -> bytes:
        """The 64 bytes, little-endian."""
        offsets = (self.payload_offset, self.payload_bytes, self.table_offset)
        return TRAILER.pack(MAGIC, VERSION, CHUNK_BYTES, *offsets, self.weights_hash, self.image_hash, 0)

    def fits(self, file_bytes: int) -> bool:
        """Whether the fields agree with each other and with the size of the file."""
        table_offset = _align(self.payload_offset + self.payload_bytes, 8)
        file_end = table_offset + self.table_bytes + TRAILER.size
        aligned = self.payload_offset % PAYLOAD_ALIGNMENT == 0
        return aligned and self.table_offset == table_offset and file_end == file_bytes


def _align(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


@contextmanager
def _writing(name: PathName) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LinkError(f"{os.fspath(name)}: cannot write the weights: {error.strerror}") from error


def _as_bytes(data: Data) -> memoryview:
    if not isinstance(data, np.ndarray):
        return memoryview(data).cast("B")
    return np.ascontiguousarray(data).reshape(-1).view(np.uint8).data


class PayloadWriter:
    """Streams a payload into a binary file from its position on, filled up to a multiple of 64 KiB.

    Memory is bounded by a few chunks of 1 MiB. Raises `LinkError` where the file cannot be written; `name` is
    what it calls the file, which may be a temporary part of another.
    """

    def __init__(self, file: BinaryIO, name: PathName) -> None:
        self._file = file
        self._name = name
        self._offset = _align(file.tell(), PAYLOAD_ALIGNMENT)
        self._position = 0
        self._chunk = bytearray()
        self._hashes: list[int] = []
        self._emit(bytes(self._offset - file.tell()))

    def write(self, data: Data, alignment: int = TENSOR_ALIGNMENT) -> int:
        """Appends bytes, or an array row-major in its own dtype; returns its offset in the payload.

        The offset is a multiple of `alignment`.
        """
        offset = _align(self._position, alignment)
        self._append(memoryview(bytes(offset - self._position)))
        self._append(_as_bytes(data))
        return offset

    def finish(self) -> tuple[int, int]:
        """Writes table and trailer; returns what the plan needs: weights_bytes and weights_hash.

        Nothing may be written afterwards.
        """
        if self._chunk:
            self._hashes.append(hash_bytes(self._chunk))
        table, weights_hash = _hash_table(self._hashes)
        end = self._offset + self._position
        table_offset = _align(end, 8)
        trailer = Trailer(self._offset, self._position, table_offset, weights_hash, 0)
        self._emit(bytes(table_offset - end) + table + trailer.pack())
        with _writing(self._name):
            self._file.flush()
        return self._position, weights_hash

    def _append(self, data: memoryview) -> None:
        self._emit(data)
        self._position += len(data)
        while len(data):
            room = CHUNK_BYTES - len(self._chunk)
            self._chunk += data[:room]
            data = data[room:]
            if len(self._chunk) == CHUNK_BYTES:
                self._hashes.append(hash_bytes(self._chunk))
                self._chunk = bytearray()

    def _emit(self, data: bytes | memoryview) -> None:
        with _writing(self._name):
            self._file.write(data)


def read_trailer(path: PathName) -> Trailer | None:
    """The trailer of a file, or None where it carries none.

    Raises `ArtifactError` for a file that cannot be read, and for a trailer that contradicts it.
    """
    try:
        with open(path, "rb") as file:
            file_bytes = file.seek(0, os.SEEK_END)
            file.seek(max(0, file_bytes - TRAILER.size))
            data = file.read(TRAILER.size)
    except OSError as error:
        raise ArtifactError(f"{os.fspath(path)}: {error.strerror}") from error
    if len(data) < TRAILER.size or not data.startswith(MAGIC):
        return None
    return _parse_trailer(os.fspath(path), data, file_bytes)


def _parse_trailer(path: str, data: bytes, file_bytes: int) -> Trailer:
    _, version, chunk_bytes, *fields, reserved = TRAILER.unpack(data)
    if version != VERSION:
        raise ArtifactError(
            f"{path}: its payload has format version {version}, expected {VERSION}: build it again"
        )
    trailer = Trailer(*fields)
    if chunk_bytes != CHUNK_BYTES or reserved or not trailer.fits(file_bytes):
        raise ArtifactError(
            f"{path}: the payload's trailer (offset {trailer.payload_offset}, {trailer.payload_bytes} bytes, "
            f"table at {trailer.table_offset}) contradicts the size of the file, {file_bytes} bytes: "
            "it is truncated or damaged; copy or build it again"
        )
    return trailer


def find_payload(library_path: PathName) -> tuple[Path, Trailer]:
    """The file that carries a library's payload: itself, or else `<library>.weights` beside it.

    Raises `ArtifactError` where neither does.
    """
    library = Path(library_path)
    trailer = read_trailer(library)
    if trailer is not None:
        return library, trailer
    beside = library.with_name(library.name + WEIGHTS_SUFFIX)
    trailer = read_trailer(beside) if beside.exists() else None
    if trailer is not None:
        return beside, trailer
    raise ArtifactError(
        f"{library}: carries no weights payload at its end, and there is none in {beside}: "
        "the file is truncated, its weights were left behind, or it is not an artifact"
    )


def hash_image(path: PathName, image_bytes: int) -> int:
    """The hash of a file's first bytes: that of the table of their chunks' hashes, as for a payload."""
    with open(path, "rb") as file:
        sizes = (min(CHUNK_BYTES, image_bytes - start) for start in range(0, image_bytes, CHUNK_BYTES))
        return _hash_table([hash_bytes(file.read(size)) for size in sizes])[1]


def append_payload(library_path: PathName, payload_path: PathName, name: PathName | None = None) -> None:
    """Appends the payload of a file that `PayloadWriter` made to a library, in bounded memory.

    Blocks are shared where the file system can. The hash of the library itself is recorded too, so that
    damaged code is found before it is loaded. What a failure leaves behind is for the caller to delete.
    Raises `ArtifactError` for a payload file without payload, `LinkError` for a library that carries one
    already or cannot be written; `name` is what the latter calls it, by default its path.
    """
    payload = read_trailer(payload_path)
    if payload is None:
        raise ArtifactError(f"{os.fspath(payload_path)}: carries no payload: build it again")
    if read_trailer(library_path) is not None:
        raise LinkError(f"{os.fspath(library_path)}: carries a payload already: link it again")
    with _writing(name or library_path):
        _append(library_path, payload_path, payload)


def _append(library_path: PathName, payload_path: PathName, payload: Trailer) -> None:
    with open(library_path, "r+b", buffering=0) as library, open(payload_path, "rb", buffering=0) as source:
        offset = _align(library.seek(0, os.SEEK_END), PAYLOAD_ALIGNMENT)
        library.truncate(offset)
        library.seek(offset)
        source.seek(payload.payload_offset)
        _copy(source, library, payload.table_offset + payload.table_bytes - payload.payload_offset)
        trailer = replace(
            payload,
            payload_offset=offset,
            table_offset=payload.table_offset + offset - payload.payload_offset,
            image_hash=hash_image(library_path, offset),
        )
        _write_fully(library, trailer.pack())


def _copy(source: FileIO, target: FileIO, count: int) -> None:
    while count > 0:
        count -= _copy_part(source, target, min(count, _COPY_BYTES))


def _copy_part(source: FileIO, target: FileIO, count: int) -> int:
    """Copies up to count bytes between the files' positions, in the kernel where it can, and moves both."""
    try:
        copied = os.copy_file_range(source.fileno(), target.fileno(), count)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _COPY_UNSUPPORTED:
            raise
        data = source.read(min(count, CHUNK_BYTES))
        _write_fully(target, data)
        copied = len(data)
    if copied == 0:
        raise OSError(errno.EIO, "the payload file ends early")
    return copied


def _write_fully(file: FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
