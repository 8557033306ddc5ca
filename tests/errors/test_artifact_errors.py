"""Built artifacts that are damaged or for another machine: one line that names the file, never a crash."""

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import _safetensors_rust  # type: ignore[attr-defined]

import sdcomp
from sdcomp import compiler
from sdcomp.codegen import artifact as assembly
from sdcomp.codegen.kernels.base import Kernel
from sdcomp.codegen.targets import Target, resolve
from sdcomp.errors import ArtifactError
from sdcomp.runtime.payload import MAGIC, TRAILER, hash_image, read_trailer
from tests.artifacts import TINY_SIZE, Built

FLIPS = 24
ELF_MACHINE = 18
"""Where an ELF file says which machine it is for: two bytes."""

AARCH64, X86_64 = 183, 62


def refused(path: Path, *words: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        sdcomp.load(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert [word for word in words if word not in text] == [], text


def test_every_flipped_bit_is_found(small_artifact: Path, tmp_path: Path) -> None:
    """In code, tables, weights or trailer: nothing damaged is run."""
    data = bytearray(small_artifact.read_bytes())
    trailer = read_trailer(small_artifact)
    assert trailer is not None
    generator = random.Random(0)
    ends = (trailer.payload_offset, trailer.table_offset, len(data))
    path = tmp_path / "model.so"
    for number in range(FLIPS):
        begin, end = ((0, *ends)[number % 3], ends[number % 3])
        position, bit = generator.randrange(begin, end), 1 << generator.randrange(8)
        data[position] ^= bit
        path.write_bytes(data)
        refused(path)
        data[position] ^= bit
    path.write_bytes(data)
    sdcomp.load(path).close()


def test_damaged_weights_are_located(small_artifact: Path, tmp_path: Path) -> None:
    trailer = read_trailer(small_artifact)
    assert trailer is not None
    data = bytearray(small_artifact.read_bytes())
    data[trailer.payload_offset + trailer.payload_bytes // 2] ^= 1
    path = tmp_path / "model.so"
    path.write_bytes(data)
    refused(path, "bytes", "are damaged")


def test_every_truncation_is_found(small_artifact: Path, tmp_path: Path) -> None:
    data = small_artifact.read_bytes()
    path = tmp_path / "model.so"
    for kept in (0, 1, 100, 1 << 12, len(data) // 3, len(data) - (1 << 16), len(data) - 1):
        path.write_bytes(data[:kept])
        refused(path)


def test_bytes_behind_the_end(small_artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.so"
    path.write_bytes(small_artifact.read_bytes() + b"\n")
    refused(path, "carries no weights payload")


OTHER_FILES: dict[str, Callable[[Path, Built], object]] = {
    "nothing": lambda path, built: None,
    "a folder": lambda path, built: path.mkdir(),
    "text": lambda path, built: path.write_text("a lighthouse above the sea\n" * 99),
    "its checkpoint": lambda path, built: shutil.copy(built.checkpoint, path),
    "a payload alone": lambda path, built: path.write_bytes(MAGIC + bytes(TRAILER.size)),
    "another library": lambda path, built: shutil.copy(_safetensors_rust.__file__, path),
}


@pytest.mark.parametrize("case", OTHER_FILES)
def test_files_of_another_kind(small_built: Built, tmp_path: Path, case: str) -> None:
    path = tmp_path / "model.so"
    OTHER_FILES[case](path, small_built)
    refused(path)


def test_artifact_for_another_machine(small_artifact: Path, tmp_path: Path) -> None:
    """The header's machine is changed and the hash of the code made good: only the loader can refuse it."""
    trailer = read_trailer(small_artifact)
    assert trailer is not None
    data = bytearray(small_artifact.read_bytes())
    found = int.from_bytes(data[ELF_MACHINE : ELF_MACHINE + 2], "little")
    names = {X86_64: "x86_64", AARCH64: "aarch64"}
    other = AARCH64 if found == X86_64 else X86_64
    data[ELF_MACHINE : ELF_MACHINE + 2] = other.to_bytes(2, "little")
    path = tmp_path / "model.so"
    path.write_bytes(data)
    image_hash = hash_image(path, trailer.payload_offset)
    path.write_bytes(bytes(data[: -TRAILER.size]) + replace(trailer, image_hash=image_hash).pack())
    refused(path, names[other])


def test_artifact_for_a_cpu_with_more_features(
    small_built: Built, tmp_path: Path, compile_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target that needs what no CPU has, but whose kernels are those of this machine."""
    native = resolve("native")
    future = replace(native, features=(*native.features, "avx9000"))
    emit: Callable[..., list[bytes]] = vars(assembly)["emit_objects"]

    def emit_for_this_machine(symbols: dict[Kernel, str], target: Target) -> list[bytes]:
        assert target is future
        return emit(symbols, native)

    monkeypatch.setattr(compiler, "resolve", lambda name: future)
    monkeypatch.setattr(assembly, "emit_objects", emit_for_this_machine)
    path = tmp_path / "model.so"
    sdcomp.build(small_built.checkpoint, path, sdcomp.BuildOptions(sizes=[TINY_SIZE]))
    refused(path, "CPU features that this machine lacks: avx9000")


def test_artifact_for_another_processor(tmp_path: Path) -> None:
    """The file's header says what it is for; the loader would only say that it cannot open the file."""
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    header[18:20] = (243).to_bytes(2, "little")
    path = tmp_path / "other.so"
    path.write_bytes(header)
    with pytest.raises(ArtifactError, match=r"other\.so: was built for riscv64, but this is"):
        sdcomp.load(path)
