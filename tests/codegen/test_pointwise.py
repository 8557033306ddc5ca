"""Trees of pointwise operations with broadcasting, against numpy in f64."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdcomp.codegen.kernels.pointwise import Pointwise
from sdcomp.codegen.targets import Target, resolve
from sdcomp.ir.types import Array
from tests.codegen.case import ROUNDING, Case, Compiled, gapped, isa, random_normal
from tests.codegen.contractions import ACTIVATIONS

Instructions = tuple[tuple[str, float], ...]

ADD: Instructions = (("load", 0), ("load", 1), ("add", 0))
TREE: Instructions = (
    ("load", 0), ("silu", 0), ("load", 1), ("constant", -0.75), ("mul", 0), ("add", 0),
    ("load", 0), ("mul", 0),
)  # fmt: skip


@dataclass(frozen=True)
class Tree:
    """Postfix `program` over operands of the shapes `operands`, which broadcast to `shape`; rows `out_gap`
    apart.
    """

    shape: tuple[int, ...]
    operands: tuple[tuple[int, ...], ...]
    program: Instructions
    out_gap: int = 0


def build(tree: Tree, target: Target) -> Case:
    """Every operation rounds once, an activation a few times; sums may lose a digit to cancellation."""
    operands = [random_normal(n, *shape) for n, shape in enumerate(tree.operands)]
    expected = np.broadcast_to(evaluate(tree.program, [o.astype(np.float64) for o in operands]), tree.shape)
    out = gapped(expected, tree.shape[-1] + tree.out_gap)
    kernel = Pointwise(
        tree.shape,
        tuple(strides(shape, tree.shape) for shape in tree.operands),
        tuple(s // 8 for s in out[..., : tree.shape[-1]].strides),
        tuple((op, float(argument)) for op, argument in tree.program),
    )
    return Case(kernel, operands, len(operands), out, (len(tree.program) + 2) * ROUNDING)


def strides(shape: tuple[int, ...], wide: tuple[int, ...]) -> tuple[int, ...]:
    """Elements between neighbours of a dense array along the axes of `wide`: 0 where it is repeated."""
    full = (1,) * (len(wide) - len(shape)) + shape
    dense = [s // 4 for s in np.empty(full, np.float32).strides]
    return tuple(0 if n == 1 else stride for n, stride in zip(full, dense, strict=True))


def evaluate(program: Instructions, operands: list[Array]) -> Array:
    stack: list[Array] = []
    for op, argument in program:
        if op == "load":
            stack.append(operands[int(argument)])
        elif op == "constant":
            stack.append(np.float64(argument) * np.ones(()))
        elif op in ACTIVATIONS:
            stack.append(ACTIVATIONS[op](torch.from_numpy(np.array(stack.pop()))).numpy())
        else:
            right, left = stack.pop(), stack.pop()
            stack.append(left + right if op == "add" else left * right)
    return stack.pop()


TREES = {
    "one_value": Tree((1,), ((1,), (1,)), ADD),
    "vector": Tree((33,), ((33,), (33,)), ADD),
    "gaps": Tree((3, 17), ((3, 17), (3, 17)), ADD, out_gap=5),
    "column_repeated": Tree((5, 20), ((5, 1), (5, 20)), ADD),
    "row_repeated": Tree((5, 20), ((5, 20), (20,)), ADD),
    "both_repeated": Tree((4, 3, 9), ((4, 1, 9), (3, 1)), ADD),
    "scalar": Tree((7, 65), ((7, 65), (1, 1)), ADD),
    "batch_repeated": Tree((2, 3, 4, 33), ((2, 1, 1, 33), (1, 3, 4, 33)), ADD),
    "several_tiles": Tree((150, 65), ((150, 65), (65,)), TREE, out_gap=2),
    "long_row": Tree((2, 8200), ((2, 8200), (1,)), TREE),
    "tree": Tree((6, 10), ((6, 10), (1, 10)), TREE),
    **{name: Tree((40, 33), ((40, 33),), (("load", 0), (name, 0))) for name in ACTIVATIONS},
}
BUILDS = {name: partial(build, tree) for name, tree in TREES.items()}


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest) -> Compiled:
    return Compiled.once(BUILDS, request.param)


@isa
@pytest.mark.parametrize("name", BUILDS)
def test_pointwise(compiled: Compiled, name: str) -> None:
    compiled.check(name)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Up to rank 4; every operand repeats some axes, and no axis is repeated by all of them."""
    shape = tuple(draw(st.lists(st.integers(1, 20), min_size=1, max_size=4)))
    narrow = tuple(draw(st.sampled_from((1, n))) for n in shape)
    operands = (shape, narrow[draw(st.integers(0, len(shape) - 1)) :])
    program = draw(st.sampled_from((ADD, TREE)))
    return Tree(shape, operands, program, draw(st.integers(0, 3)) if len(shape) > 1 else 0)


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(trees())
def test_any_shape(tree: Tree) -> None:
    Compiled({"it": partial(build, tree)}, resolve("native")).check("it")
