"""Trees of pointwise operations that no other kernel took."""

from sdcomp.codegen.kernels.pointwise import Pointwise
from sdcomp.codegen.plan import View
from sdcomp.ir.graph import Node
from sdcomp.ir.ops import BINARY, POINTWISE
from sdcomp.ir.types import Shape
from sdcomp.passes.fusion.lowering import Context, Group, Lowering


def match(root: Node, context: Context) -> Group | None:
    if root.op not in POINTWISE:
        return None
    leaves: list[Node] = []
    program: list[tuple[str, float]] = []
    _walk(root, root, context, leaves, program)
    values = tuple(leaf for leaf in leaves if leaf not in context.constants)
    return Group(root, values, lambda lowering: _lower(root, tuple(leaves), tuple(program), lowering))


def _walk(
    node: Node, root: Node, context: Context, leaves: list[Node], program: list[tuple[str, float]]
) -> None:
    """Postfix order. A shared node, or one that is not pointwise, is a leaf."""
    inner = node is root or (
        node.op in POINTWISE and context.is_private(node) and node not in context.constants
    )
    if inner:
        for operand in node.operands:
            _walk(operand, root, context, leaves, program)
        program.append((node.op, 0.0))
        return
    values = node.attributes.get("values")
    if node.op == "constant" and isinstance(values, tuple) and len(values) == 1:
        program.append(("constant", float(values[0])))
        return
    if node not in leaves:
        leaves.append(node)
    program.append(("load", float(leaves.index(node))))


def _lower(
    root: Node, leaves: tuple[Node, ...], program: tuple[tuple[str, float], ...], lowering: Lowering
) -> None:
    sources = [lowering.view(leaf) for leaf in leaves]
    out = lowering.result(root)
    shape = root.shape or (1,)
    strides = tuple(_broadcast_strides(source, shape) for source in sources)
    kernel = Pointwise(shape, strides, out.strides or (1,), program)
    arity = {op for op, _ in program}
    lowering.call(kernel, [*sources, out], len(sources), "+".join(sorted(arity & set((*POINTWISE, *BINARY)))))


def _broadcast_strides(view: View, shape: Shape) -> tuple[int, ...]:
    missing = len(shape) - len(view.shape)
    extents, strides = (1,) * missing + view.shape, (0,) * missing + view.strides
    return tuple(0 if e == 1 and s > 1 else t for e, t, s in zip(extents, strides, shape, strict=True))
