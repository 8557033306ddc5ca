"""Live adapters in compiled kernels: against dense weights in f64, with strength 0 the bits of the base."""

import numpy as np
import pytest

from sdcomp.codegen.costs import shipped_costs
from sdcomp.codegen.kernels.contraction import Contraction
from sdcomp.codegen.kernels.winograd import WinogradConvolution
from sdcomp.codegen.module import emit_objects, name_kernels
from sdcomp.codegen.targets import TARGETS, Target, resolve
from sdcomp.codegen.weights import InnerFactor, OuterFactor
from sdcomp.ir.graph import Graph, Node
from sdcomp.ir.ops import build
from sdcomp.ir.types import Array
from sdcomp.passes.expose_padding import ExposePadding
from sdcomp.passes.fold_kronecker import FoldKronecker
from sdcomp.passes.fold_upsample import FoldUpsample
from sdcomp.passes.fuse_kernels import FuseKernels
from sdcomp.passes.live import split_live
from sdcomp.passes.rewrite_winograd import RewriteWinograd
from tests.codegen.jit import run_programs, runnable_targets
from tests.differential.compare import compiled, errors, random_inputs, reference, stored_weight
from tests.passes.graphs import error, module, source, weight
from tests.passes.test_order_factors import kron, live, product

NATIVE = resolve("native")

TOLERANCE = 3e-6
"""Sums of some hundred products in f32; Winograd's transforms amplify their roundings."""

ROWS = 300
"""Enough for the order into the weights, in several tiles."""


def linear(delta: Node, *more: Node, rows: int = ROWS, dtype: str = "f32") -> Node:
    base = weight("layer.weight", delta.shape, dtype=dtype)
    return build("matmul", source("x", (1, rows, delta.shape[1])), live(base, delta, *more))


def biased(node: Node) -> Node:
    return build("add", node, weight("layer.bias", node.shape[-1:]))


def gated(delta: Node) -> Node:
    both = biased(linear(delta))
    half, axis = both.shape[-1] // 2, len(both.shape) - 1
    value, gate = (build("slice", both, axis=axis, start=start, stop=start + half) for start in (0, half))
    return build("mul", value, build("gelu", gate))


def residual(delta: Node) -> Node:
    node = biased(linear(delta))
    return build("silu", build("add", node, source("residual", node.shape)))


def convolution(delta: Node, stride: int = 1, size: int = 20) -> Node:
    base = weight("layer.weight", delta.shape)
    x = source("x", (1, size, size, delta.shape[1]))
    return biased(build("conv2d", x, live(base, delta), stride=stride, padding=(1, 1, 1, 1)))


def upsampled(delta: Node) -> Node:
    """A 3x3 convolution of a map that is upsampled before."""
    x = build("upsample_nearest", source("x", (1, 16, 16, delta.shape[1])), scale=2)
    base = weight("layer.weight", delta.shape)
    return biased(build("conv2d", x, live(base, delta), stride=1, padding=(1, 1, 1, 1)))


def rows_of(delta: Node, start: int, total: int) -> Node:
    """Rows of a weight that has `total`, zeros elsewhere."""
    zeros = [(start, delta.shape[1]), (total - start - delta.shape[0], delta.shape[1])]
    before, after = (build("constant", values=(0.0,), shape=shape, dtype="f32") for shape in zeros)
    return build("concat", before, delta, after, axis=0)


CASES = {
    "blocks of whole vectors": linear(kron((4, 4), (32, 16))),
    "blocks across vectors": linear(kron((8, 8), (40, 40))),
    "blocks within a vector": linear(kron((5, 3), (3, 7))),
    "one column per block": linear(kron((48, 2), (1, 5))),
    "one block": linear(kron((1, 1), (33, 20))),
    "low-rank factor": linear(kron((4, 4), (10, 12), rank=3)),
    "half weights": linear(kron((8, 8), (40, 40)), dtype="f16"),
    "deep, in several blocks of depth": linear(kron((2, 6), (9, 250))),
    "two adapters": linear(kron((4, 4), (10, 12)), kron((8, 3), (5, 16))),
    "with LoRA": linear(kron((4, 4), (10, 12)), product("lora", 40, 3, 48)),
    "LoRA alone": biased(linear(product("lora", 40, 3, 48))),
    "few rows": linear(kron((8, 8), (40, 40)), rows=1),
    "few rows, low rank": linear(kron((8, 8), (10, 40), rank=2), rows=2),
    "gate": gated(kron((8, 8), (40, 12))),
    "gate with LoRA": gated(product("lora", 64, 3, 24)),
    "bias, residual, activation": residual(kron((8, 8), (5, 12))),
    "rows of a larger weight": linear(rows_of(kron((4, 4), (5, 8)), 20, 60)),
    "rows that begin within a block": linear(rows_of(kron((4, 4), (5, 8)), 3, 60)),
    "rows of two adapters": linear(
        rows_of(kron((4, 4), (5, 8)), 20, 60), rows_of(kron((8, 4), (4, 8)), 13, 60)
    ),
    "LoRA of rows": linear(rows_of(product("lora", 20, 2, 32), 20, 60)),
    "winograd": convolution(kron((4, 4), (12, 16), kernel=(3, 3))),
    "winograd, in several blocks of depth": convolution(kron((8, 8), (5, 20), kernel=(3, 3)), size=9),
    "winograd of an upsampled map": upsampled(kron((8, 8), (8, 8), kernel=(3, 3))),
    "direct convolution": convolution(kron((4, 4), (12, 16), kernel=(3, 3)), stride=2),
    "narrow convolution": convolution(kron((3, 2), (4, 2), kernel=(3, 3))),
    "LoCon": convolution(build("reshape", product("lora", 48, 3, 32 * 9), shape=(48, 32, 3, 3)), size=7),
}


