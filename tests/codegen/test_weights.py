"""Layouts of the payload: every element where its kernel looks for it, and as many bytes as are reserved."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdcomp.codegen.weights import Layout, PackedWeight, Panels, Rows, Vector
from sdcomp.ir.types import DType
from tests.codegen.case import random_normal
from tests.passes.graphs import weight

SHAPES = ((1, 1), (3, 5), (16, 4), (33, 7), (5, 3, 3, 3), (17, 2, 1, 1))


@pytest.mark.parametrize("dtype", [DType.F16, DType.F32])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_panels(shape: tuple[int, ...], dtype: DType) -> None:
    """[panel][tap][depth][column of the panel], zeros in columns that do not exist."""
    width, array = 16, random_normal(0, *shape)
    packed = Panels(width, dtype, False).pack(array)
    taps = array.reshape(shape[0], shape[1], -1)
    assert packed.shape == (-(-shape[0] // width), taps.shape[2], shape[1], width)
    assert packed.dtype == dtype.numpy
    for column in range(packed.shape[0] * width):
        found = packed[column // width, :, :, column % width]
        expected = taps[column].T if column < shape[0] else np.zeros_like(found)
        np.testing.assert_array_equal(found, expected.astype(dtype.numpy))


@pytest.mark.parametrize("half", [1, 8, 9, 33])
def test_gated_panels_pair_values_with_gates(half: int) -> None:
    """A panel holds half as many values, then the gate of each."""
    width, array = 16, random_normal(0, 2 * half, 3)
    packed = Panels(width, DType.F32, True).pack(array)
    for column in range(half):
        panel, place = divmod(column, width // 2)
        np.testing.assert_array_equal(packed[panel, 0, :, place], array[column])
        np.testing.assert_array_equal(packed[panel, 0, :, place + width // 2], array[half + column])


def test_vectors_follow_their_panels() -> None:
    values = np.arange(20, dtype=np.float32)
    np.testing.assert_array_equal(Vector(16, False).pack(values).ravel(), [*values, *[0.0] * 12])
    gated = Vector(8, True).pack(values).ravel()
    np.testing.assert_array_equal(gated[:8], [0, 1, 2, 3, 10, 11, 12, 13])


def test_rows_are_as_they_are() -> None:
    array = random_normal(0, 4, 5).T
    packed = Rows(DType.F16).pack(array)
    np.testing.assert_array_equal(packed, array.astype(np.float16))
    assert packed.flags.c_contiguous


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    shape=st.sampled_from((*SHAPES, (4,), (40,), (1, 40), (1, 1, 6), (2, 20))),
    layout=st.sampled_from(
        (
            Panels(16, DType.F16, False),
            Panels(8, DType.F32, False),
            Vector(16, False),
            Rows(DType.F32),
            Rows(DType.F16),
        )
    ),
)
def test_reserved_bytes_are_those_packed(shape: tuple[int, ...], layout: Layout) -> None:
    """Also for a bias with leading axes of 1."""
    if isinstance(layout, Panels) and len(shape) < 2:
        return
    packed = layout.pack(random_normal(0, *shape))
    assert PackedWeight(weight("w", shape), layout).bytes == packed.nbytes
