"""Evaluation by blocks of rows: the same values as in one piece, however rows are cut."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdcomp.ir.graph import Node
from sdcomp.ir.interpret import evaluate
from sdcomp.ir.ops import build
from sdcomp.ir.rows import evaluate_rows
from tests.passes.graphs import Array, number, random_array, weight

W = weight("w", (12, 10), dtype="f16")
KERNEL = weight("kernel", (12, 10, 3, 2))
UP, DOWN = weight("up", (12, 3)), weight("down", (10, 3), dtype="f16")
FIRST, SECOND = weight("first", (3, 2), dtype="f16"), weight("second", (4, 5))
LENGTHS = weight("lengths", (12, 1))


def norm(node: Node, *axes: int) -> Node:
    return build("norm", node, axes=axes)


def turned(node: Node, *permutation: int) -> Node:
    return build("transpose", node, permutation=permutation)


KRON = build("kron", FIRST, SECOND)
SUM = build("add", W, build("mul", number(0.5), KRON))
CASES: dict[str, Node] = {
    "weight": W,
    "sum": SUM,
    "scalar from the right": build("mul", W, number(2)),
    "one row for all": build("mul", W, weight("row", (1, 10))),
    "one value per row": build("mul", W, LENGTHS),
    "vector for all rows": build("add", W, weight("vector", (10,))),
    "vector of rows": build("add", weight("bias", (12,)), weight("difference", (12,))),
    "matmul": build("matmul", UP, DOWN),
    "of three axes": build("matmul", weight("x", (4, 5, 3)), DOWN),
    "kron with kernel": build("kron", FIRST, weight("cube", (4, 5, 3, 2))),
    "kron of a vector and a matrix": build("kron", weight("v", (3,)), SECOND),
    "reshape of a kron": build("add", KERNEL, build("reshape", build("kron", FIRST, weight("flat", (4, 30))),
                                                    shape=KERNEL.shape)),
    "reshape across rows": build("reshape", build("mul", UP, UP), shape=(9, 4)),
    "norm per row": build("div", SUM, norm(SUM, 1)),
    "norm per column": build("div", SUM, norm(SUM, 0)),
    "rows stay rows": turned(build("matmul", turned(KERNEL, 0, 2, 3, 1), weight("a", (2, 10))), 0, 3, 1, 2),
    "rows become columns": turned(build("mul", DOWN, DOWN), 1, 0),
    "cast": build("cast", build("cast", SUM, dtype="f16"), dtype="f32"),
    "minimum": build("minimum", SUM, number(0)),
    "joined rows": build("concat", SUM, build("mul", LENGTHS, SUM), SUM, axis=0),
    "joined columns": build("concat", SUM, SUM, axis=1),
}  # fmt: skip


def read(node: Node) -> Array:
    return random_array(node).astype(node.dtype.numpy)


@pytest.mark.parametrize("block", [1, 30, 70, 1000])
@pytest.mark.parametrize("case", CASES)
def test_blocks_are_the_rows_of_the_whole(case: str, block: int) -> None:
    node = CASES[case]
    starts, blocks = zip(
        *((start, rows.copy()) for start, rows in evaluate_rows(node, read, block)), strict=True
    )
    expected = evaluate(node, read)
    assert list(starts) == list(np.cumsum([0, *map(len, blocks)])[:-1])
    assert max(rows.size for rows in blocks) <= max(block, expected[0].size)
    found = np.concatenate(blocks)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


SIDE = st.integers(1, 5)


@given(st.tuples(SIDE, SIDE, SIDE, SIDE), st.integers(1, 60))
@settings(max_examples=100, deadline=None)
def test_kron_may_be_cut_anywhere(sides: tuple[int, int, int, int], block: int) -> None:
    l, m, k, n = sides
    a, b = weight("a", (l, m)), weight("b", (k, n))
    blocks = [rows for _, rows in evaluate_rows(build("kron", a, b), read, block)]
    np.testing.assert_array_equal(np.concatenate(blocks), np.kron(read(a), read(b)))


def test_tensors_are_read_once() -> None:
    reads: list[str] = []

    def counted(node: Node) -> Any:
        reads.append(node.text("name"))
        return read(node)

    assert len(list(evaluate_rows(SUM, counted, 1))) == 12
    assert sorted(reads) == ["first", "second", "w"]
