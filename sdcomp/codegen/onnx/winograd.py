"""The Winograd stages in standard operators: a transform along two axes is one product with a Kronecker
product of its matrix with itself.
"""

import numpy as np

from sdcomp.codegen.onnx.emitter import Emitter
from sdcomp.ir.graph import Node
from sdcomp.ir.types import Array
from sdcomp.winograd.matrices import Matrix, Transform, floats, transform


def lower_filter(node: Node, emit: Emitter) -> None:
    """[n^2, 9] times the filters as columns."""
    w = node.operands[0]
    matrix = emit.numbers(_both_axes(_transform(node).filter))
    flat = emit.add(node, "Reshape", emit.number(w), emit.integers((w.shape[0] * w.shape[1], -1)))
    columns = emit.add(node, "Transpose", flat, perm=(1, 0))
    spread = emit.add(node, "MatMul", matrix, columns)
    emit.define(node, emit.add(node, "Reshape", spread, emit.integers(node.shape)))


def lower_input(node: Node, emit: Emitter) -> None:
    """A convolution of every channel on its own, whose n^2 filters are the transform's."""
    (x,), matrices = node.operands, _transform(node)
    (batch, height, width, channels), step, t = x.shape, matrices.step, matrices.inputs
    rows, columns = (height - 2) // step, (width - 2) // step
    filters = _both_axes(matrices.input).reshape(matrices.planes, 1, t, t)
    alone = emit.add(
        node, "Reshape", emit.number(x, True), emit.integers((batch * channels, 1, height, width))
    )
    spread = emit.add(node, "Conv", alone, emit.numbers(filters), kernel_shape=(t, t), strides=(step, step))
    split = emit.add(
        node, "Reshape", spread, emit.integers((batch, channels, matrices.planes, rows * columns))
    )
    ordered = emit.add(node, "Transpose", split, perm=(2, 0, 3, 1))
    emit.define(node, emit.add(node, "Reshape", ordered, emit.integers(node.shape)))


def lower_multiply(node: Node, emit: Emitter) -> None:
    v, u = map(emit.number, node.operands)
    turned = emit.add(node, "Transpose", u, perm=(0, 2, 1))
    emit.define(node, emit.add(node, "MatMul", v, turned))


def lower_output(node: Node, emit: Emitter) -> None:
    """[m^2, n^2] times the products, then tiles side by side, cut to the map's size."""
    m, (batch, height, width, channels), matrices = node.integer("m"), node.shape, _transform(node)
    rows, columns = -(-height // m), -(-width // m)
    matrix = emit.numbers(_both_axes(matrices.output))
    tiles = emit.number(node.operands[0])
    flat = emit.add(node, "Reshape", tiles, emit.integers((matrices.planes, -1)))
    product = emit.add(node, "MatMul", matrix, flat)
    split = emit.add(node, "Reshape", product, emit.integers((m, m, batch, rows, columns, channels)))
    beside = emit.add(node, "Transpose", split, perm=(2, 3, 0, 4, 1, 5))
    whole = emit.add(node, "Reshape", beside, emit.integers((batch, rows * m, columns * m, channels)))
    bounds = (emit.integers(values) for values in ((0, 0), (height, width), (1, 2)))
    emit.define(node, emit.add(node, "Slice", whole, *bounds))


def _transform(node: Node) -> Transform:
    return transform(node.integer("m"), node.integer("scale"))


def _both_axes(matrix: Matrix) -> Array:
    one = np.array(floats(matrix))
    return np.kron(one, one).astype(np.float32)
