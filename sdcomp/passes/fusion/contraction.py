"""matmul and conv2d with what follows them: bias, time embedding, residual, activation, and the gate of
GEGLU; and with what live adapters add to their weights.
"""

from dataclasses import dataclass, field, replace
from math import prod

from sdcomp.codegen.kernels.contraction import Contraction, Geometry, panel_vectors
from sdcomp.codegen.kernels.epilogue import Step
from sdcomp.codegen.kernels.winograd import WinogradConvolution
from sdcomp.codegen.kernels.winograd_input import WinogradInput
from sdcomp.codegen.kernels.winograd_tiles import Normalisation, Part, TileGrid
from sdcomp.codegen.plan import Buffer, View
from sdcomp.codegen.weights import Panels, Vector, matrix_dtype
from sdcomp.errors import PassError
from sdcomp.ir.graph import Node
from sdcomp.passes.fusion import normalisation
from sdcomp.passes.fusion.live import lower_terms
from sdcomp.passes.fusion.lowering import Context, Group, Lowering, label
from sdcomp.passes.fusion.normalisation import GroupNormChain
from sdcomp.passes.live import is_strength, split_live

_ACTIVATIONS = ("silu", "gelu", "quick_gelu", "sigmoid", "tanh")
_ANCHORS = ("matmul", "conv2d", "winograd_output")


@dataclass
class _Chain:
    """An anchor and the epilogue from it to the root, in order of application."""

    anchor: Node
    gated: bool = False
    steps: list[tuple[str, Node | None]] = field(default_factory=list)


def match(root: Node, context: Context) -> Group | None:
    """The largest chain of epilogue steps that ends in `root` and starts at a contraction."""
    chain = _gated(root, context) or _chain(root, root, context)
    if chain is None:
        return None
    weight, terms = split_live(_weight(chain.anchor))
    if weight not in context.constants:
        return None
    values = [node for _, node in chain.steps if node is not None and node not in context.constants]
    values += [term.strength for term in terms]
    return Group(
        root,
        (_source(chain.anchor, context), *values),
        lambda lowering: _lower(root, chain, lowering),
        takes_parts=chain.anchor.op != "conv2d",
    )


def _source(anchor: Node, context: Context) -> Node:
    """The map or matrix that the contraction reads.

    The input transform of Winograd stages normalises a map as it reads it, and finds zeros around it.
    """
    if anchor.op != "winograd_output":
        return anchor.operands[0]
    x, chain = _stages(anchor)[0], _normalised(anchor, context)
    if chain is not None:
        return chain.norm.operands[0]
    return x.operands[0] if x.op == "pad" and normalisation.match(x, context) is None else x


def _normalised(anchor: Node, context: Context) -> GroupNormChain | None:
    """The group norm in front of Winograd stages, if nothing else reads its result."""
    if anchor.op != "winograd_output":
        return None
    x = _stages(anchor)[0]
    return normalisation.group_norm_chain(x, context) if context.is_private(x) else None


def _weight(anchor: Node) -> Node:
    """The matrix or filters, as they are stored."""
    return _stages(anchor)[1] if anchor.op == "winograd_output" else anchor.operands[1]


def _stages(anchor: Node) -> tuple[Node, Node]:
    """The padded map and the plain filters of a chain of Winograd stages, which are one kernel."""
    tiles, filters = anchor.operands[0].operands
    if (anchor.operands[0].op, tiles.op, filters.op) != (
        "winograd_multiply",
        "winograd_input",
        "winograd_filter",
    ):
        raise PassError(f"{label(anchor)}: winograd_output needs the product of a transformed map and filter")
    return tiles.operands[0], filters.operands[0]


def _gated(root: Node, context: Context) -> _Chain | None:
    """value gelu(gate), the two halves of one matmul's columns (Shazeer 2020, GEGLU)."""
    if root.op != "mul" or root.operands[1].op != "gelu" or root.operands[0].op != "slice":
        return None
    value, gate = root.operands[0], root.operands[1].operands[0]
    source = value.operands[0]
    if gate.op != "slice" or gate.operands[0] is not source or len(context.users[source]) != 2:
        return None
    axis, half = len(source.shape) - 1, source.shape[-1] // 2
    spans = [(n.integer("axis"), n.integer("start"), n.integer("stop")) for n in (value, gate)]
    private = all(context.is_private(n) for n in (value, gate, root.operands[1]))
    if spans != [(axis, 0, half), (axis, half, 2 * half)] or not private:
        return None
    chain = _chain(source, source, context)
    if chain is None or chain.gated or any(kind != "bias" for kind, _ in chain.steps):
        return None
    chain.gated = True
    return chain


