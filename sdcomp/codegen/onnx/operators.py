"""How each operation of the op table is written in ONNX: `LOWERINGS`, by name.

A function receives the node and the emitter, and defines the node's value.
"""

from collections.abc import Callable

import numpy as np

from sdcomp.codegen.onnx import winograd
from sdcomp.codegen.onnx.data import ELEMENTS, Form
from sdcomp.codegen.onnx.emitter import Emitter, channels_first
from sdcomp.errors import PassError
from sdcomp.ir.graph import Node
from sdcomp.ir.types import DType, Shape

Lowering = Callable[[Node, Emitter], None]

_TO_NHWC, _TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


def _scalar(emit: Emitter, value: float) -> str:
    return emit.numbers(np.array(value, np.float32))


def _matmul(node: Node, emit: Emitter) -> None:
    x, w = node.operands
    rank = len(x.shape)
    if emit.is_weight(w) and emit.prefers_first([x]):
        # A matrix over the channels of a map is a convolution of size 1.
        form = Form(w.shape + (1,) * (rank - 2), tuple(range(rank)))
        emit.define(node, emit.add(node, "Conv", emit.number(x, True), emit.weight(w, form)), first=True)
        return
    if emit.is_weight(w):
        matrix = emit.weight(w, Form(w.shape, (1, 0)))
    else:
        matrix = emit.add(node, "Transpose", emit.number(w), perm=(1, 0))
    emit.define(node, emit.add(node, "MatMul", emit.number(x), matrix))


def _conv2d(node: Node, emit: Emitter) -> None:
    x, w = node.operands
    stride = node.integer("stride")
    value = emit.add(
        node,
        "Conv",
        emit.number(x, True),
        emit.number(w),
        kernel_shape=w.shape[2:],
        strides=(stride, stride),
        pads=node.integers("padding"),
    )
    emit.define(node, value, first=True)


def _attention(node: Node, emit: Emitter) -> None:
    """Softmax of the scores of every head; the scores of all heads exist at once."""
    heads = node.integer("heads")
    channels = node.shape[2] // heads
    orders = ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3))
    q, k, v = (
        _split_heads(node, operand, heads, order, emit)
        for operand, order in zip(node.operands, orders, strict=True)
    )
    query = emit.add(node, "Mul", q, _scalar(emit, channels**-0.5))
    scores = emit.add(node, "MatMul", query, k)
    if node.attributes["causal"]:
        scores = emit.add(node, "Add", scores, _future(node, emit))
    mixed = emit.add(node, "MatMul", emit.add(node, "Softmax", scores, axis=-1), v)
    merged = emit.add(node, "Transpose", mixed, perm=(0, 2, 1, 3))
    shape = emit.integers((0, 0, node.shape[2]))
    emit.define(node, emit.add(node, "Reshape", merged, shape))


