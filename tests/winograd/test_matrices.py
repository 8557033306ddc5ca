"""The identity y = A^T [(G g) * (B^T d)], proved exactly, and the error that rounding leaves."""

from itertools import product

import numpy as np
import pytest

from sdcomp.ir.ops import OPS
from sdcomp.winograd.exact import ONE, ZERO, Surd, rational, root
from sdcomp.winograd.matrices import POINTS, TAPS, floats, transform


def _dot(row: tuple[Surd, ...], values: list[Surd]) -> Surd:
    total = ZERO
    for coefficient, value in zip(row, values, strict=True):
        total = total + coefficient * value
    return total


@pytest.mark.parametrize(("m", "scale"), POINTS)
def test_identity_holds_exactly(m: int, scale: int) -> None:
    """Both sides are linear in g and in d, so it is enough to check it for every pair of unit vectors.

    A window of an upsampled map begins with the last copy of a pixel: a border of 1 is before the first.
    """
    matrices = transform(m, scale)
    for k, j in product(range(TAPS), range(matrices.inputs)):
        g = [ONE if i == k else ZERO for i in range(TAPS)]
        d = [ONE if i == j else ZERO for i in range(matrices.inputs)]
        window = [value for value in d for _ in range(scale)][scale - 1 :]
        u = [_dot(row, g) for row in matrices.filter]
        v = [_dot(row, d) for row in matrices.input]
        y = [_dot(row, [a * b for a, b in zip(u, v, strict=True)]) for row in matrices.output]
        assert y == [window[i + k] for i in range(m)]


@pytest.mark.parametrize(("form", "products"), [((2, 1), 4), ((4, 1), 6), ((2, 2), 3), ((4, 2), 5)])
def test_products_per_axis(form: tuple[int, int], products: int) -> None:
    assert transform(*form).products == products
    assert transform(*form).inputs == form[0] // form[1] + 2


@pytest.mark.parametrize("value", [root(1), rational(3, 7), Surd(rational(1).a, root(2).b)])
def test_inverse(value: Surd) -> None:
    assert value * value.inverse() == ONE


@pytest.mark.parametrize(("m", "scale", "bound"), [(2, 1, 2e-7), (4, 1, 1e-6), (2, 2, 2e-7), (4, 2, 2e-7)])
def test_rounding_error_in_f32(m: int, scale: int, bound: float) -> None:
    rng = np.random.default_rng(0)
    side, form = 4 * m // scale, {"m": m, "scale": scale}
    x = np.pad(rng.standard_normal((1, side, side, 64)), ((0, 0), (1, 1), (1, 1), (0, 0)))
    w = rng.standard_normal((32, 64, TAPS, TAPS))
    upsampled = x[:, 1:-1, 1:-1].repeat(scale, 1).repeat(scale, 2)
    want = OPS["conv2d"].reference((upsampled, w), {"stride": 1, "padding": (1, 1, 1, 1)})
    v = OPS["winograd_input"].reference((x.astype(np.float32),), form)
    u = OPS["winograd_filter"].reference((w.astype(np.float32),), form)
    products = OPS["winograd_multiply"].reference((v, u), {})
    got = OPS["winograd_output"].reference((products,), {**form, "shape": want.shape})
    assert got.dtype == np.float32
    assert np.linalg.norm(got - want) / np.linalg.norm(want) < bound


def test_pairs_of_points_share_their_work() -> None:
    """Rows of opposite points differ in signs only: what the kernels' transforms rely on to be cheap."""
    rows = floats(transform(4).input)
    for positive, negative in ((1, 2), (3, 4)):
        assert [abs(a) for a in rows[positive]] == [abs(b) for b in rows[negative]]