def _chain(node: Node, root: Node, context: Context) -> _Chain | None:
    """The chain that computes `node`, an inner node of the group unless it is the root."""
    if node is not root and not context.is_private(node):
        return None
    if node.op in _ANCHORS:
        return _Chain(node)
    if node.op in _ACTIVATIONS:
        return _extend(_chain(node.operands[0], root, context), node.op, None)
    if node.op == "reshape" and node.shape[-1:] == node.operands[0].shape[-1:]:
        return _chain(node.operands[0], root, context)
    if node.op == "add":
        return _added(node, root, context)
    if node.op == "mul" and is_strength(node.operands[1]):
        return _extend(_chain(node.operands[0], root, context), "scale", node.operands[1])
    return None


def _extend(chain: _Chain | None, kind: str, operand: Node | None) -> _Chain | None:
    if chain is not None:
        chain.steps.append((kind, operand))
    return chain


def _added(node: Node, root: Node, context: Context) -> _Chain | None:
    """The operand computed last carries the chain; the other is read by the epilogue."""
    for inner, other in sorted(
        (node.operands, node.operands[::-1]), key=lambda pair: -context.position[pair[0]]
    ):
        kind = _added_kind(node, inner, other, context)
        chain = _chain(inner, root, context) if kind and inner not in context.constants else None
        if chain is not None and _same_samples(node, other, chain.anchor):
            return _extend(chain, kind or "", other)
    return None


def _added_kind(node: Node, inner: Node, other: Node, context: Context) -> str | None:
    """How the epilogue reads `other`, or None if it cannot."""
    columns, shape = node.shape[-1], other.shape
    if inner.shape != node.shape or shape[-1:] != (columns,):
        return None
    if other in context.constants:
        return "bias" if prod(shape) == columns else None
    if prod(shape) == columns:
        return "batch_vector"
    if prod(shape) == node.type.elements:
        return "tensor"
    if len(shape) != len(node.shape):
        return None
    if shape[0] == node.shape[0] and prod(shape[1:]) == columns:
        return "batch_vector"
    return "tensor" if shape == (1, *node.shape[1:]) else None


def _same_samples(node: Node, other: Node, anchor: Node) -> bool:
    """Whether the epilogue can tell which part of `other` a row reads.

    An operand that is repeated over samples, or over the rows of each, goes by the kernel's samples: those of
    the product, which a reshape before the sum may have cut otherwise.
    """
    if prod(other.shape) in (node.shape[-1], node.type.elements):
        return True
    return node.shape[0] == (anchor.shape[0] if len(anchor.shape) > 2 else 1)


def _lower(root: Node, chain: _Chain, lowering: Lowering) -> None:
    anchor = chain.anchor
    parts = lowering.parts(_source(anchor, lowering.context))
    weight, terms = split_live(_weight(anchor))
    columns = anchor.shape[-1]
    vectors = panel_vectors(lowering.target, columns, chain.gated)
    width, dtype = vectors * lowering.target.lanes, matrix_dtype(weight, lowering.weights)
    operands: list[View | Buffer] = [parts[0], lowering.weight(weight, Panels(width, dtype, chain.gated))]
    steps, extra = _steps(chain, anchor, width, lowering)
    live, factors = lower_terms(weight, terms, Panels(width, dtype, chain.gated), lowering)
    out = lowering.result(root)
    if not _rows_match(root, anchor):
        raise PassError(f"{label(anchor)}: the fused output {root.type} has other rows than {anchor.type}")
    if anchor.op == "winograd_output":
        winograd = _winograd(anchor, parts, out, dtype.value, steps, vectors, lowering)
        operands += [out, *extra, *factors]
        _call_winograd(replace(winograd, live=live), anchor, operands, parts[1:], lowering)
        return
    geometry, *others = (_geometry(anchor, x) for x in parts)
    kernel = Contraction(
        geometry,
        columns,
        out.stride,
        dtype.value,
        steps,
        chain.gated,
        vectors,
        tile_rows=lowering.target.tile_rows(vectors),
        lanes=lowering.target.lanes,
        live=live,
        others=tuple(others),
    ).tiled(lowering.target)
    lowering.call(kernel, [*operands, out, *extra, *factors, *parts[1:]], 2, label(anchor))


