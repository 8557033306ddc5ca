"""How weights are laid out in the payload: in the order in which kernels read them."""

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from sdcomp.ir.graph import Node, topological_order
from sdcomp.ir.types import Array, DType, Shape

SMALL_MATRIX = 1 << 16
"""Elements up to which `auto` keeps a matrix of an f32 checkpoint in f32: rounding it would save next to
nothing.
"""


def matrix_dtype(node: Node, policy: str) -> DType:
    """The type in which a matrix is stored under a policy: `f32`, `f16`, or `auto`, which keeps f16 and
    rounds larger f32 ones.
    """
    if policy == "f32":
        return DType.F32
    stored_half = any(
        n.dtype is DType.F16
        for n in topological_order([node])
        if n.op == "weight" and n.text("file") == "model"
    )
    small = node.type.elements <= SMALL_MATRIX and not stored_half
    return DType.F32 if policy == "auto" and small else DType.F16


@dataclass(frozen=True)
class Panels:
    """Columns in panels: [panel][tap][depth][width], zero columns filling the last one.

    From [columns, depth] or [columns, depth, kernel height, kernel width]. `gated` interleaves the value
    half with the gate half, so that one panel holds `width / 2` values and their gates.
    """

    width: int
    dtype: DType
    gated: bool

    def pack(self, array: Array) -> Array:
        columns, depth, taps = array.shape[0], array.shape[1], prod(array.shape[2:])
        array = array.reshape(columns, depth, taps)
        panels = -(-columns // self.width)
        packed = np.zeros((panels, self.width, depth, taps), self.dtype.numpy)
        if self.gated:
            half = self.width // 2
            value, gate = array.reshape(2, columns // 2, depth, taps)
            for side, part in ((packed[:, :half], value), (packed[:, half:], gate)):
                _fill(side, part)
        else:
            _fill(packed, array)
        return np.ascontiguousarray(packed.transpose(0, 3, 2, 1))

    def bytes(self, shape: Shape) -> int:
        return _padded(shape[0], self.width) * prod(shape[1:]) * self.dtype.bytes


@dataclass(frozen=True)
class Vector:
    """One f32 per column, in the order of `Panels`, zero-filled to whole panels of `width`."""

    width: int
    gated: bool
    dtype: ClassVar[DType] = DType.F32

    def pack(self, array: Array) -> Array:
        return Panels(self.width, self.dtype, self.gated).pack(array.reshape(-1, 1))

    def bytes(self, shape: Shape) -> int:
        return _padded(prod(shape), self.width) * self.dtype.bytes


@dataclass(frozen=True)
class Rows:
    """As it is, row-major."""

    dtype: DType

    def pack(self, array: Array) -> Array:
        return np.ascontiguousarray(array.astype(self.dtype.numpy, copy=False))

    def bytes(self, shape: Shape) -> int:
        return prod(shape) * self.dtype.bytes


@dataclass(frozen=True)
class OuterFactor:
    """The outer factor w1[f, g] of a Kronecker product, as a kernel adds it to the panels of a weight.

    [panel][g][width]: for every column of a panel its row of w1, each row repeated for `repeats` columns from
    column `start` on; 0 for other columns. Columns are in the order of `Panels`, `columns` in all.
    """

    width: int
    gated: bool
    repeats: int
    start: int
    columns: int
    dtype: ClassVar[DType] = DType.F32

    def pack(self, array: Array) -> Array:
        rows = np.zeros((self.columns, array.shape[1]), np.float32)
        rows[self.start : self.start + self.repeats * len(array)] = np.repeat(array, self.repeats, axis=0)
        return Panels(self.width, self.dtype, self.gated).pack(rows)

    def bytes(self, shape: Shape) -> int:
        return _padded(self.columns, self.width) * shape[1] * self.dtype.bytes


@dataclass(frozen=True)
class InnerFactor:
    """The inner factor w2[o, n taps], as a kernel adds it to the panels of a weight: [tap][n][o + lanes].

    The o columns start over at the end of each row, so that a vector may be read from each of them.
    """

    taps: int
    lanes: int
    dtype: ClassVar[DType] = DType.F32

    def pack(self, array: Array) -> Array:
        outputs = len(array)
        by_tap = array.reshape(outputs, -1, self.taps).transpose(2, 1, 0)
        columns = np.arange(outputs + self.lanes) % outputs
        return np.ascontiguousarray(by_tap[:, :, columns].astype(np.float32, copy=False))

    def bytes(self, shape: Shape) -> int:
        return (shape[0] + self.lanes) * prod(shape[1:]) * self.dtype.bytes


Layout = Panels | Vector | Rows | OuterFactor | InnerFactor


@dataclass(frozen=True)
class PackedWeight:
    """A weight expression and its layout. Nodes compare by identity: equal ones are one piece of the
    payload.
    """

    node: Node
    layout: Layout

    @property
    def bytes(self) -> int:
        """Size in the payload."""
        return self.layout.bytes(self.node.shape)


def _padded(columns: int, width: int) -> int:
    """Columns of whole panels."""
    return -(-columns // width) * width


def _fill(packed: Array, columns: Array) -> None:
    """`columns` into panels [panel, width, ...], the last one partly."""
    width = packed.shape[1]
    whole = len(columns) // width
    packed[:whole] = columns[: whole * width].reshape(whole, width, *columns.shape[1:])
    if len(columns) > whole * width:
        packed[whole, : len(columns) - whole * width] = columns[whole * width :]
