"""Fingerprints: the same for the same computation, whoever built it; another one for any other."""

import pytest

from sdcomp.ir.fingerprint import fingerprints
from sdcomp.ir.graph import Node
from sdcomp.ir.ops import build
from tests.passes.graphs import source, weight


def projected(name: str = "w", rows: int = 3, other: str = "x") -> Node:
    product = build("matmul", source("x", (2, 4)), weight(name, (rows, 4)))
    gate = build("softmax", build("matmul", source(other, (2, 4)), weight("v", (rows, 4))))
    return build("mul", product, gate)


def fingerprint(node: Node) -> str:
    return fingerprints([node])[node]


def test_equal_structures_agree() -> None:
    assert fingerprint(projected()) == fingerprint(projected())


@pytest.mark.parametrize(
    "changed",
    [
        projected(name="u"),
        projected(rows=5),
        projected(other="y"),
        build("transpose", projected(), permutation=(0, 1)),
        build("transpose", projected(), permutation=(1, 0)),
        projected().operands[0],
    ],
)
def test_every_part_counts(changed: Node) -> None:
    assert fingerprint(changed) != fingerprint(projected())


def test_different_attributes_differ() -> None:
    found = {fingerprint(build("transpose", projected(), permutation=order)) for order in ((0, 1), (1, 0))}
    assert len(found) == 2


def test_shared_nodes_count_as_what_they_compute() -> None:
    x = source("x", (2,))
    twice = build("add", x, x)
    apart = build("add", source("x", (2,)), source("x", (2,)))
    assert fingerprint(twice) == fingerprint(apart)
    assert set(fingerprints([twice, apart])) == {twice, apart, x, *apart.operands}
