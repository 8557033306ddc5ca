"""Shape rules and references of the Winograd stages: a 3x3 convolution of stride 1 as transforms and a
product.

F(m x m, 3 x 3) cuts the padded map into tiles of n x n, n = m + 2, that overlap by 2; `winograd/matrices.py`
has the identity and the matrices. Tiles are numbered row by row, sample by sample.
"""

import numpy as np

from sdcomp.errors import VerifyError
from sdcomp.ir.graph import Attributes
from sdcomp.ir.types import Array, TensorType
from sdcomp.winograd.matrices import POINTS, TAPS, floats, tile_size, transform

Types = tuple[TensorType, ...]
Operands = tuple[Array, ...]


def _m(attributes: Attributes) -> int:
    m = attributes["m"]
    if m not in POINTS:
        raise VerifyError(f"winograd: m must be one of {sorted(POINTS)}, got {m}")
    return int(m)


def _matrix(values: list[list[float]], like: Array) -> Array:
    return np.array(values, np.result_type(np.float32, like.dtype))


def filter_shape(types: Types, attributes: Attributes) -> TensorType:
    shape = types[0].shape
    if len(shape) != 4 or shape[2:] != (TAPS, TAPS):
        raise VerifyError(f"winograd_filter: needs w[O,I,3,3]; operand is {types[0]}")
    return TensorType((tile_size(_m(attributes)) ** 2, *shape[:2]))


def filter_reference(operands: Operands, attributes: Attributes) -> Array:
    """U = G g G^T"""
    (w,) = operands
    g = _matrix(floats(transform(_m(attributes)).filter), w)
    spread = np.einsum("ap,oipq,bq->aboi", g, w, g, optimize=True)
    return np.asarray(spread.reshape(-1, *w.shape[:2]))


def input_shape(types: Types, attributes: Attributes) -> TensorType:
    m, shape = _m(attributes), types[0].shape
    if len(shape) != 4 or any(extent < m + 2 or (extent - 2) % m for extent in shape[1:3]):
        raise VerifyError(
            f"winograd_input: needs x[N,H,W,C] padded to whole tiles of m = {m}; operand is {types[0]}"
        )
    tiles = shape[0] * ((shape[1] - 2) // m) * ((shape[2] - 2) // m)
    return TensorType((tile_size(m) ** 2, tiles, shape[3]))


def input_reference(operands: Operands, attributes: Attributes) -> Array:
    """V = B^T d B"""
    (x,) = operands
    m = _m(attributes)
    b = _matrix(floats(transform(m).input), x)
    n = tile_size(m)
    windows = np.lib.stride_tricks.sliding_window_view(x, (n, n), axis=(1, 2))[:, ::m, ::m]
    spread = np.einsum("ap,nyxcpq,bq->abnyxc", b, windows, b, optimize=True)
    return np.asarray(spread.reshape(n * n, -1, x.shape[3]))


def multiply_shape(types: Types, attributes: Attributes) -> TensorType:
    v, u = types
    if len(v.shape) != 3 or len(u.shape) != 3 or v.shape[0] != u.shape[0] or v.shape[2] != u.shape[2]:
        raise VerifyError(f"winograd_multiply: needs v[S,T,I] and u[S,O,I]; operands are {v}, {u}")
    return TensorType((v.shape[0], v.shape[1], u.shape[1]))


def multiply_reference(operands: Operands, attributes: Attributes) -> Array:
    v, u = operands
    return np.asarray(v @ u.transpose(0, 2, 1))


def output_shape(types: Types, attributes: Attributes) -> TensorType:
    m, shape = _m(attributes), attributes["shape"]
    assert isinstance(shape, tuple)
    batch, height, width, channels = (int(extent) for extent in shape) if len(shape) == 4 else (0, 0, 0, 0)
    tiles = batch * -(-height // m) * -(-width // m)
    if types[0].shape != (tile_size(m) ** 2, tiles, channels) or not types[0].elements:
        raise VerifyError(f"winograd_output: {types[0]} does not hold the tiles of {list(shape)} for m = {m}")
    return TensorType((batch, height, width, channels))


def output_reference(operands: Operands, attributes: Attributes) -> Array:
    """Y = A^T M A, tiles side by side, cut to the map's size."""
    (tiles,) = operands
    m, shape = _m(attributes), attributes["shape"]
    assert isinstance(shape, tuple)
    batch, height, width, channels = (int(extent) for extent in shape)
    a = _matrix(floats(transform(m).output), tiles)
    n, rows, columns = tile_size(m), -(-height // m), -(-width // m)
    parts = tiles.reshape(n, n, batch, rows, columns, channels)
    whole = np.einsum("ip,pqnyxc,jq->nyixjc", a, parts, a, optimize=True)
    return np.asarray(whole.reshape(batch, rows * m, columns * m, channels)[:, :height, :width])