def _split_heads(node: Node, operand: Node, heads: int, order: Shape, emit: Emitter) -> str:
    shape = emit.integers((0, 0, heads, operand.shape[2] // heads))
    return emit.add(node, "Transpose", emit.add(node, "Reshape", emit.number(operand), shape), perm=order)


def _future(node: Node, emit: Emitter) -> str:
    """Minus infinity for keys behind the query."""
    queries, keys = (emit.extents(operand)[1] for operand in node.operands[:2])
    if not isinstance(queries, int) or not isinstance(keys, int):
        raise PassError("attention: a causal mask needs a fixed number of tokens; export it at one size")
    return emit.numbers(np.triu(np.full((queries, keys), -np.inf, np.float32), 1))


def _kron(node: Node, emit: Emitter) -> None:
    rank = len(node.shape)
    shapes = [operand.shape + (1,) * (rank - len(operand.shape)) for operand in node.operands]
    outer = emit.integers(extent for size in shapes[0] for extent in (size, 1))
    inner = emit.integers(extent for size in shapes[1] for extent in (1, size))
    a, b = (
        emit.add(node, "Reshape", emit.number(operand), shape)
        for operand, shape in zip(node.operands, (outer, inner), strict=True)
    )
    product = emit.add(node, "Mul", a, b)
    emit.define(node, emit.add(node, "Reshape", product, emit.integers(node.shape)))


def _group_norm(node: Node, emit: Emitter) -> None:
    """By InstanceNormalization over [N, groups, ...]: GroupNormalization has no kernel of its own in
    onnxruntime, and its expansion is slower and less precise there.
    """
    x, *affine = node.operands
    rank, groups = len(x.shape), node.integer("groups")
    value, before = emit.number(x, True), emit.extents(x, True)
    grouped = emit.add(node, "Reshape", value, emit.integers((0, groups, -1)))
    unit = [emit.numbers(np.full(groups, fill, np.float32)) for fill in (1, 0)]
    normal = emit.add(node, "InstanceNormalization", grouped, *unit, epsilon=node.number("eps"))
    whole = emit.reshape(node, normal, before[:1], before)
    gamma, beta = (_per_channel(parameter, rank, emit) for parameter in affine)
    scaled = emit.add(node, "Mul", whole, gamma)
    emit.define(node, emit.add(node, "Add", scaled, beta), first=True)


def _per_channel(parameter: Node, rank: int, emit: Emitter) -> str:
    """[C] as [C, 1, ...], to be broadcast over a map with channels first."""
    shape = parameter.shape + (1,) * (rank - 2)
    if emit.is_weight(parameter):
        return emit.weight(parameter, Form(shape, tuple(range(len(shape)))))
    return emit.add(parameter, "Reshape", emit.number(parameter), emit.integers(shape))


def _layer_norm(node: Node, emit: Emitter) -> None:
    operands = map(emit.number, node.operands)
    emit.define(node, emit.add(node, "LayerNormalization", *operands, axis=-1, epsilon=node.number("eps")))


def _softmax(node: Node, emit: Emitter) -> None:
    emit.define(node, emit.add(node, "Softmax", emit.number(node.operands[0]), axis=-1))


def _binary(op: str) -> Lowering:
    def lower(node: Node, emit: Emitter) -> None:
        first = emit.prefers_first(node.operands)
        operands = [emit.operand(operand, len(node.shape), first) for operand in node.operands]
        emit.define(node, emit.add(node, op, *operands), first)

    return lower


def _unary(write: Callable[[Node, str, Emitter], str]) -> Lowering:
    def lower(node: Node, emit: Emitter) -> None:
        first = emit.prefers_first(node.operands)
        emit.define(node, write(node, emit.number(node.operands[0], first), emit), first)

    return lower


def _silu(node: Node, x: str, emit: Emitter) -> str:
    return emit.add(node, "Mul", x, emit.add(node, "Sigmoid", x))


def _quick_gelu(node: Node, x: str, emit: Emitter) -> str:
    scaled = emit.add(node, "Mul", x, _scalar(emit, 1.702))
    return emit.add(node, "Mul", x, emit.add(node, "Sigmoid", scaled))


def _reshape(node: Node, emit: Emitter) -> None:
    (x,) = node.operands
    emit.define(node, emit.reshape(node, emit.read(x), emit.extents(x), emit.extents(node)))


def _transpose(node: Node, emit: Emitter) -> None:
    (x,) = node.operands
    permutation = node.integers("permutation")
    # From one layout of a map to the other: the same value under the other name.
    if permutation == _TO_NHWC:
        emit.define(node, emit.read(x), first=True)
    elif permutation == _TO_NCHW:
        emit.define(node, emit.read(x, True))
    else:
        emit.define(node, emit.add(node, "Transpose", emit.read(x), perm=permutation))


def _axis(node: Node, first: bool) -> int:
    axis = node.integer("axis")
    return channels_first(len(node.shape)).index(axis) if first else axis


def _concat(node: Node, emit: Emitter) -> None:
    first = emit.prefers_first(node.operands)
    operands = [emit.read(operand, first) for operand in node.operands]
    emit.define(node, emit.add(node, "Concat", *operands, axis=_axis(node, first)), first)


def _slice(node: Node, emit: Emitter) -> None:
    first = emit.prefers_first(node.operands)
    bounds = (node.integer("start"), node.integer("stop"), _axis(node, first))
    where = [emit.integers([bound]) for bound in bounds]
    emit.define(node, emit.add(node, "Slice", emit.read(node.operands[0], first), *where), first)


def _broadcast_to(node: Node, emit: Emitter) -> None:
    (x,) = node.operands
    first = len(x.shape) == len(node.shape) and emit.prefers_first([x])
    before, after = emit.extents(x, first), emit.extents(node, first)
    aligned = (1,) * (len(after) - len(before)) + before
    # Expand leaves an axis as it is where it is asked for 1.
    target = [1 if old == new else new for old, new in zip(aligned, after, strict=True)]
    emit.define(node, emit.add(node, "Expand", emit.read(x, first), emit.shape(node, target)), first)


def _upsample_nearest(node: Node, emit: Emitter) -> None:
    scale = float(node.integer("scale"))
    value = emit.add(
        node,
        "Resize",
        emit.number(node.operands[0], True),
        "",
        emit.numbers(np.array([1, 1, scale, scale], np.float32)),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    emit.define(node, value, first=True)


def _pad(node: Node, emit: Emitter) -> None:
    first = emit.prefers_first(node.operands)
    top, left, bottom, right = node.integers("padding")
    before, after = (0, top, left, 0), (0, bottom, right, 0)
    order = channels_first(4) if first else range(4)
    pads = emit.integers([*(before[axis] for axis in order), *(after[axis] for axis in order)])
    emit.define(node, emit.add(node, "Pad", emit.number(node.operands[0], first), pads), first)


def _gather(node: Node, emit: Emitter) -> None:
    table, indices = node.operands
    emit.define(node, emit.add(node, "Gather", emit.number(table), emit.read(indices), axis=0))


def _cast(node: Node, emit: Emitter) -> None:
    first = emit.prefers_first(node.operands)
    value = emit.read(node.operands[0], first)
    emit.define(node, emit.add(node, "Cast", value, to=ELEMENTS[DType(node.text("dtype"))]), first)


def _timestep_embedding(node: Node, emit: Emitter) -> None:
    half = node.integer("channels") // 2
    frequencies = node.number("max_period") ** (-np.arange(half) / half)
    column = emit.add(node, "Unsqueeze", emit.number(node.operands[0]), emit.integers([1]))
    angles = emit.add(node, "Mul", column, emit.numbers(frequencies.astype(np.float32)))
    waves = (emit.add(node, "Cos", angles), emit.add(node, "Sin", angles))
    emit.define(node, emit.add(node, "Concat", *waves, axis=-1))


def _one(op: str) -> Lowering:
    return _unary(lambda node, x, emit: emit.add(node, op, x))


LOWERINGS: dict[str, Lowering] = {
    "matmul": _matmul,
    "conv2d": _conv2d,
    "attention": _attention,
    "kron": _kron,
    "winograd_filter": winograd.lower_filter,
    "winograd_input": winograd.lower_input,
    "winograd_multiply": winograd.lower_multiply,
    "winograd_output": winograd.lower_output,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "softmax": _softmax,
    "add": _binary("Add"),
    "mul": _binary("Mul"),
    "silu": _unary(_silu),
    "gelu": _one("Gelu"),
    "quick_gelu": _unary(_quick_gelu),
    "sigmoid": _one("Sigmoid"),
    "tanh": _one("Tanh"),
    "reshape": _reshape,
    "transpose": _transpose,
    "concat": _concat,
    "slice": _slice,
    "broadcast_to": _broadcast_to,
    "upsample_nearest": _upsample_nearest,
    "pad": _pad,
    "gather": _gather,
    "cast": _cast,
    "timestep_embedding": _timestep_embedding,
}
"""Every operation of the op table but the sources, which are inputs and initializers, and those that only
weight expressions have, which are evaluated.
"""
