"""Random small graphs over the op table, drawn by hypothesis: what any stage of the compiler must agree on.

Maps [N,H,W,C], tokens [N,T,C] and vectors [N,C] are drawn into a pool, and each step adds an operation on
some of them. Weights are normalised by their fan-in, so that values stay in range.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from sdcomp.ir.graph import Graph, Node
from sdcomp.ir.ops import UNARY, build
from sdcomp.ir.types import DType, Shape

Array = npt.NDArray[Any]

RATES = ("prompt", "step", "eval")
CHANNELS = (4, 8, 12, 20)
VOCABULARY = 11


@st.composite
def random_graphs(draw: st.DrawFn) -> Graph:
    """Valid graphs of up to some twenty operations with up to three outputs."""
    return _Builder(draw).graph()


def random_inputs(graph: Graph) -> dict[str, Array]:
    """Values of the inputs, decided by name and shape: f32, or i32 rows of a table."""
    return {node.text("name"): _values(node) for node in graph.inputs()}


def read_weight(node: Node) -> Array:
    """Values of a weight, decided by name and shape, of the node's type."""
    return _values(node)


def _values(node: Node) -> Array:
    generator = np.random.default_rng(zlib.crc32(f"{node.text('name')} {node.type}".encode()))
    if node.dtype is DType.I32:
        return generator.integers(0, VOCABULARY, node.shape).astype(np.int32)
    values = generator.standard_normal(node.shape)
    if node.op == "weight" and len(node.shape) > 1:
        values /= sqrt(prod(node.shape[1:]))
    if node.text("name").startswith("t."):
        values = 3 * np.abs(values)
    return values.astype(node.dtype.numpy)


