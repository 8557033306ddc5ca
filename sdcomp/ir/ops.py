"""The one table of operations: arity, attributes, shape rule, numpy reference and meaning of each.

The parser, printer, verifier, interpreter, ONNX export and `docs/ir.md` are derived from it. Shape rules are
in `shapes.py`, references in `references.py`, under the same names. Activations are NHWC or (batch, tokens,
channels).
"""

from collections.abc import Callable
from dataclasses import dataclass

from sdcomp.errors import VerifyError
from sdcomp.ir import references, shapes, winograd
from sdcomp.ir.graph import Attribute, Attributes, Node
from sdcomp.ir.types import Array, TensorType

INTEGER, NUMBER, FLAG, TEXT, INTEGERS, NUMBERS = "integer", "number", "flag", "text", "integers", "numbers"

ShapeRule = Callable[[tuple[TensorType, ...], Attributes], TensorType]
Reference = Callable[[tuple[Array, ...], Attributes], Array]


@dataclass(frozen=True)
class Op:
    """One row: what a node of this kind must look like, and what it computes."""

    name: str
    arity: tuple[int, int]
    attributes: dict[str, str]
    infer: ShapeRule
    reference: Reference | None
    meaning: str
    operands: tuple[str, ...] = ("x",)


MANY = 1 << 16
_SOURCE = {"shape": INTEGERS, "dtype": TEXT}
_SPATIAL = {"padding": INTEGERS}
_WINOGRAD = {"m": INTEGER, "scale": INTEGER}


def _unary(name: str, reference: Reference, meaning: str) -> Op:
    return Op(name, (1, 1), {}, shapes.same, reference, meaning)


def _binary(name: str, reference: Reference, meaning: str) -> Op:
    return Op(name, (2, 2), {}, shapes.broadcast, reference, meaning, ("a", "b"))


