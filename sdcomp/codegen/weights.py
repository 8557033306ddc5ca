"""How weights are laid out in the payload: in the order in which kernels read them."""

from dataclasses import dataclass

import numpy as np

from sdcomp.ir.graph import Node
from sdcomp.ir.types import Array, DType


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
        columns, depth, taps = array.shape[0], array.shape[1], int(np.prod(array.shape[2:], dtype=int))
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


@dataclass(frozen=True)
class Vector:
    """One f32 per column, in the order of `Panels`, zero-filled to whole panels of `width`."""

    width: int
    gated: bool

    def pack(self, array: Array) -> Array:
        return Panels(self.width, DType.F32, self.gated).pack(array.reshape(-1, 1))


@dataclass(frozen=True)
class Rows:
    """As it is, row-major."""

    dtype: DType

    def pack(self, array: Array) -> Array:
        return np.ascontiguousarray(array.astype(self.dtype.numpy, copy=False))


Layout = Panels | Vector | Rows


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
        shape, layout = self.node.shape, self.layout
        if isinstance(layout, Rows):
            return self.node.type.elements * layout.dtype.bytes
        columns = self.node.type.elements if isinstance(layout, Vector) else shape[0]
        whole = -(-columns // layout.width) * layout.width
        per_column = self.node.type.elements // columns
        return whole * per_column * (layout.dtype.bytes if isinstance(layout, Panels) else DType.F32.bytes)


def _fill(packed: Array, columns: Array) -> None:
    """`columns` into panels [panel, width, ...], the last one partly."""
    width = packed.shape[1]
    whole = len(columns) // width
    packed[:whole] = columns[: whole * width].reshape(whole, width, *columns.shape[1:])
    if len(columns) > whole * width:
        packed[whole, : len(columns) - whole * width] = columns[whole * width :]
