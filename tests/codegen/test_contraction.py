"""Matrix products and convolutions with every epilogue, against torch in f64."""

from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdcomp.codegen.targets import resolve
from tests.codegen.case import Compiled, isa
from tests.codegen.contractions import ACTIVATIONS, Shape, build

EPILOGUES: tuple[tuple[str, ...], ...] = (
    ("bias",),
    ("batch_vector",),
    ("batch_vector_1",),
    ("tensor",),
    ("shared",),
    *((name,) for name in ACTIVATIONS),
    ("bias", "batch_vector", "silu"),
    ("bias", "tensor"),
    ("bias", "shared", "tensor", "gelu"),
)

SHAPES = {
    # rows, columns and depth around the sizes of tiles and panels, in one tile
    "one_element": Shape(1, 1, 1),
    "one_row": Shape(1, 36, 33),
    "one_column": Shape(37, 36, 1),
    "three_columns": Shape(14, 3, 3, dtype="f16"),
    "four_columns": Shape(13, 320, 4, dtype="f16"),
    "odd_panel": Shape(7, 36, 33, dtype="f16"),
    "two_odd_panels": Shape(29, 36, 65, dtype="f16", x_gap=5, out_gap=3),
    "depth_1": Shape(8, 1, 65, dtype="f16"),
    "deep": Shape(5, 320, 64),
    # several tiles and blocks of depth, none of them whole
    "many_tiles": Shape(61, 36, 65, dtype="f16", steps=("bias", "silu"), blocks=(2, 1, 7)),
    "many_tiles_f32": Shape(61, 36, 65, steps=("bias", "tensor"), blocks=(3, 2, 5), out_gap=1),
    "batches": Shape(11, 36, 33, batch=2, dtype="f16", steps=("bias",), blocks=(1, 1, 36)),
    # convolutions
    "conv3x3": Shape(7, 3, 33, height=5, kernel=3, padding=(1, 1, 1, 1), dtype="f16", steps=("bias",)),
    "conv3x3_few": Shape(9, 36, 4, batch=2, height=4, kernel=3, padding=(1, 1, 1, 1)),
    "conv3x3_tiles": Shape(
        17, 8, 65, batch=2, height=6, kernel=3, padding=(1, 1, 1, 1), dtype="f16", blocks=(4, 1, 3), x_gap=4,
        steps=("bias", "batch_vector", "tensor", "silu"),
    ),
    "stride2": Shape(10, 5, 33, height=8, kernel=3, stride=2, padding=(1, 1, 1, 1)),
    "stride2_asymmetric": Shape(
        10, 5, 33, batch=2, height=8, kernel=3, stride=2, padding=(0, 0, 1, 1), dtype="f16", steps=("bias",)
    ),
    "uneven_padding": Shape(6, 4, 16, height=3, kernel=2, padding=(2, 0, 1, 3)),
    "parts": Shape(29, 80, 65, dtype="f16", x_gap=5, out_gap=3, split=(16, 64)),
    "parts_tiles": Shape(
        61, 96, 130, batch=2, height=2, steps=("bias", "tensor"), blocks=(2, 2, 20), split=(32,)
    ),
    "conv1x1": Shape(9, 33, 12, batch=2, height=3, steps=("tensor",)),
    # GEGLU: value and gate in one panel
    "gated": Shape(19, 36, 2 * 65, dtype="f16", steps=("bias",), gated=True),
    "gated_small": Shape(3, 4, 2 * 3, gated=True, out_gap=2),
    "gated_tiles": Shape(40, 36, 2 * 96, batch=2, steps=("bias",), gated=True, blocks=(2, 1, 9)),
}  # fmt: skip
EPILOGUE_SHAPES = {"+".join(steps): Shape(15, 6, 33, batch=2, steps=steps) for steps in EPILOGUES}

BUILDS = {name: partial(build, shape) for name, shape in (SHAPES | EPILOGUE_SHAPES).items()}


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest) -> Compiled:
    return Compiled.once(BUILDS, request.param)


@isa
@pytest.mark.parametrize("name", BUILDS)
def test_contraction(compiled: Compiled, name: str) -> None:
    compiled.check(name)


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(
    width=st.integers(1, 40),
    depth=st.integers(1, 40),
    columns=st.integers(1, 70),
    batch=st.integers(1, 2),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    dtype=st.sampled_from(("f16", "f32")),
    steps=st.sampled_from(EPILOGUES),
    blocks=st.none() | st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 40)),
)
def test_any_shape(
    width: int, depth: int, columns: int, batch: int, kernel: int, stride: int, dtype: str,
    steps: tuple[str, ...], blocks: tuple[int, int, int] | None,
) -> None:  # fmt: skip
    margin = kernel // 2
    shape = Shape(
        width, depth, columns, batch, height=3, kernel=kernel, stride=stride, dtype=dtype, steps=steps,
        padding=(margin, margin, kernel - 1 - margin, kernel - 1 - margin),
        blocks=blocks and (blocks[0], blocks[1], min(blocks[2], depth)),
    )  # fmt: skip
    Compiled({"it": partial(build, shape)}, resolve("native")).check("it")


def test_tiling_covers_every_row_and_panel_once() -> None:
    """Blocks that the target's caches choose partition the work, also where they do not divide it."""
    for shape in SHAPES.values():
        kernel = build(shape, resolve("native")).kernel
        assert kernel.tiles >= 1
        assert kernel.multiplies == build(shape, resolve("x86-64-v3")).kernel.multiplies