@dataclass
class _Builder:
    draw: st.DrawFn
    count: int = 0
    maps: list[Node] = field(default_factory=list)
    tokens: list[Node] = field(default_factory=list)
    vectors: list[Node] = field(default_factory=list)

    def graph(self) -> Graph:
        batch, channels = self.integer(1, 2), self.choice(CHANNELS)
        self.maps.append(self.source((batch, self.integer(2, 6), self.integer(2, 6), channels)))
        self.tokens.append(self.source((batch, self.integer(1, 9), self.choice(CHANNELS))))
        self.vectors.append(self.embedding())
        for _ in range(self.integer(6, 12)):
            maps, tokens = (self.maps, _MAP_STEPS), (self.tokens, _TOKEN_STEPS)
            pool, steps = self.choice((maps, tokens, (self.vectors, _VECTOR_STEPS), maps, tokens))
            self.choice(steps)(self, self.choice(pool[-2:]))
        ends = [pool[-1] for pool in (self.maps, self.tokens, self.vectors) if pool[-1].op != "input"]
        outputs = {f"out{n}": build("silu", self.biased(end)) for n, end in enumerate(ends)}
        return Graph("random", outputs)

    # Draws

    def integer(self, least: int, most: int) -> int:
        return self.draw(st.integers(least, most))

    def choice(self, options: Any) -> Any:
        return options[self.integer(0, len(options) - 1)]

    def number(self) -> str:
        self.count += 1
        return str(self.count)

    def source(self, shape: Shape, name: str = "x", dtype: str = "f32") -> Node:
        rate = self.choice(RATES)
        return build("input", name=f"{name}.{self.number()}", rate=rate, shape=shape, dtype=dtype)

    def weight(self, *shape: int) -> Node:
        dtype = self.choice(("f32", "f32", "f16"))
        return build("weight", name=f"layer{self.number()}.weight", file="model", shape=shape, dtype=dtype)

    def matrix(self, rows: int, columns: int) -> Node:
        """A weight, sometimes with an adapter's Kronecker product."""
        weight = self.weight(rows, columns)
        if self.integer(0, 2) or rows % 2 or columns % 4:
            return weight
        delta = build("kron", self.weight(2, 4), self.weight(rows // 2, columns // 4))
        scale = build("constant", values=(0.5,), shape=(), dtype="f32")
        return build("add", weight, build("mul", scale, delta))

    def biased(self, x: Node) -> Node:
        return build("add", x, self.weight(x.shape[-1]))

    def embedding(self) -> Node:
        t = self.source((self.integer(1, 2),), "t")
        return build("timestep_embedding", t, channels=self.choice(CHANNELS), max_period=10000.0)

    def keep(self, node: Node) -> None:
        pool = {4: self.maps, 3: self.tokens, 2: self.vectors}[len(node.shape)]
        pool.append(node)

    def partner(self, x: Node) -> Node:
        """Something that broadcasts with x: a value of its shape, a vector per channel, or a number."""
        same = [y for y in (*self.maps, *self.tokens, *self.vectors) if y.shape == x.shape]
        constant = build("constant", values=(1.5,), shape=(), dtype="f32")
        return self.choice((*same, self.weight(x.shape[-1]), constant, self.source(x.shape)))


Step = Callable[[_Builder, Node], None]


def _conv(b: _Builder, x: Node) -> None:
    size, stride = b.choice(((1, 1), (3, 1), (3, 2)))
    least = max(0, size - min(x.shape[1:3]))
    padding = tuple(b.integer(least, 2) for _ in range(4)) if size > 1 else (0, 0, 0, 0)
    weight = b.weight(b.choice(CHANNELS), x.shape[3], size, size)
    y = build("conv2d", x, weight, stride=stride, padding=padding)
    b.keep(b.biased(y) if b.integer(0, 1) else y)


def _linear(b: _Builder, x: Node) -> None:
    y = build("matmul", x, b.matrix(b.choice(CHANNELS), x.shape[-1]))
    b.keep(b.biased(y) if b.integer(0, 1) else y)


def _group_norm(b: _Builder, x: Node) -> None:
    channels = x.shape[-1]
    groups = b.choice([g for g in (1, 2, 4) if channels % g == 0])
    b.keep(build("group_norm", x, b.weight(channels), b.weight(channels), groups=groups, eps=1e-5))


def _layer_norm(b: _Builder, x: Node) -> None:
    b.keep(build("layer_norm", x, b.weight(x.shape[-1]), b.weight(x.shape[-1]), eps=1e-5))


def _unary(b: _Builder, x: Node) -> None:
    b.keep(build(b.choice(UNARY), x))


def _binary(b: _Builder, x: Node) -> None:
    pair = (x, b.partner(x))
    b.keep(build(b.choice(("add", "mul")), *(pair if b.integer(0, 1) else pair[::-1])))


def _softmax(b: _Builder, x: Node) -> None:
    b.keep(build("softmax", x))


def _concat(b: _Builder, x: Node) -> None:
    axis = b.integer(1, len(x.shape) - 1)
    shape = list(x.shape)
    shape[axis] = b.choice(CHANNELS) if axis == len(shape) - 1 else b.integer(1, 3)
    b.keep(build("concat", x, b.choice((x, b.source(tuple(shape)))), axis=axis))


def _slice(b: _Builder, x: Node) -> None:
    axis = b.integer(0, len(x.shape) - 1)
    unit = 4 if axis == len(x.shape) - 1 else 1
    start = b.integer(0, x.shape[axis] // unit - 1)
    stop = b.integer(start + 1, x.shape[axis] // unit)
    b.keep(build("slice", x, axis=axis, start=unit * start, stop=unit * stop))


def _pad(b: _Builder, x: Node) -> None:
    b.keep(build("pad", x, padding=tuple(b.integer(0, 2) for _ in range(4))))


def _upsample(b: _Builder, x: Node) -> None:
    b.keep(build("upsample_nearest", x, scale=2))


def _to_tokens(b: _Builder, x: Node) -> None:
    b.keep(build("reshape", x, shape=(x.shape[0], x.shape[1] * x.shape[2], x.shape[3])))


def _to_map(b: _Builder, x: Node) -> None:
    b.keep(build("reshape", x, shape=(x.shape[0], 1, *x.shape[1:])))


def _through_channels_first(b: _Builder, x: Node) -> None:
    first = build("transpose", x, permutation=(0, 3, 1, 2))
    b.keep(build("transpose", build("tanh", first), permutation=(0, 2, 3, 1)))


def _transpose(b: _Builder, x: Node) -> None:
    swapped = build("transpose", x, permutation=(0, 2, 1))
    if x.shape[1] % 4 == 0:
        b.keep(swapped)


def _attention(b: _Builder, x: Node) -> None:
    channels = x.shape[2]
    source = b.choice((x, b.source((b.choice((1, x.shape[0])), b.integer(1, 7), b.choice(CHANNELS)))))
    query, key, value = (
        build("matmul", tokens, b.matrix(channels, tokens.shape[2])) for tokens in (x, source, source)
    )
    heads, causal = b.choice((1, 2, 4)), bool(b.integer(0, 1)) and source is x
    b.keep(build("attention", query, key, value, heads=heads, causal=causal))


def _gated(b: _Builder, x: Node) -> None:
    """GEGLU: the halves of one projection."""
    width = b.choice(CHANNELS)
    both = b.biased(build("matmul", x, b.matrix(2 * width, x.shape[2])))
    value = build("slice", both, axis=2, start=0, stop=width)
    gate = build("slice", both, axis=2, start=width, stop=2 * width)
    b.keep(build("mul", value, build("gelu", gate)))


def _gather(b: _Builder, x: Node) -> None:
    indices = b.source(x.shape[:2], "ids", "i32")
    b.keep(build("gather", b.weight(VOCABULARY, x.shape[2]), indices))


def _add_vector(b: _Builder, x: Node) -> None:
    """A value per channel, as the time embedding enters a residual block."""
    vector = b.choice([v for v in b.vectors if v.shape[0] in (1, x.shape[0])] or [b.source((1, 4))])
    projected = build("matmul", vector, b.matrix(x.shape[3], vector.shape[1]))
    rows = build("reshape", projected, shape=(vector.shape[0], 1, 1, x.shape[3]))
    b.keep(build("add", x, rows))


def _broadcast(b: _Builder, x: Node) -> None:
    if x.shape[0] == 1:
        b.keep(build("broadcast_to", x, shape=(2, *x.shape[1:])))


_SHARED: tuple[Step, ...] = (_linear, _unary, _binary, _slice, _concat)
_MAP_STEPS: tuple[Step, ...] = (
    *_SHARED, _conv, _conv, _group_norm, _pad, _upsample, _to_tokens, _through_channels_first, _add_vector,
    _broadcast,
)  # fmt: skip
_TOKEN_STEPS: tuple[Step, ...] = (
    *_SHARED, _layer_norm, _softmax, _to_map, _transpose, _attention, _gated, _gather, _broadcast,
)  # fmt: skip
_VECTOR_STEPS: tuple[Step, ...] = (*_SHARED, _layer_norm, _broadcast)
