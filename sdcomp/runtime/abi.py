"""The C interface of an artifact for ctypes: structures and prototypes of `native/sdcomp.h`, and loading."""

import ctypes
import platform
from ctypes import POINTER, c_char_p, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

from sdcomp.errors import ArtifactError
from sdcomp.runtime.payload import find_payload, hash_image

ABI_VERSION = 1
ALIGNMENT = 64
OPEN_UNVERIFIED = 1
ERROR_BYTES = 2048

STATUS_OK = 0
STATUS_CANCELLED = 7

_ELF = b"\x7fELF"
_MACH_O = (b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")

ProgressCallback = ctypes.CFUNCTYPE(None, c_void_p, c_uint32, c_uint32)
ObserveCallback = ctypes.CFUNCTYPE(None, c_void_p, c_uint32, POINTER(c_void_p))


class OpenOptions(ctypes.Structure):
    """sdcomp_open_options"""

    _fields_ = (
        ("size", c_uint32),
        ("abi_version", c_uint32),
        ("path", c_char_p),
        ("threads", c_uint32),
        ("flags", c_uint32),
    )


class NativeProgramInfo(ctypes.Structure):
    """sdcomp_program_info"""

    _fields_ = (
        ("size", c_uint32),
        ("input_count", c_uint32),
        ("output_count", c_uint32),
        ("kernel_count", c_uint32),
        ("name", c_char_p),
        ("arena_bytes", c_uint64),
        ("weights_bytes", c_uint64),
        ("trace_events", c_uint64),
    )


class NativeTensorInfo(ctypes.Structure):
    """sdcomp_tensor_info"""

    _fields_ = (
        ("size", c_uint32),
        ("rank", c_uint32),
        ("name", c_char_p),
        ("dtype", c_char_p),
        ("shape", c_uint64 * 8),
        ("bytes", c_uint64),
    )


class NativeTraceEvent(ctypes.Structure):
    """sdcomp_trace_event"""

    _fields_ = (
        ("kernel", c_uint32),
        ("worker", c_uint32),
        ("tile_begin", c_uint32),
        ("tile_end", c_uint32),
        ("begin_ns", c_uint64),
        ("end_ns", c_uint64),
    )


class RunOptions(ctypes.Structure):
    """sdcomp_run_options"""

    _fields_ = (
        ("size", c_uint32),
        ("flags", c_uint32),
        ("progress", ProgressCallback),
        ("user", c_void_p),
        ("trace", POINTER(NativeTraceEvent)),
        ("trace_capacity", c_uint64),
        ("trace_count", POINTER(c_uint64)),
        ("observe", ObserveCallback),
    )


_ERROR_TEXT = (c_char_p, c_size_t)
_POINTERS = POINTER(c_void_p)
_PROTOTYPES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "sdcomp_abi_version": (c_uint32, ()),
    "sdcomp_open": (c_int32, (POINTER(OpenOptions), POINTER(c_void_p), *_ERROR_TEXT)),
    "sdcomp_close": (c_int32, (c_void_p,)),
    "sdcomp_describe": (c_char_p, (c_void_p,)),
    "sdcomp_thread_count": (c_uint32, (c_void_p,)),
    "sdcomp_program_count": (c_uint32, (c_void_p,)),
    "sdcomp_program": (c_int32, (c_void_p, c_uint32, POINTER(NativeProgramInfo))),
    "sdcomp_input": (c_int32, (c_void_p, c_uint32, c_uint32, POINTER(NativeTensorInfo))),
    "sdcomp_output": (c_int32, (c_void_p, c_uint32, c_uint32, POINTER(NativeTensorInfo))),
    "sdcomp_kernel_name": (c_char_p, (c_void_p, c_uint32, c_uint32)),
    "sdcomp_asset": (c_void_p, (c_void_p, c_uint64, c_uint64)),
    "sdcomp_context_create": (c_int32, (c_void_p, POINTER(c_void_p), *_ERROR_TEXT)),
    "sdcomp_context_destroy": (c_int32, (c_void_p,)),
    "sdcomp_run": (c_int32, (c_void_p, c_uint32, _POINTERS, _POINTERS, POINTER(RunOptions), *_ERROR_TEXT)),
    "sdcomp_cancel": (None, (c_void_p,)),
    "sdcomp_release": (c_int32, (c_void_p, c_uint32)),
    "sdcomp_context_trim": (c_int32, (c_void_p,)),
}


def _check_magic(path: Path) -> None:
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}") from error
    if magic != _ELF and magic not in _MACH_O:
        raise ArtifactError(f"{path}: not a shared library (ELF or Mach-O), so not an artifact of sdcomp")


def _check_image(path: Path) -> Path:
    """The file that holds the payload, once the library itself matches the hash that was recorded of it."""
    payload_path, trailer = find_payload(path)
    recorded = trailer.image_hash if payload_path == path else 0
    if recorded and hash_image(path, trailer.payload_offset) != recorded:
        raise ArtifactError(f"{path}: its code is damaged; copy or build it again")
    return payload_path


_ELF_MACHINES = {3: "x86", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
"""e_machine of an ELF header to the name that `platform.machine` gives."""


def _check_machine(path: Path) -> None:
    """Refuses an ELF file for another kind of processor, which the loader would only call missing."""
    with open(path, "rb") as file:
        header = file.read(20)
    if not header.startswith(b"\x7fELF") or len(header) < 20:
        return
    machine = _ELF_MACHINES.get(int.from_bytes(header[18:20], "little"))
    host = {"arm64": "aarch64", "amd64": "x86_64"}.get(platform.machine().lower(), platform.machine())
    if machine is not None and machine != host:
        raise ArtifactError(f"{path}: was built for {machine}, but this is {host}; build it for this machine")


def load(path: Path) -> tuple[ctypes.CDLL, Path]:
    """Loads an artifact, given by its absolute path; returns it and the file that holds its payload.

    Loading a library runs its constructors, so a file is loaded only once it looks like what sdcomp built:
    an ELF or Mach-O file whose payload is found and whose code has the recorded hash. That keeps accidents
    out, not attackers: an artifact is a program, to be trusted like one. Symbols stay local, so that several
    artifacts can be open at once. Raises `ArtifactError`.
    """
    _check_magic(path)
    _check_machine(path)
    payload_path = _check_image(path)
    try:
        native = ctypes.CDLL(str(path), mode=ctypes.RTLD_LOCAL)
        for name, (result, arguments) in _PROTOTYPES.items():
            function = getattr(native, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise ArtifactError(f"{path}: cannot be loaded as an artifact of this version: {error}") from error
    version = native.sdcomp_abi_version()
    if version != ABI_VERSION:
        raise ArtifactError(
            f"{path}: has interface version {version}, expected {ABI_VERSION}: build it again"
        )
    return native, payload_path
