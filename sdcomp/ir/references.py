"""numpy references of the op table, in the operands' precision: f64 operands give an f64 reference.

They define what an operation means; they are slow. Weights may come in f16: they are widened to the
precision of the activations.
"""

from math import erf, isqrt, prod
from typing import Any

import numpy as np

from sdcomp.errors import ExecutionError
from sdcomp.ir.graph import Attributes
from sdcomp.ir.types import Array, DType

Operands = tuple[Array, ...]
_erf = np.vectorize(erf, otypes=[np.float64])


def _wide(*arrays: Array) -> tuple[Array, ...]:
    """All operands in one precision: f64 if any is f64, otherwise f32."""
    wide = np.result_type(np.float32, *(a.dtype for a in arrays if a.dtype.kind == "f"))
    return tuple(a.astype(wide, copy=False) for a in arrays)


def _integers(attributes: Attributes, name: str) -> tuple[int, ...]:
    value = attributes[name]
    assert isinstance(value, tuple)
    return tuple(int(v) for v in value)


def _integer(attributes: Attributes, name: str) -> int:
    return int(attributes[name])  # type: ignore[arg-type]


def constant(operands: Operands, attributes: Attributes) -> Array:
    shape = _integers(attributes, "shape")
    values = np.array(attributes["values"], DType(attributes["dtype"]).numpy)
    return np.full(shape, values[0]) if values.size == 1 else values.reshape(shape)


def matmul(operands: Operands, attributes: Attributes) -> Array:
    x, w = _wide(*operands)
    return np.asarray(x @ w.T)


def conv2d(operands: Operands, attributes: Attributes) -> Array:
    x, w = _wide(*operands)
    stride = _integer(attributes, "stride")
    x = pad((x,), attributes)
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(1, 2))[:, ::stride, ::stride]
    batch, height, width = windows.shape[:3]
    columns = windows.reshape(batch, height, width, prod(w.shape[1:]))
    return np.asarray(columns @ w.reshape(len(w), -1).T)


def attention(operands: Operands, attributes: Attributes) -> Array:
    heads = _integer(attributes, "heads")
    q, k, v = (a.reshape(*a.shape[:2], heads, -1).transpose(0, 2, 1, 3) for a in _wide(*operands))
    scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(np.asarray(q.shape[-1], q.dtype))
    if attributes["causal"]:
        future = np.triu(np.ones(scores.shape[-2:], bool), 1)
        scores = np.where(future, -np.inf, scores)
    mixed = (softmax((scores,), {}) @ v).transpose(0, 2, 1, 3)
    return np.asarray(mixed.reshape(*mixed.shape[:2], -1))


def kron(operands: Operands, attributes: Attributes) -> Array:
    a, b = _wide(*operands)
    rank = max(a.ndim, b.ndim)
    return np.kron(*(t.reshape(t.shape + (1,) * (rank - t.ndim)) for t in (a, b)))


