"""Contraction kernels on random operands, with torch's convolution in f64 as the reference."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from math import sqrt

import numpy as np
import torch
from torch.nn import functional

from sdcomp.codegen.kernels.contraction import Contraction, Geometry, panel_vectors
from sdcomp.codegen.kernels.epilogue import Step
from sdcomp.codegen.targets import Target
from sdcomp.codegen.weights import Panels, Vector
from sdcomp.ir.types import Array, DType
from tests.codegen.case import ROUNDING, Case, gapped, random_normal

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


@dataclass(frozen=True)
class Shape:
    """A convolution of x[batch, height, width, depth]; a matmul has a kernel of 1 and a height of 1.

    `steps` are those of the kernel, and `batch_vector_1`: one vector for all samples, and `shared`: a
    tensor of one sample for all of them. `padding` is (top, left, bottom, right). Rows of x are `x_gap`
    apart, of the output `out_gap`.
    """

    width: int
    depth: int
    columns: int
    batch: int = 1
    height: int = 1
    kernel: int = 1
    stride: int = 1
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dtype: str = "f32"
    steps: tuple[str, ...] = ()
    gated: bool = False
    x_gap: int = 0
    out_gap: int = 0
    blocks: tuple[int, int, int] | None = None
    """row_block, panel_block and depth_block; None: as the target's caches say."""
    split: tuple[int, ...] = ()
    """Where in the depth another part of x begins, which is a matmul's then."""

    @property
    def depths(self) -> list[int]:
        """Of each part of x."""
        return [stop - start for start, stop in pairwise((0, *self.split, self.depth))]

    @property
    def multiplies(self) -> int:
        """Products in one element of the output."""
        return self.kernel**2 * self.depth

    @property
    def bound(self) -> float:
        """f32 sums are random walks: each of n additions rounds a partial sum, so that the error grows like
        sqrt(n) beside the result, a third of a rounding per step; epilogue and activation add a few
        roundings of their own.
        """
        return ROUNDING * (4 + sqrt(self.multiplies) / 3)


def build(shape: Shape, target: Target) -> Case:
    """The case of this shape, with seeded random operands."""
    x = random_normal(1, shape.batch, shape.height, shape.width, shape.depth)
    weights = random_normal(2, shape.columns, shape.depth, shape.kernel, shape.kernel) / sqrt(
        shape.multiplies
    )
    weights = weights.astype(DType(shape.dtype).numpy)
    top, left, bottom, right = shape.padding
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    expected = convolve(padded, weights, shape.stride)
    kernel = _kernel(shape, padded.shape[1:3], expected.shape[1:3], target)
    extra = [step_operand(step, expected.shape, 3 + n) for n, step in enumerate(shape.steps)]
    for step, operand in zip(shape.steps, extra, strict=True):
        expected = apply_step(step, expected, operand)
    if shape.gated:
        value, gate = expected.chunk(2, -1)
        expected = value * functional.gelu(gate)
    packed = Panels(kernel.width, DType(shape.dtype), shape.gated).pack(weights)
    given = [
        packed_operand(step, e, kernel.width, kernel.gated)
        for step, e in zip(shape.steps, extra, strict=True)
        if e is not None
    ]
    out = gapped(expected.numpy(), expected.shape[-1] + shape.out_gap)
    parts = np.split(padded, shape.split, axis=-1)
    first, *others = (gapped(part, part.shape[-1] + shape.x_gap) for part in parts)
    return Case(kernel, [first, packed, *given, *others], 2, out, shape.bound)


def convolve(x: Array, weights: Array, stride: int) -> torch.Tensor:
    """Of x[N,H,W,I] without padding and w[O,I,kh,kw], as [N,H,W,O] in f64."""
    nchw = torch.from_numpy(x.astype(np.float64)).permute(0, 3, 1, 2)
    filters = torch.from_numpy(weights.astype(np.float64))
    return functional.conv2d(nchw, filters, stride=stride).permute(0, 2, 3, 1)


def _kernel(shape: Shape, inside: tuple[int, ...], outside: tuple[int, ...], target: Target) -> Contraction:
    vectors = panel_vectors(target, shape.columns, shape.gated)
    kept = shape.columns // 2 if shape.gated else shape.columns
    first, *others = (_geometry(shape, depth, inside, outside) for depth in shape.depths)
    kernel = Contraction(
        first, others=tuple(others), columns=shape.columns, out_stride=kept + shape.out_gap,
        weight_dtype=shape.dtype,
        steps=tuple(kernel_step(step, shape.columns) for step in shape.steps), gated=shape.gated,
        vectors=vectors, tile_rows=target.tile_rows(vectors), lanes=target.lanes,
    )  # fmt: skip
    if shape.blocks is None:
        return kernel.tiled(target)
    rows, panels, depth = shape.blocks
    return replace(kernel, row_block=rows, panel_block=panels, depth_block=depth)


def _geometry(shape: Shape, depth: int, inside: tuple[int, ...], outside: tuple[int, ...]) -> Geometry:
    step = depth + shape.x_gap
    row = inside[1] * step
    return Geometry(
        batches=shape.batch, outer=outside[0], inner=outside[1], batch_stride=inside[0] * row,
        outer_stride=shape.stride * row, inner_stride=shape.stride * step, depth=depth,
        taps=tuple(i * row + j * step for i in range(shape.kernel) for j in range(shape.kernel)),
    )  # fmt: skip


def kernel_step(step: str, columns: int) -> Step:
    """For dense operands of so many columns."""
    if step in ("tensor", "shared"):
        return Step("tensor", columns, shared=step == "shared")
    if step.startswith("batch_vector"):
        return Step("batch_vector", columns if step == "batch_vector" else 0)
    return Step(step)


def step_operand(step: str, out: tuple[int, ...], seed: int) -> Array | None:
    """What the step adds, in a shape that broadcasts; None for an activation."""
    shapes = {
        "bias": out[-1:],
        "batch_vector": (out[0], 1, 1, out[-1]),
        "batch_vector_1": (1, 1, 1, out[-1]),
        "tensor": out,
        "shared": (1, *out[1:]),
    }
    return random_normal(seed, *shapes[step]) if step in shapes else None


def apply_step(step: str, values: torch.Tensor, operand: Array | None) -> torch.Tensor:
    """The step's meaning."""
    if operand is None:
        return ACTIVATIONS[step](values)
    return values + torch.from_numpy(operand.astype(np.float64))


def packed_operand(step: str, operand: Array, width: int, gated: bool = False) -> Array:
    """As the kernel reads it: biases in panels, others row by row."""
    return Vector(width, gated).pack(operand) if step == "bias" else operand
