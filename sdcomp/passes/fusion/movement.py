"""Movement: views where memory already has the right order, copies where it has not."""

from dataclasses import replace

from sdcomp.codegen.kernels.movement import Resample, StridedCopy
from sdcomp.codegen.kernels.rows import Gather, TimestepEmbedding
from sdcomp.codegen.plan import View
from sdcomp.codegen.weights import Rows
from sdcomp.ir.graph import Node
from sdcomp.passes.fusion.lowering import Context, Group, Lowering, label


def match(root: Node, context: Context) -> Group | None:
    if (
        root.op == "pad"
        and root.operands[0].op == "upsample_nearest"
        and context.is_private(root.operands[0])
    ):
        inner = root.operands[0]
        return Group(root, inner.operands, lambda lowering: _lower_resample(root, inner, lowering))
    if root.op == "gather" and root.operands[0] in context.constants:
        return Group(root, root.operands[1:], lambda lowering: _lower_gather(root, lowering))
    lower = _LOWER.get(root.op)
    return None if lower is None else Group(root, root.operands, lambda lowering: lower(root, lowering))


def _lower_resample(root: Node, upsampled: Node | None, lowering: Lowering) -> None:
    x = lowering.view((upsampled or root).operands[0])
    scale = upsampled.integer("scale") if upsampled else 1
    top, left, bottom, right = root.integers("padding") if root.op == "pad" else (0, 0, 0, 0)
    out = lowering.result(root)
    batches, height, width, channels = x.shape
    kernel = Resample(
        batches, height, width, channels, scale, x.stride, out.stride, (top, left, bottom, right)
    )
    lowering.call(kernel, [x, out], 1, root.op)


def _lower_pad(root: Node, lowering: Lowering) -> None:
    _lower_resample(root, None, lowering)


def _lower_upsample(root: Node, lowering: Lowering) -> None:
    _lower_resample(root, root, lowering)


def _lower_reshape(root: Node, lowering: Lowering) -> None:
    view = lowering.view(root.operands[0])
    if not view.can_reshape(root.shape):
        view = lowering.compact(view, "reshape")
    lowering.alias(root, view.reshaped(root.shape))


def _lower_transpose(root: Node, lowering: Lowering) -> None:
    source, out = lowering.view(root.operands[0]), lowering.result(root)
    strides = tuple(source.strides[axis] for axis in root.integers("permutation"))
    lowering.call(StridedCopy(root.shape, strides, out.strides), [source, out], 1, "transpose")


def _lower_slice(root: Node, lowering: Lowering) -> None:
    source = lowering.view(root.operands[0])
    axis, start = root.integer("axis"), root.integer("start")
    moved = source.offset + start * source.strides[axis]
    if axis in (0, len(root.shape) - 1):
        lowering.alias(root, replace(source, type=root.type, offset=moved))
        return
    out = lowering.result(root)
    kernel = StridedCopy(root.shape, source.strides, out.strides)
    lowering.call(kernel, [replace(source, offset=moved), out], 1, "slice")


def _lower_concat(root: Node, lowering: Lowering) -> None:
    if root in lowering.in_parts:
        return
    out = lowering.result(root)
    at, axis = 0, root.integer("axis")
    for operand in root.operands:
        source = lowering.view(operand)
        part = View(out.buffer, operand.type, out.stride, out.offset + at * out.strides[axis])
        kernel = StridedCopy(operand.shape, source.strides, out.strides)
        lowering.call(kernel, [source, part], 1, "concat")
        at += operand.shape[axis]


def _lower_broadcast(root: Node, lowering: Lowering) -> None:
    source, out = lowering.view(root.operands[0]), lowering.result(root)
    missing = len(root.shape) - len(source.shape)
    extents, strides = (1,) * missing + source.shape, (0,) * missing + source.strides
    repeated = tuple(0 if extent == 1 else stride for extent, stride in zip(extents, strides, strict=True))
    lowering.call(StridedCopy(root.shape, repeated, out.strides), [source, out], 1, "broadcast_to")


def _lower_timestep(root: Node, lowering: Lowering) -> None:
    source, out = lowering.view(root.operands[0]), lowering.result(root)
    kernel = TimestepEmbedding(root.shape[0], root.shape[1], root.number("max_period"), out.stride)
    lowering.call(kernel, [source, out], 1, "timestep_embedding")


def _lower_gather(root: Node, lowering: Lowering) -> None:
    table, indices = root.operands
    out = lowering.result(root)
    kernel = Gather(out.rows, table.shape[0], table.shape[1], table.dtype.value, out.stride)
    lowering.call(
        kernel, [lowering.weight(table, Rows(table.dtype)), lowering.view(indices), out], 2, label(table)
    )


_LOWER = {
    "pad": _lower_pad,
    "upsample_nearest": _lower_upsample,
    "reshape": _lower_reshape,
    "transpose": _lower_transpose,
    "slice": _lower_slice,
    "concat": _lower_concat,
    "broadcast_to": _lower_broadcast,
    "timestep_embedding": _lower_timestep,
}
