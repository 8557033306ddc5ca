"""The identity y = A^T [(G g) * (B^T d)], proved exactly, and the error that rounding leaves."""

from itertools import product

import numpy as np
import pytest

from sdcomp.ir.ops import OPS
from sdcomp.winograd.exact import ONE, ZERO, Surd, rational, root
from sdcomp.winograd.matrices import POINTS, TAPS, floats, tile_size, transform


def _dot(row: tuple[Surd, ...], values: list[Surd]) -> Surd:
    total = ZERO
    for coefficient, value in zip(row, values, strict=True):
        total = total + coefficient * value
    return total


@pytest.mark.parametrize("m", POINTS)
def test_identity_holds_exactly(m: int) -> None:
    """Both sides are linear in g and in d, so it is enough to check it for every pair of unit vectors."""
    matrices, n = transform(m), tile_size(m)
    for k, j in product(range(TAPS), range(n)):
        g = [ONE if i == k else ZERO for i in range(TAPS)]
        d = [ONE if i == j else ZERO for i in range(n)]
        u = [_dot(row, g) for row in matrices.filter]
        v = [_dot(row, d) for row in matrices.input]
        y = [_dot(row, [a * b for a, b in zip(u, v, strict=True)]) for row in matrices.output]
        assert y == [ONE if i + k == j else ZERO for i in range(m)]


@pytest.mark.parametrize("value", [root(1), rational(3, 7), Surd(rational(1).a, root(2).b)])
def test_inverse(value: Surd) -> None:
    assert value * value.inverse() == ONE


@pytest.mark.parametrize(("m", "bound"), [(2, 2e-7), (4, 1e-6)])
def test_rounding_error_in_f32(m: int, bound: float) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 2 + 4 * m, 2 + 4 * m, 64))
    w = rng.standard_normal((32, 64, TAPS, TAPS))
    want = OPS["conv2d"].reference((x, w), {"stride": 1, "padding": (0, 0, 0, 0)})
    shape = (1, 4 * m, 4 * m, 32)
    v = OPS["winograd_input"].reference((x.astype(np.float32),), {"m": m})
    u = OPS["winograd_filter"].reference((w.astype(np.float32),), {"m": m})
    products = OPS["winograd_multiply"].reference((v, u), {})
    got = OPS["winograd_output"].reference((products,), {"m": m, "shape": shape})
    assert got.dtype == np.float32
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < bound


def test_pairs_of_points_share_their_work() -> None:
    """Rows of opposite points differ in signs only: what the kernels' transforms rely on to be cheap."""
    rows = floats(transform(4).input)
    for positive, negative in ((1, 2), (3, 4)):
        assert [abs(a) for a in rows[positive]] == [abs(b) for b in rows[negative]]
