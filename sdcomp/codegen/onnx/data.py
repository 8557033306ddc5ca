"""Initializers: weight expressions evaluated one by one and streamed into a file beside the model."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import BinaryIO

import numpy as np
from onnx import StringStringEntryProto, TensorProto
from onnx.numpy_helper import from_array

from sdcomp.errors import LinkError
from sdcomp.ir.graph import Node
from sdcomp.ir.interpret import WeightReader, evaluate
from sdcomp.ir.types import Array, DType, Shape

ELEMENTS = {DType.F32: TensorProto.FLOAT, DType.F16: TensorProto.FLOAT16, DType.I32: TensorProto.INT32}

_ALIGNMENT = 4096
"""Of every tensor in the file: readers map it page by page."""

_INLINE_BYTES = 1024
"""Up to this size a tensor is part of the model itself."""

_BLOCK_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Form:
    """How an initializer shows a weight: viewed as `shape`, then its axes in the order `permutation`."""

    shape: Shape
    permutation: Shape

    @classmethod
    def plain(cls, node: Node) -> "Form":
        """As the graph has it."""
        return cls(node.shape, tuple(range(len(node.shape))))

    @property
    def result(self) -> Shape:
        return tuple(self.shape[axis] for axis in self.permutation)


class WeightStore:
    """The initializers of the models of one folder, written to one file that they share.

    Memory is bounded by what the evaluation of one weight expression takes.
    """

    def __init__(self, file: BinaryIO, location: str, read_weight: WeightReader, policy: str) -> None:
        """`location` is the file's path as seen from the models; `policy` says how floats of rank 2 and more
        are stored: f32 or f16.
        """
        self._file = file
        self._location = location
        self._read_weight = read_weight
        self._policy = policy
        self._written: dict[tuple[Node, Form, DType], tuple[int, int]] = {}

    def stored_type(self, node: Node) -> DType:
        """The type in which arithmetic finds a weight: f32 but for matrices that are stored as f16."""
        return DType.F16 if self._policy == "f16" and len(node.shape) > 1 else DType.F32

    def tensor(self, name: str, node: Node, form: Form, dtype: DType) -> TensorProto:
        """The initializer `name`. Raises LinkError for a value that `dtype` cannot hold."""
        if prod(form.shape) * dtype.bytes <= _INLINE_BYTES:
            small = _arranged(evaluate(node, self._read_weight), form).astype(dtype.numpy)
            return from_array(np.ascontiguousarray(small), name)
        key = (node, form, dtype)
        if key not in self._written:
            self._written[key] = self._write(name, evaluate(node, self._read_weight), form, dtype)
        return self._reference(name, form, dtype, *self._written[key])

    def _write(self, name: str, values: Array, form: Form, dtype: DType) -> tuple[int, int]:
        self._file.write(bytes(-self._file.tell() % _ALIGNMENT))
        offset = self._file.tell()
        for block in _blocks(_arranged(values, form)):
            with np.errstate(over="ignore"):
                stored = np.ascontiguousarray(block, dtype.numpy.newbyteorder("<"))
            if dtype is DType.F16 and not np.isfinite(stored).all():
                raise LinkError(f"{name}: has values beyond the range of f16; export it with --weights f32")
            self._file.write(stored.data)
        return offset, self._file.tell() - offset

    def _reference(self, name: str, form: Form, dtype: DType, offset: int, length: int) -> TensorProto:
        tensor = TensorProto(name=name, data_type=ELEMENTS[dtype], dims=form.result)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self._location), ("offset", offset), ("length", length)):
            tensor.external_data.append(StringStringEntryProto(key=key, value=str(value)))
        return tensor


def _arranged(values: Array, form: Form) -> Array:
    return np.asarray(values.reshape(form.shape).transpose(form.permutation))


def _blocks(values: Array) -> Iterator[Array]:
    """Slices along the first axis, so that a copy in another type or order stays small."""
    rows = max(1, _BLOCK_ELEMENTS * len(values) // max(1, values.size))
    return (values[start : start + rows] for start in range(0, len(values), rows))