_TABLE = (
    # Sources
    Op("input", (0, 0), {"name": TEXT, "rate": TEXT, **_SOURCE}, shapes.source, None,
       "a program input that changes at `rate`: prompt, step or eval", ()),
    Op("weight", (0, 0), {"name": TEXT, "file": TEXT, **_SOURCE}, shapes.source, None,
       "the tensor `name` of `file`: `model` for the checkpoint, otherwise an adapter", ()),
    Op("constant", (0, 0), {"values": NUMBERS, **_SOURCE}, shapes.constant, references.constant,
       "a few numbers known at compile time; one value fills the shape", ()),
    # Contractions
    Op("matmul", (2, 2), {}, shapes.matmul, references.matmul,
       "x[..., K] times the transpose of w[N, K]", ("x", "w")),
    Op("conv2d", (2, 2), {"stride": INTEGER, **_SPATIAL}, shapes.conv2d, references.conv2d,
       "x[N,H,W,I] with w[O,I,kh,kw]; zero padding (top, left, bottom, right)", ("x", "w")),
    Op("attention", (3, 3), {"heads": INTEGER, "causal": FLAG}, shapes.attention, references.attention,
       "softmax(q k^T / sqrt(channels / heads)) v per head; q[B,T,C], k[B,S,C], v[B,S,C]; batch 1 serves all",
       ("q", "k", "v")),
    Op("kron", (2, 2), {}, shapes.kron, references.kron,
       "Kronecker product, axis by axis; the operand of lower rank is viewed with trailing axes of 1",
       ("a", "b")),
    # Winograd stages of a 3x3 convolution of a map, or of one upsampled `scale` times: F(m x m, 3 x 3)
    Op("winograd_filter", (1, 1), _WINOGRAD, winograd.filter_shape, winograd.filter_reference,
       "G g G^T of every filter of w[O,I,3,3]: [n^2,O,I]", ("w",)),
    Op("winograd_input", (1, 1), _WINOGRAD, winograd.input_shape, winograd.input_reference,
       "B^T d B of every tile of the padded map x[N,H,W,C], not yet upsampled: [n^2,tiles,C]"),
    Op("winograd_multiply", (2, 2), {}, winograd.multiply_shape, winograd.multiply_reference,
       "v[s] times the transpose of u[s], for each s", ("v", "u")),
    Op("winograd_output", (1, 1), {**_WINOGRAD, "shape": INTEGERS}, winograd.output_shape,
       winograd.output_reference, "A^T m A of every tile, as a map of `shape` [N,H,W,O]", ("m",)),
    # Normalisation
    Op("group_norm", (3, 3), {"groups": INTEGER, "eps": NUMBER}, shapes.same, references.group_norm,
       "per sample and group of channels to mean 0 and variance 1, then gamma, beta", ("x", "gamma", "beta")),
    Op("layer_norm", (3, 3), {"eps": NUMBER}, shapes.same, references.layer_norm,
       "per row to mean 0 and variance 1, then gamma, beta", ("x", "gamma", "beta")),
    Op("softmax", (1, 1), {}, shapes.same, references.softmax, "exp(x) over its sum along the last axis"),
    # Pointwise, with numpy broadcasting
    _binary("add", references.add, "a + b"),
    _binary("mul", references.mul, "a b"),
    _unary("silu", references.silu, "x sigmoid(x)"),
    _unary("gelu", references.gelu, "x Phi(x), Phi the exact normal distribution function"),
    _unary("quick_gelu", references.quick_gelu, "x sigmoid(1.702 x)"),
    _unary("sigmoid", references.sigmoid, "1 / (1 + exp(-x))"),
    _unary("tanh", references.tanh, "hyperbolic tangent"),
    # Movement
    Op("reshape", (1, 1), {"shape": INTEGERS}, shapes.reshape, references.reshape,
       "the same elements in row-major order"),
    Op("transpose", (1, 1), {"permutation": INTEGERS}, shapes.transpose, references.transpose,
       "axes in another order"),
    Op("concat", (1, MANY), {"axis": INTEGER}, shapes.concat, references.concat,
       "operands one after the other"),
    Op("slice", (1, 1), {"axis": INTEGER, "start": INTEGER, "stop": INTEGER}, shapes.slice_,
       references.slice_, "elements start to stop of one axis"),
    Op("broadcast_to", (1, 1), {"shape": INTEGERS}, shapes.broadcast_to, references.broadcast_to,
       "axes of 1 repeated"),
    Op("upsample_nearest", (1, 1), {"scale": INTEGER}, shapes.upsample_nearest,
       references.upsample_nearest, "each pixel of x[N,H,W,C] repeated scale x scale times"),
    Op("pad", (1, 1), _SPATIAL, shapes.pad, references.pad,
       "zeros around x[N,H,W,C]: (top, left, bottom, right)"),
    Op("gather", (2, 2), {}, shapes.gather, references.gather,
       "rows of table[V,C] by i32 indices", ("table", "indices")),
    Op("cast", (1, 1), {"dtype": TEXT}, shapes.cast, references.cast,
       "another element type, rounded to nearest even"),
    # Of weight expressions only: evaluated when the model is built, no kernel computes them
    _binary("div", references.div, "a / b"),
    _binary("minimum", references.minimum, "the smaller of a and b"),
    Op("norm", (1, 1), {"axes": INTEGERS}, shapes.norm, references.norm,
       "Euclidean norm over `axes`, which stay as axes of 1"),
    Op("block_matmul", (2, 2), {}, shapes.block_matmul, references.block_matmul,
       "x[B,M,K] times the transpose of w[B,N,K], block by block; one block serves all", ("x", "w")),
    Op("skew", (1, 1), {}, shapes.skew, references.skew,
       "x[B,n(n-1)/2] as skew-symmetric matrices [B,n,n]: x is what stands above the diagonal, row by row"),
    Op("cayley", (1, 1), {}, shapes.cayley, references.cayley,
       "(I + q)(I - q)^-1 of every matrix of q[B,n,n]", ("q",)),
    # Others
    Op("timestep_embedding", (1, 1), {"channels": INTEGER, "max_period": NUMBER}, shapes.timestep_embedding,
       references.timestep_embedding,
       "[cos(t f), sin(t f)] with f_i = max_period^(-2i/channels), t[B] to [B,channels]", ("t",)),
)  # fmt: skip

OPS: dict[str, Op] = {op.name: op for op in _TABLE}

UNARY = ("silu", "gelu", "quick_gelu", "sigmoid", "tanh")
BINARY = ("add", "mul")
POINTWISE = UNARY + BINARY
SOURCES = ("input", "weight", "constant")


def build(op: str, /, *operands: Node, **attributes: Attribute) -> Node:
    """A node of the table's `op`, its type inferred.

    Raises VerifyError where the op is unknown or an operand or attribute does not fit, naming what was
    expected.
    """
    row = OPS.get(op)
    if row is None:
        raise VerifyError(f"{op}: no such operation; known are {', '.join(OPS)}")
    least, most = row.arity
    if not least <= len(operands) <= most:
        raise VerifyError(f"{op}: takes {least} operand{'s' * (least != 1)}, got {len(operands)}")
    if set(attributes) != set(row.attributes):
        raise VerifyError(f"{op}: attributes must be {sorted(row.attributes)}, got {sorted(attributes)}")
    for name, kind in row.attributes.items():
        if not _fits(attributes[name], kind):
            raise VerifyError(f"{op}: attribute {name} must be of kind {kind}, got {attributes[name]!r}")
    return Node(op, operands, attributes, row.infer(tuple(operand.type for operand in operands), attributes))


def _fits(value: Attribute, kind: str) -> bool:
    if kind == INTEGERS:
        return isinstance(value, tuple) and all(isinstance(v, int) for v in value)
    if kind == NUMBERS:
        return isinstance(value, tuple) and all(isinstance(v, int | float) for v in value)
    if kind == FLAG:
        return isinstance(value, bool)
    types = {INTEGER: int, NUMBER: (int, float), TEXT: str}[kind]
    return isinstance(value, types) and not isinstance(value, bool)  # type: ignore[arg-type]
