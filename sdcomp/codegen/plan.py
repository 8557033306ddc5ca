"""A program as kernels over buffers: what `fuse_kernels` makes of a graph, and what code generation reads."""

from dataclasses import dataclass, replace
from enum import Enum
from math import prod

from sdcomp.codegen.kernels.base import Kernel
from sdcomp.codegen.weights import PackedWeight
from sdcomp.ir.graph import Node
from sdcomp.ir.types import DType, Shape, TensorType

_ALIAS_BYTES = 4096
_LINE_BYTES = 64


class Space(Enum):
    """Where a buffer lives; the numbers are `enum sdcomp_space` of plan.h."""

    ARENA = 0
    WEIGHTS = 1
    STATE = 2
    INPUT = 3
    OUTPUT = 4


@dataclass(frozen=True, eq=False)
class Buffer:
    """A piece of memory.

    `name` identifies inputs, outputs and state values; `weight` what a weights buffer holds.
    """

    space: Space
    bytes: int
    name: str = ""
    weight: PackedWeight | None = None


@dataclass(frozen=True)
class View:
    """A tensor in a buffer: rows of the last axis follow each other every `stride` elements from `offset`
    on.
    """

    buffer: Buffer
    type: TensorType
    stride: int
    offset: int = 0

    @property
    def shape(self) -> Shape:
        return self.type.shape

    @property
    def rows(self) -> int:
        return prod(self.shape[:-1])

    @property
    def channels(self) -> int:
        return self.shape[-1] if self.shape else 1

    @property
    def strides(self) -> tuple[int, ...]:
        """Elements between neighbours along each axis."""
        strides = [1]
        if len(self.shape) > 1:
            strides.insert(0, self.stride)
        for extent in reversed(self.shape[1:-1]):
            strides.insert(0, strides[0] * extent)
        return tuple(strides[-len(self.shape) :]) if self.shape else ()

    def reshaped(self, shape: Shape) -> "View":
        """The same memory as another shape. Only valid if `can_reshape`."""
        channels = shape[-1] if shape else 1
        stride = self.stride if channels == self.channels else channels
        return replace(self, type=TensorType(shape, self.type.dtype), stride=stride)

    def can_reshape(self, shape: Shape) -> bool:
        """Rows stay rows, or there are no gaps between them."""
        return (shape[-1] if shape else 1) == self.channels or self.stride == self.channels


def padded_stride(channels: int, dtype: DType) -> int:
    """Row stride of an intermediate value: a cache line more where rows would be a multiple of 4 KiB apart.

    The rows of a micro-kernel's tile would otherwise all fall into one set of the first-level cache.
    """
    row = channels * dtype.bytes
    return channels + _LINE_BYTES // dtype.bytes if row and row % _ALIAS_BYTES == 0 else channels


@dataclass(frozen=True)
class Operand:
    """One pointer of a kernel's operand table."""

    buffer: Buffer
    offset: int = 0
    """In bytes."""


@dataclass(frozen=True, eq=False)
class Call:
    """One kernel with its buffers.

    `label` says which nodes it computes; operand number `written` is the one it writes. `result` is the node
    whose value is complete behind it, and where that is; None after a call that leaves only a part, or a
    temporary of its group.
    """

    kernel: Kernel
    operands: tuple[Operand, ...]
    written: int
    label: str
    result: tuple[Node, View] | None = None

    @property
    def writes(self) -> Buffer:
        return self.operands[self.written].buffer

    @property
    def reads(self) -> tuple[Buffer, ...]:
        return tuple(o.buffer for index, o in enumerate(self.operands) if index != self.written)


@dataclass(frozen=True)
class Program:
    """Calls in an order that respects their dependencies; inputs and outputs in the caller's order."""

    name: str
    inputs: dict[str, TensorType]
    outputs: dict[str, TensorType]
    calls: tuple[Call, ...]

    @property
    def multiplies(self) -> int:
        return sum(call.kernel.multiplies for call in self.calls)
