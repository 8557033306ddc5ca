"""Shape rules and references of the Winograd stages: a 3x3 convolution of stride 1 as transforms and a
product.

F(m x m, 3 x 3) makes tiles of m x m pixels of tiles of the padded map that overlap by 2. With a `scale`, the
convolution is of the map upsampled so many times, which never exists. `winograd/matrices.py` has the identity
and the matrices; n^2 are the products of a tile. Tiles are numbered row by row, sample by sample.
"""

import numpy as np

from sdcomp.errors import VerifyError
from sdcomp.ir.graph import Attributes
from sdcomp.ir.types import Array, TensorType
from sdcomp.winograd.matrices import POINTS, TAPS, Transform, floats, transform

Types = tuple[TensorType, ...]
Operands = tuple[Array, ...]


def _transform(attributes: Attributes) -> Transform:
    form = attributes["m"], attributes["scale"]
    if form not in POINTS:
        raise VerifyError(f"winograd: (m, scale) must be one of {sorted(POINTS)}, got {form}")
    return transform(*form)


def _matrix(values: list[list[float]], like: Array) -> Array:
    return np.array(values, np.result_type(np.float32, like.dtype))


def filter_shape(types: Types, attributes: Attributes) -> TensorType:
    shape = types[0].shape
    if len(shape) != 4 or shape[2:] != (TAPS, TAPS):
        raise VerifyError(f"winograd_filter: needs w[O,I,3,3]; operand is {types[0]}")
    return TensorType((_transform(attributes).planes, *shape[:2]))


def filter_reference(operands: Operands, attributes: Attributes) -> Array:
    """U = G g G^T"""
    (w,) = operands
    g = _matrix(floats(_transform(attributes).filter), w)
    spread = np.einsum("ap,oipq,bq->aboi", g, w, g, optimize=True)
    return np.asarray(spread.reshape(-1, *w.shape[:2]))


def input_shape(types: Types, attributes: Attributes) -> TensorType:
    matrices, shape = _transform(attributes), types[0].shape
    step = matrices.step
    if len(shape) != 4 or any(extent < step + 2 or (extent - 2) % step for extent in shape[1:3]):
        raise VerifyError(
            f"winograd_input: needs x[N,H,W,C] padded to whole tiles of {step} pixels; operand is {types[0]}"
        )
    tiles = shape[0] * ((shape[1] - 2) // step) * ((shape[2] - 2) // step)
    return TensorType((matrices.planes, tiles, shape[3]))


def input_reference(operands: Operands, attributes: Attributes) -> Array:
    """V = B^T d B"""
    (x,) = operands
    matrices = _transform(attributes)
    b = _matrix(floats(matrices.input), x)
    window, step = (matrices.inputs, matrices.inputs), matrices.step
    windows = np.lib.stride_tricks.sliding_window_view(x, window, axis=(1, 2))[:, ::step, ::step]
    spread = np.einsum("ap,nyxcpq,bq->abnyxc", b, windows, b, optimize=True)
    return np.asarray(spread.reshape(matrices.planes, -1, x.shape[3]))


def multiply_shape(types: Types, attributes: Attributes) -> TensorType:
    v, u = types
    if len(v.shape) != 3 or len(u.shape) != 3 or v.shape[0] != u.shape[0] or v.shape[2] != u.shape[2]:
        raise VerifyError(f"winograd_multiply: needs v[S,T,I] and u[S,O,I]; operands are {v}, {u}")
    return TensorType((v.shape[0], v.shape[1], u.shape[1]))


def multiply_reference(operands: Operands, attributes: Attributes) -> Array:
    v, u = operands
    return np.asarray(v @ u.transpose(0, 2, 1))


def output_shape(types: Types, attributes: Attributes) -> TensorType:
    matrices, shape = _transform(attributes), attributes["shape"]
    assert isinstance(shape, tuple)
    batch, height, width, channels = (int(extent) for extent in shape) if len(shape) == 4 else (0, 0, 0, 0)
    m = len(matrices.output)
    tiles = batch * -(-height // m) * -(-width // m)
    if types[0].shape != (matrices.planes, tiles, channels) or not types[0].elements:
        raise VerifyError(f"winograd_output: {types[0]} does not hold the tiles of {list(shape)} for m = {m}")
    return TensorType((batch, height, width, channels))


def output_reference(operands: Operands, attributes: Attributes) -> Array:
    """Y = A^T M A, tiles side by side, cut to the map's size."""
    (tiles,) = operands
    matrices, shape = _transform(attributes), attributes["shape"]
    assert isinstance(shape, tuple)
    batch, height, width, channels = (int(extent) for extent in shape)
    a = _matrix(floats(matrices.output), tiles)
    n, m = matrices.products, len(matrices.output)
    rows, columns = -(-height // m), -(-width // m)
    parts = tiles.reshape(n, n, batch, rows, columns, channels)
    whole = np.einsum("ip,pqnyxc,jq->nyixjc", a, parts, a, optimize=True)
    return np.asarray(whole.reshape(batch, rows * m, columns * m, channels)[:, :height, :width])
