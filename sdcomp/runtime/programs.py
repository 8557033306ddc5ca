"""What the programs of an open artifact are called, take and return."""

import ctypes
from ctypes import byref, sizeof
from dataclasses import dataclass
from typing import Any

from sdcomp.ir.types import DType
from sdcomp.runtime import abi


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a program: row-major, without gaps."""

    name: str
    dtype: DType
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ProgramInfo:
    """A program of an artifact. `kernels` are the names of its kernels, in the order of their numbers.

    `arena_bytes` is the peak of its intermediate values, `weights_bytes` the part of the payload that it
    reads, `trace_events` the largest number of events that one traced run can have.
    """

    index: int
    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    kernels: tuple[str, ...]
    arena_bytes: int
    weights_bytes: int
    trace_events: int


def read_programs(native: ctypes.CDLL, model: int) -> dict[str, ProgramInfo]:
    """Every program of an open model by name, in the artifact's order.

    Raises ValueError for a dtype that the compiler does not know.
    """
    programs = (_read_program(native, model, index) for index in range(native.sdcomp_program_count(model)))
    return {program.name: program for program in programs}


def _read_program(native: ctypes.CDLL, model: int, index: int) -> ProgramInfo:
    info = abi.NativeProgramInfo(sizeof(abi.NativeProgramInfo))
    native.sdcomp_program(model, index, byref(info))
    return ProgramInfo(
        index=index,
        name=info.name.decode(),
        inputs=tuple(_read_tensor(native.sdcomp_input, model, index, i) for i in range(info.input_count)),
        outputs=tuple(_read_tensor(native.sdcomp_output, model, index, i) for i in range(info.output_count)),
        kernels=tuple(native.sdcomp_kernel_name(model, index, k).decode() for k in range(info.kernel_count)),
        arena_bytes=info.arena_bytes,
        weights_bytes=info.weights_bytes,
        trace_events=info.trace_events,
    )


def _read_tensor(read: Any, model: int, program: int, index: int) -> TensorInfo:
    info = abi.NativeTensorInfo(sizeof(abi.NativeTensorInfo))
    read(model, program, index, byref(info))
    return TensorInfo(info.name.decode(), DType(info.dtype.decode()), tuple(info.shape[: info.rank]))
