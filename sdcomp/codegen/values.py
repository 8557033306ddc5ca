"""Which node's value is complete behind each kernel, and where: debugging information of an artifact."""

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from sdcomp.codegen.plan import Call
from sdcomp.codegen.tables import PlannedProgram
from sdcomp.ir.fingerprint import fingerprints
from sdcomp.ir.types import DType, Shape

VALUES = "values"
"""The asset's name."""


@dataclass(frozen=True)
class Value:
    """A node's value behind kernel number `kernel`.

    It begins `offset` bytes behind (or before) the address of the kernel's operand `operand`; `strides` are
    bytes between neighbours along each axis.
    """

    kernel: int
    fingerprint: str
    operand: int
    offset: int
    dtype: DType
    shape: Shape
    strides: Shape


def encode_values(programs: Sequence[PlannedProgram]) -> bytes:
    """The values of every program as JSON."""
    calls = {planned.program.name: planned.program.calls for planned in programs}
    names = fingerprints(call.result[0] for each in calls.values() for call in each if call.result)
    described = {
        program: [
            astuple(_value(number, call, names[call.result[0]]))
            for number, call in enumerate(each)
            if call.result
        ]
        for program, each in calls.items()
    }
    return json.dumps(described, separators=(",", ":")).encode()


def decode_values(data: bytes) -> dict[str, list[Value]]:
    """What `encode_values` made, by program."""
    return {
        program: [
            Value(kernel, name, operand, offset, DType(dtype), tuple(shape), tuple(strides))
            for kernel, name, operand, offset, dtype, shape, strides in rows
        ]
        for program, rows in json.loads(data).items()
    }


def _value(number: int, call: Call, fingerprint: str) -> Value:
    assert call.result is not None
    _, view = call.result
    size = view.type.dtype.bytes
    offset = view.offset * size - call.operands[call.written].offset
    strides = tuple(size * stride for stride in view.strides)
    return Value(number, fingerprint, call.written, offset, view.type.dtype, view.shape, strides)