def _call_winograd(
    kernel: WinogradConvolution,
    anchor: Node,
    operands: list[View | Buffer],
    others: list[View],
    lowering: Lowering,
) -> None:
    """The kernel as the target's caches want it, and before it those that prepare what it reads.

    `others` are the parts of the map but the first, which is among the operands.
    """
    kernel = kernel.tiled(lowering.target)
    normalised = _normalised(anchor, lowering.context)
    read: list[View | Buffer] = [normalisation.lower_factors(normalised.norm, lowering)] if normalised else []
    read += others
    if kernel.prepared:
        stage = WinogradInput(kernel.grid)
        tiles = lowering.temporary(stage.bytes)
        lowering.call(stage, [operands[0], tiles, *read], 1, label(anchor))
        operands, read = [tiles, *operands[1:]], []
    lowering.call(kernel, [*operands, *read], 2, label(anchor))


def _winograd(
    anchor: Node,
    parts: list[View],
    out: View,
    dtype: str,
    steps: tuple[Step, ...],
    vectors: int,
    lowering: Lowering,
) -> WinogradConvolution:
    batches, height, width, columns = anchor.shape
    padded, normalised = _stages(anchor)[0], _normalised(anchor, lowering.context)
    source_height, source_width = parts[0].shape[1:3]
    is_bare = padded.shape[1:3] != (source_height, source_width)
    top, left = padded.integers("padding")[:2] if is_bare else (0, 0)
    grid = TileGrid(
        m=anchor.integer("m"),
        scale=anchor.integer("scale"),
        batches=batches,
        height=height,
        width=width,
        source_height=source_height,
        source_width=source_width,
        border=(top, left),
        parts=tuple(Part(x.channels, x.stride) for x in parts),
        lanes=lowering.target.lanes,
        normalisation=Normalisation(normalised.activation) if normalised else None,
    )
    return WinogradConvolution(
        grid, columns, out.stride, dtype, steps, vectors, tile_rows=lowering.target.tile_rows(vectors)
    )


def _rows_match(root: Node, anchor: Node) -> bool:
    return prod(root.shape[:-1]) == prod(anchor.shape[:-1])


def _steps(
    chain: _Chain, anchor: Node, width: int, lowering: Lowering
) -> tuple[tuple[Step, ...], list[View | Buffer]]:
    steps: list[Step] = []
    operands: list[View | Buffer] = []
    for kind, node in chain.steps:
        if node is None:
            steps.append(Step(kind))
        elif kind == "bias":
            steps.append(Step("bias"))
            operands.append(lowering.weight(node, Vector(width, chain.gated)))
        elif kind == "scale":
            steps.append(Step("scale"))
            operands.append(lowering.view(node))
        else:
            view = lowering.view(node)
            stride = 0 if view.type.elements == anchor.shape[-1] else view.stride
            shared = kind == "tensor" and view.type.elements < anchor.type.elements
            steps.append(Step(kind, stride, shared=shared))
            operands.append(view)
    return tuple(steps), operands


def _geometry(anchor: Node, x: View) -> Geometry:
    """Where rows and taps are."""
    if anchor.op == "matmul":
        batches = x.shape[0] if len(x.shape) > 2 else 1
        inner = x.rows // batches
        return Geometry(batches, 1, inner, inner * x.stride, 0, x.stride, (0,), x.channels)
    if any(anchor.integers("padding")):
        raise PassError(f"{label(anchor)}: a convolution must read a padded input; run expose_padding first")
    batches, height, width, channels = x.shape
    kernel_height, kernel_width = anchor.operands[1].shape[2:]
    stride = anchor.integer("stride")
    row = width * x.stride
    taps = tuple(i * row + j * x.stride for i in range(kernel_height) for j in range(kernel_width))
    outer, inner = anchor.shape[1:3]
    return Geometry(batches, outer, inner, height * row, stride * row, stride * x.stride, taps, channels)
