"""Shape rules of the op table: operand types and attributes to the result's type, or a VerifyError that says
what is wrong.
"""

from math import isqrt, prod
from typing import NoReturn

from sdcomp.errors import VerifyError
from sdcomp.ir.graph import Attributes
from sdcomp.ir.types import DType, Shape, TensorType

Types = tuple[TensorType, ...]


def _fail(op: str, reason: str, *types: TensorType) -> NoReturn:
    operands = f"; operands are {', '.join(map(str, types))}" if types else ""
    raise VerifyError(f"{op}: {reason}{operands}")


def _integers(attributes: Attributes, name: str) -> Shape:
    value = attributes[name]
    assert isinstance(value, tuple)
    return tuple(int(v) for v in value)


def _integer(attributes: Attributes, name: str) -> int:
    value = attributes[name]
    assert isinstance(value, int)
    return value


def _positive(op: str, types: Types, attributes: Attributes, name: str) -> int:
    value = _integer(attributes, name)
    if value < 1:
        _fail(op, f"{name} must be at least 1, not {value}", *types)
    return value


def _shape(op: str, types: Types, attributes: Attributes) -> Shape:
    shape = _integers(attributes, "shape")
    if any(extent < 1 for extent in shape):
        _fail(op, f"every extent of {list(shape)} must be at least 1", *types)
    return shape


def _dtype(op: str, types: Types, attributes: Attributes) -> DType:
    known = [dtype.value for dtype in DType]
    if attributes["dtype"] not in known:
        _fail(op, f"no such dtype {attributes['dtype']!r}; known are {', '.join(known)}", *types)
    return DType(attributes["dtype"])


def _padding(op: str, types: Types, attributes: Attributes) -> tuple[int, int, int, int]:
    padding = _integers(attributes, "padding")
    if len(padding) != 4 or min(padding) < 0:
        _fail(op, f"padding is (top, left, bottom, right), none negative, not {padding}", *types)
    top, left, bottom, right = padding
    return top, left, bottom, right


def source(types: Types, attributes: Attributes) -> TensorType:
    return TensorType(_shape("source", types, attributes), _dtype("source", types, attributes))


def constant(types: Types, attributes: Attributes) -> TensorType:
    result = source(types, attributes)
    values = attributes["values"]
    assert isinstance(values, tuple)
    if len(values) not in (1, result.elements):
        _fail("constant", f"{result} takes one value or {result.elements}, not {len(values)}", *types)
    return result


def same(types: Types, attributes: Attributes) -> TensorType:
    x, *parameters = types
    for parameter in parameters:
        if parameter.shape != x.shape[-1:]:
            _fail("normalisation", f"gamma and beta must be [{x.shape[-1]}]", *types)
    groups = _positive("group_norm", types, {"groups": 1, **attributes}, "groups")
    if x.shape and x.shape[-1] % groups:
        _fail("group_norm", f"{x.shape[-1]} channels do not divide into {groups} groups", *types)
    return TensorType(x.shape)


def broadcast(types: Types, attributes: Attributes) -> TensorType:
    a, b = types
    rank = max(len(a.shape), len(b.shape))
    left, right = ((1,) * (rank - len(t.shape)) + t.shape for t in types)
    for i, j in zip(left, right, strict=True):
        if i != j and 1 not in (i, j):
            _fail("pointwise", "shapes do not broadcast", a, b)
    return TensorType(tuple(max(i, j) if min(i, j) else 0 for i, j in zip(left, right, strict=True)))


def matmul(types: Types, attributes: Attributes) -> TensorType:
    x, w = types
    if len(w.shape) != 2 or not x.shape or x.shape[-1] != w.shape[1]:
        _fail("matmul", "x[..., K] needs w[N, K]", x, w)
    return TensorType((*x.shape[:-1], w.shape[0]))


def conv2d(types: Types, attributes: Attributes) -> TensorType:
    x, w = types
    if len(x.shape) != 4 or len(w.shape) != 4 or x.shape[3] != w.shape[1]:
        _fail("conv2d", "x[N,H,W,I] needs w[O,I,kh,kw]", x, w)
    stride = _positive("conv2d", types, attributes, "stride")
    top, left, bottom, right = _padding("conv2d", types, attributes)
    height = (x.shape[1] + top + bottom - w.shape[2]) // stride + 1
    width = (x.shape[2] + left + right - w.shape[3]) // stride + 1
    if height < 1 or width < 1:
        _fail("conv2d", "the kernel is larger than the padded map", x, w)
    return TensorType((x.shape[0], height, width, w.shape[0]))


def attention(types: Types, attributes: Attributes) -> TensorType:
    q, k, v = types
    if any(len(t.shape) != 3 for t in types) or k.shape != v.shape or q.shape[2] != k.shape[2]:
        _fail("attention", "q[B,T,C] needs k[B,S,C] and v[B,S,C]", *types)
    if q.shape[0] != k.shape[0] and 1 not in (q.shape[0], k.shape[0]):
        _fail("attention", "batches differ and neither is 1", *types)
    if q.shape[2] % _positive("attention", types, attributes, "heads"):
        _fail("attention", f"channels do not divide into {attributes['heads']} heads", *types)
    return TensorType((max(q.shape[0], k.shape[0]), *q.shape[1:]))