def _normalise(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    centred = x - x.mean(axes, keepdims=True)
    return np.asarray(centred / np.sqrt((centred**2).mean(axes, keepdims=True) + eps))


def group_norm(operands: Operands, attributes: Attributes) -> Array:
    x, gamma, beta = _wide(*operands)
    groups = _integer(attributes, "groups")
    parts = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    return _normalise(parts, (1, 3), float(attributes["eps"])).reshape(x.shape) * gamma + beta  # type: ignore[arg-type]


def layer_norm(operands: Operands, attributes: Attributes) -> Array:
    x, gamma, beta = _wide(*operands)
    return _normalise(x, (-1,), float(attributes["eps"])) * gamma + beta  # type: ignore[arg-type]


def softmax(operands: Operands, attributes: Attributes) -> Array:
    (x,) = _wide(*operands)
    powers = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def add(operands: Operands, attributes: Attributes) -> Array:
    a, b = _wide(*operands)
    return np.asarray(a + b)


def mul(operands: Operands, attributes: Attributes) -> Array:
    a, b = _wide(*operands)
    return np.asarray(a * b)


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def sigmoid(operands: Operands, attributes: Attributes) -> Array:
    return _sigmoid(*_wide(*operands))


def silu(operands: Operands, attributes: Attributes) -> Array:
    (x,) = _wide(*operands)
    return np.asarray(x * _sigmoid(x))


def quick_gelu(operands: Operands, attributes: Attributes) -> Array:
    (x,) = _wide(*operands)
    return np.asarray(x * _sigmoid(1.702 * x))


def gelu(operands: Operands, attributes: Attributes) -> Array:
    (x,) = _wide(*operands)
    return np.asarray((0.5 * x * (1 + _erf(x / np.sqrt(2.0)))).astype(x.dtype))


def tanh(operands: Operands, attributes: Attributes) -> Array:
    return np.asarray(np.tanh(*_wide(*operands)))


def reshape(operands: Operands, attributes: Attributes) -> Array:
    return operands[0].reshape(_integers(attributes, "shape"))


def transpose(operands: Operands, attributes: Attributes) -> Array:
    return np.asarray(operands[0].transpose(_integers(attributes, "permutation")))


def concat(operands: Operands, attributes: Attributes) -> Array:
    return np.asarray(np.concatenate(operands, _integer(attributes, "axis")))


def slice_(operands: Operands, attributes: Attributes) -> Array:
    where: list[Any] = [slice(None)] * operands[0].ndim
    where[_integer(attributes, "axis")] = slice(_integer(attributes, "start"), _integer(attributes, "stop"))
    return np.asarray(operands[0][tuple(where)])


def broadcast_to(operands: Operands, attributes: Attributes) -> Array:
    return np.broadcast_to(operands[0], _integers(attributes, "shape"))


def upsample_nearest(operands: Operands, attributes: Attributes) -> Array:
    scale = _integer(attributes, "scale")
    return operands[0].repeat(scale, 1).repeat(scale, 2)


def pad(operands: Operands, attributes: Attributes) -> Array:
    top, left, bottom, right = _integers(attributes, "padding")
    return np.pad(operands[0], ((0, 0), (top, bottom), (left, right), (0, 0)))


def gather(operands: Operands, attributes: Attributes) -> Array:
    table, indices = operands
    least, most = indices.min(), indices.max()
    if least < 0 or most >= len(table):
        raise ExecutionError(f"gather: indices are {least} to {most}, but the table has {len(table)} rows")
    return _wide(table)[0][indices]


def cast(operands: Operands, attributes: Attributes) -> Array:
    return operands[0].astype(DType(attributes["dtype"]).numpy)


def div(operands: Operands, attributes: Attributes) -> Array:
    a, b = _wide(*operands)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(a / b)


def minimum(operands: Operands, attributes: Attributes) -> Array:
    return np.asarray(np.minimum(*_wide(*operands)))


def norm(operands: Operands, attributes: Attributes) -> Array:
    """Summed in f64: squares neither overflow nor lose digits."""
    (x,) = _wide(*operands)
    squares = np.square(x, dtype=np.float64)
    return np.asarray(np.sqrt(squares.sum(_integers(attributes, "axes"), keepdims=True)).astype(x.dtype))


def block_matmul(operands: Operands, attributes: Attributes) -> Array:
    x, w = _wide(*operands)
    return np.asarray(x @ w.transpose(0, 2, 1))


def skew(operands: Operands, attributes: Attributes) -> Array:
    (x,) = _wide(*operands)
    side = (1 + isqrt(1 + 8 * x.shape[1])) // 2
    upper = np.zeros((len(x), side, side), x.dtype)
    rows, columns = np.triu_indices(side, 1)
    upper[:, rows, columns] = x
    return np.asarray(upper - upper.transpose(0, 2, 1))


def cayley(operands: Operands, attributes: Attributes) -> Array:
    """Solved in f64. The factors commute, so that (I - q)^-1 may stand on the left."""
    (q,) = _wide(*operands)
    identity = np.eye(q.shape[-1])
    return np.asarray(np.linalg.solve(identity - q, identity + q).astype(q.dtype))


def timestep_embedding(operands: Operands, attributes: Attributes) -> Array:
    """Ho et al. 2020, cosine half first, as LDM does."""
    (t,) = _wide(*operands)
    half = _integer(attributes, "channels") // 2
    frequencies = float(attributes["max_period"]) ** (-np.arange(half, dtype=t.dtype) / half)  # type: ignore[arg-type]
    angles = t[:, None] * frequencies
    return np.concatenate([np.cos(angles), np.sin(angles)], -1)
