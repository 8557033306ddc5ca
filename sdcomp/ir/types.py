"""Element types and tensor types of the IR. Every shape is static."""

from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

Shape = tuple[int, ...]
Array = npt.NDArray[Any]


class DType(str, Enum):
    """Element types. Activations are f32 (tokens i32); weights keep the type they are stored with."""

    F32 = "f32"
    F16 = "f16"
    I32 = "i32"

    @property
    def bytes(self) -> int:
        return self.numpy.itemsize

    @property
    def numpy(self) -> np.dtype[Any]:
        return np.dtype({"f32": np.float32, "f16": np.float16, "i32": np.int32}[self.value])


@dataclass(frozen=True)
class TensorType:
    """A static shape and an element type, printed as `f32[1,77,768]`."""

    shape: Shape
    dtype: DType = DType.F32

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * self.dtype.bytes

    def __str__(self) -> str:
        return f"{self.dtype.value}[{','.join(map(str, self.shape))}]"