def kron(types: Types, attributes: Attributes) -> TensorType:
    a, b = types
    rank = max(len(a.shape), len(b.shape))
    left, right = (t.shape + (1,) * (rank - len(t.shape)) for t in types)
    return TensorType(tuple(i * j for i, j in zip(left, right, strict=True)))


def reshape(types: Types, attributes: Attributes) -> TensorType:
    shape = _shape("reshape", types, attributes)
    if prod(shape) != types[0].elements:
        _fail("reshape", f"{list(shape)} has another number of elements", *types)
    return TensorType(shape, types[0].dtype)


def transpose(types: Types, attributes: Attributes) -> TensorType:
    permutation = _integers(attributes, "permutation")
    if sorted(permutation) != list(range(len(types[0].shape))):
        _fail("transpose", f"{list(permutation)} is no permutation of the axes", *types)
    return TensorType(tuple(types[0].shape[axis] for axis in permutation), types[0].dtype)


def concat(types: Types, attributes: Attributes) -> TensorType:
    axis = _integer(attributes, "axis")
    first = types[0].shape
    if not 0 <= axis < len(first):
        _fail("concat", f"no axis {axis}", *types)
    rest = [t.shape[:axis] + t.shape[axis + 1 :] for t in types]
    if any(r != rest[0] for r in rest) or any(t.dtype != types[0].dtype for t in types):
        _fail("concat", f"operands differ off axis {axis}", *types)
    return TensorType((*first[:axis], sum(t.shape[axis] for t in types), *first[axis + 1 :]), types[0].dtype)


def slice_(types: Types, attributes: Attributes) -> TensorType:
    axis, start, stop = (_integer(attributes, name) for name in ("axis", "start", "stop"))
    shape = types[0].shape
    if not 0 <= axis < len(shape) or not 0 <= start < stop <= shape[axis]:
        _fail("slice", f"{start}:{stop} is outside axis {axis}", *types)
    return TensorType((*shape[:axis], stop - start, *shape[axis + 1 :]), types[0].dtype)


def broadcast_to(types: Types, attributes: Attributes) -> TensorType:
    shape = _shape("broadcast_to", types, attributes)
    if broadcast((types[0], TensorType(shape)), {}).shape != shape:
        _fail("broadcast_to", f"cannot become {list(shape)}", *types)
    return TensorType(shape, types[0].dtype)


def upsample_nearest(types: Types, attributes: Attributes) -> TensorType:
    if len(types[0].shape) != 4:
        _fail("upsample_nearest", "needs x[N,H,W,C]", *types)
    batch, height, width, channels = types[0].shape
    scale = _positive("upsample_nearest", types, attributes, "scale")
    return TensorType((batch, height * scale, width * scale, channels))


def pad(types: Types, attributes: Attributes) -> TensorType:
    if len(types[0].shape) != 4:
        _fail("pad", "needs x[N,H,W,C]", *types)
    top, left, bottom, right = _padding("pad", types, attributes)
    batch, height, width, channels = types[0].shape
    return TensorType((batch, top + height + bottom, left + width + right, channels))


def gather(types: Types, attributes: Attributes) -> TensorType:
    table, indices = types
    if len(table.shape) != 2 or indices.dtype != DType.I32:
        _fail("gather", "needs table[V,C] and i32 indices", *types)
    return TensorType((*indices.shape, table.shape[1]))


def cast(types: Types, attributes: Attributes) -> TensorType:
    return TensorType(types[0].shape, _dtype("cast", types, attributes))


def norm(types: Types, attributes: Attributes) -> TensorType:
    axes, shape = _integers(attributes, "axes"), types[0].shape
    if not axes or len(set(axes)) < len(axes) or not all(0 <= axis < len(shape) for axis in axes):
        _fail("norm", f"{list(axes)} are not axes of the operand, each once", *types)
    return TensorType(tuple(1 if axis in axes else extent for axis, extent in enumerate(shape)))


def block_matmul(types: Types, attributes: Attributes) -> TensorType:
    x, w = types
    if len(x.shape) != 3 or len(w.shape) != 3 or x.shape[2] != w.shape[2]:
        _fail("block_matmul", "x[B,M,K] needs w[B,N,K]", x, w)
    if x.shape[0] != w.shape[0] and 1 not in (x.shape[0], w.shape[0]):
        _fail("block_matmul", "numbers of blocks differ and neither is 1", x, w)
    return TensorType((max(x.shape[0], w.shape[0]), x.shape[1], w.shape[1]))


def skew(types: Types, attributes: Attributes) -> TensorType:
    shape = types[0].shape
    side = (1 + isqrt(1 + 8 * shape[-1])) // 2 if shape else 0
    if len(shape) != 2 or side * (side - 1) != 2 * shape[1]:
        _fail("skew", "needs x[B,n(n-1)/2]", *types)
    return TensorType((shape[0], side, side))


def cayley(types: Types, attributes: Attributes) -> TensorType:
    shape = types[0].shape
    if len(shape) != 3 or shape[1] != shape[2]:
        _fail("cayley", "needs q[B,n,n]", *types)
    return TensorType(shape)


def timestep_embedding(types: Types, attributes: Attributes) -> TensorType:
    channels = _integer(attributes, "channels")
    if len(types[0].shape) != 1 or channels < 2 or channels % 2:
        _fail("timestep_embedding", f"needs t[B] and an even number of channels, not {channels}", *types)
    return TensorType((types[0].shape[0], channels))
