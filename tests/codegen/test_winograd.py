"""The Winograd kernel against a direct convolution in f64, with every epilogue step and sizes that tiles do
not divide.
"""

import numpy as np
import pytest

from sdcomp.codegen.kernels.contraction import panel_vectors
from sdcomp.codegen.kernels.epilogue import Step
from sdcomp.codegen.kernels.winograd import WinogradConvolution
from sdcomp.codegen.targets import TARGETS, Target
from sdcomp.codegen.weights import Panels, Vector
from sdcomp.ir.ops import OPS
from sdcomp.ir.types import DType
from tests.codegen.jit import Jit, runnable_targets


def _kernel(
    target: Target, m: int, shape: tuple[int, int, int, int, int], steps: tuple[Step, ...]
) -> WinogradConvolution:
    batch, height, width, inputs, outputs = shape
    vectors = panel_vectors(target, outputs, False)
    return WinogradConvolution(
        m=m, batches=batch, height=height, width=width, padded_height=-(-height // m) * m + 2,
        padded_width=-(-width // m) * m + 2, stride=inputs, depth=inputs, columns=outputs, out_stride=outputs,
        weight_dtype="f16", steps=steps, vectors=vectors, tile_rows=target.tile_rows(vectors), lanes=target.lanes,
    ).tiled(target)  # fmt: skip


@pytest.mark.parametrize("target", runnable_targets(), ids=lambda target: target.name)
@pytest.mark.parametrize(
    ("m", "shape"),
    [(4, (1, 8, 8, 32, 64)), (4, (2, 13, 18, 48, 70)), (2, (1, 7, 6, 32, 40)), (4, (1, 36, 36, 64, 320))],
)
def test_against_direct_convolution(target: Target, m: int, shape: tuple[int, int, int, int, int]) -> None:
    batch, height, width, inputs, outputs = shape
    steps = (
        Step("bias"),
        Step("batch_vector", outputs),
        Step("tensor", outputs, shared=batch > 1),
        Step("silu"),
    )
    kernel = _kernel(target, m, shape, steps)
    rng = np.random.default_rng(0)
    x = np.zeros((batch, kernel.padded_height, kernel.padded_width, inputs), np.float32)
    x[:, 1 : height + 1, 1 : width + 1] = rng.standard_normal((batch, height, width, inputs))
    w = (rng.standard_normal((outputs, inputs, 3, 3)) / (9 * inputs) ** 0.5).astype(np.float16)
    bias = rng.standard_normal(outputs).astype(np.float32)
    vector = rng.standard_normal((batch, outputs)).astype(np.float32)
    residual = rng.standard_normal((1, height, width, outputs)).astype(np.float32)
    out = np.full((batch, height, width, outputs), np.nan, np.float32)
    packed = [
        Panels(kernel.panel_width, DType.F16, False).pack(w),
        out,
        Vector(kernel.panel_width, False).pack(bias),
    ]
    arrays = [x, *packed, vector, residual]
    order = list(reversed(range(kernel.tiles)))
    Jit.of([kernel], target).run(kernel, [array.ctypes.data for array in arrays], order)
    attributes = {"stride": 1, "padding": (0, 0, 0, 0)}
    valid = x[:, : height + 2, : width + 2].astype(np.float64)
    want = OPS["conv2d"].reference((valid, w.astype(np.float64)), attributes)
    want = want + bias + vector[:, None, None] + residual
    want = want / (1 + np.exp(-want))
    assert np.linalg.norm(out - want) / np.linalg.norm(want) < 3e-6


def test_filters_are_never_transformed_as_a_whole() -> None:
    """Scratch holds a few blocks of channels, not 36/9 of the weights."""
    for target in TARGETS.values():
        kernel = _kernel(target, 4, (1, 16, 16, 1280, 1280), ())
        assert kernel.scratch_bytes(target) < 4 * kernel.planes * kernel.depth * kernel.columns / 50
