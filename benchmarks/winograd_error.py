"""Rounding errors of every algorithm on the shapes of a family's convolutions: of the kernels, against f64.

An error depends on the channels that a sum runs over and on the transforms, hardly on the size of the map or
on the number of outputs: those are cut to what is quick.
"""

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch.nn import functional

from benchmarks.cases import Array
from benchmarks.checkpoint import FAMILIES
from benchmarks.measure import relative_difference
from benchmarks.subjects.layer import random_input, random_weight
from sdcomp.codegen.convolution import Convolution, Form, forms, kernels, name
from sdcomp.codegen.costs import load_costs
from sdcomp.codegen.jit import Jit, aligned_bytes
from sdcomp.codegen.kernels.winograd import WinogradConvolution
from sdcomp.codegen.targets import resolve
from sdcomp.codegen.weights import Panels
from sdcomp.frontend.family import expected_tensors
from sdcomp.frontend.lower import lower_model
from sdcomp.ir.types import DType, TensorType
from sdcomp.passes.select_conv import decisions

_LARGEST_SIDE = 32
_MOST_COLUMNS = 64


@dataclass(frozen=True)
class LayerError:
    """Relative errors of one shape by algorithm; `chosen` is the algorithm that a build takes."""

    shape: Convolution
    chosen: str
    errors: dict[str, float]

    def __str__(self) -> str:
        s = self.shape
        of = f"{s.depth} > {s.columns} at {s.height}x{s.width}" + ", upsampled" * (s.scale > 1)
        errors = "  ".join(f"{key} {error:.1e}" for key, error in self.errors.items())
        return f"{of:36} {errors}  takes {self.chosen}"


def winograd_errors(family: str, size: tuple[int, int], only: str) -> Iterator[LayerError]:
    """One for each shape of a 3x3 convolution of stride 1 in the UNet (batch 1) and the autoencoder.

    `only` is a part of what is printed for it, before its errors.
    """
    torch.set_num_threads(1)
    for shape, chosen in _shapes(family, size).items():
        if only in str(LayerError(shape, chosen, {})):
            cut = replace(
                shape,
                height=min(shape.height, _LARGEST_SIDE),
                width=min(shape.width, _LARGEST_SIDE),
                columns=min(shape.columns, _MOST_COLUMNS),
            )
            yield LayerError(shape, chosen, {name(form): _error(cut, form) for form in forms(shape.scale)})


def _shapes(family: str, size: tuple[int, int]) -> dict[Convolution, str]:
    """Shapes in the order of the networks, and what is chosen for them."""
    config = FAMILIES[family]
    types = {tensor: TensorType(shape, DType.F16) for tensor, shape in expected_tensors(config).items()}
    module = lower_model(config, types, [size], batches=(1,))
    shapes: dict[Convolution, str] = {}
    for choice in decisions(module, load_costs(resolve("native"))):
        if choice["milliseconds"]:
            batches, height, width, columns = choice["shape"]
            scale = 1 + choice["upsampled"]
            shape = Convolution(batches, height, width, choice["depth"], columns, scale)
            shapes.setdefault(shape, choice["algorithm"])
    return shapes


@cache
def _error(shape: Convolution, form: Form | None) -> float:
    """Of random numbers with the statistics of `conv`, computed by the kernel on one thread."""
    target = resolve("native")
    kernel = kernels(shape, form, target)[name(form)][-1]
    if isinstance(kernel, WinogradConvolution):
        kernel = replace(kernel, prepared=False)  # as exact, and a single kernel
    x = random_input(0, shape.batches, shape.height // shape.scale, shape.width // shape.scale, shape.depth)
    weights = random_weight(shape.columns, shape.depth, 3, 3)
    upsampled = x.repeat(shape.scale, 1).repeat(shape.scale, 2)
    bordered = np.pad(upsampled, ((0, 0), (1, 1), (1, 1), (0, 0)))
    folded = form is not None and form[1] > 1
    reads = (x if folded else upsampled) if isinstance(kernel, WinogradConvolution) else bordered
    width = min(target.panel_vectors, -(-shape.columns // target.lanes)) * target.lanes
    out = np.zeros((shape.batches, shape.height, shape.width, shape.columns), np.float32)
    operands = [np.ascontiguousarray(reads), Panels(width, DType.F16, False).pack(weights), out]
    table = (ctypes.c_void_p * len(operands))(*(int(operand.ctypes.data) for operand in operands))
    scratch = aligned_bytes(kernel.scratch_bytes(target))
    compiled = Jit.of([kernel], target)
    compiled.functions[kernel](ctypes.addressof(table), scratch.ctypes.data, 0, kernel.tiles)
    return relative_difference(out, _reference(bordered, weights))


def _reference(bordered: Array, weights: Array) -> Array:
    channels_first = torch.from_numpy(bordered).double().permute(0, 3, 1, 2)
    found = functional.conv2d(channels_first, torch.from_numpy(weights).double())
    expected: Array = found.permute(0, 2, 3, 1).numpy()
    return expected