def lowered(node: Node, target: Target = NATIVE) -> Graph:
    """After the passes that a build would apply."""
    made = FoldKronecker().apply(module(y=node))
    costs = shipped_costs(target)
    for step in (FoldUpsample(costs), RewriteWinograd(costs), ExposePadding()):
        made = step.apply(made)
    return made.graphs[0]


@pytest.mark.parametrize("name", CASES)
def test_values(name: str) -> None:
    graph = lowered(CASES[name])
    assert max(errors([graph], random_inputs([graph])).values()) <= TOLERANCE


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_other_targets(target: Target) -> None:
    """Widths of vectors differ: the same values where this machine runs them, else code that compiles."""
    names = ("blocks across vectors", "gate", "rows of two adapters", "winograd", "direct convolution")
    for graph in (lowered(CASES[name], target) for name in names):
        program = FuseKernels(target, "f32").lower(graph)
        if target not in runnable_targets():
            assert emit_objects(name_kernels([program]), target)
            continue
        inputs = random_inputs([graph])
        found = run_programs([program], target, inputs, stored_weight)["y"]
        expected = reference([graph], inputs, lambda node: stored_weight(node).astype(np.float64))["y"]
        assert error(found, expected) <= TOLERANCE


def _base(node: Node) -> Node:
    """The same computation without live terms."""
    operands = tuple(_base(split_live(operand)[0]) for operand in node.operands)
    return build(node.op, *operands, **dict(node.attributes))


@pytest.mark.parametrize("name", CASES)
def test_strength_zero_has_the_bits_of_the_base(name: str) -> None:
    graph = lowered(CASES[name])
    inputs = random_inputs([graph])
    inputs["strengths"] = np.zeros_like(inputs["strengths"])
    found = compiled([graph], inputs, stored_weight, "f32")["y"]
    del inputs["strengths"]
    expected = compiled([lowered(_base(CASES[name]))], inputs, stored_weight, "f32")["y"]
    np.testing.assert_array_equal(found, expected)


def test_fused_kernels_are_those_of_the_base() -> None:
    """The order into the weights adds no kernel: same kinds, same tiles."""
    fuse = FuseKernels(NATIVE, "f32")
    for name in ("gate", "bias, residual, activation", "winograd"):
        found, base = (fuse.lower(lowered(node)).calls for node in (CASES[name], _base(CASES[name])))
        assert [(c.kernel.kind, c.kernel.tiles) for c in found] == [
            (c.kernel.kind, c.kernel.tiles) for c in base
        ]
        live = [c.kernel for c in found if isinstance(c.kernel, Contraction | WinogradConvolution)]
        assert all(kernel.live for kernel in live)


def test_packed_factors() -> None:
    """Every column of a panel has its row of w1, and a vector may start at any column of w2."""
    outer: Array = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    packed = OuterFactor(width=4, gated=False, repeats=3, start=1, columns=8).pack(outer)
    by_column = packed.reshape(2, 2, 4).transpose(0, 2, 1).reshape(8, 2)
    assert by_column[:, 0].tolist() == [0, 1, 1, 1, 3, 3, 3, 0]
    inner = np.arange(12, dtype=np.float32).reshape(3, 4)
    cycled = InnerFactor(taps=2, lanes=4).pack(inner)
    assert cycled.shape == (2, 2, 7)
    assert cycled[1, 0].tolist() == [1, 5, 9, 1, 5, 9, 1]
    for layout, shape, array in (
        (OuterFactor(4, False, 3, 1, 8), (2, 2), packed),
        (InnerFactor(2, 4), (3, 4), cycled),
    ):
        assert layout.bytes(shape) == array.nbytes
