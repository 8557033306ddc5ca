"""The transforms of F(m, r): m outputs of a filter of r taps from m + r - 1 inputs with as many multiplies.

    y = A^T [(G g) * (B^T d)],  in two dimensions  Y = A^T [(G g G^T) * (B^T d B)] A

From interpolation points p_0 .. p_(n-2) and infinity, n = m + r - 1 (Toom-Cook, transposed; Lavin and Gray
2016):

    A^T[i][j] = p_j^i                         last column: 1 in the last row
    G[j][k]   = p_j^k / prod_(i != j) (p_j - p_i)   last row: 1 in the last column
    B^T[j]    = coefficients of prod_(i != j) (x - p_i), last row: those of prod_i (x - p_i)

Everything is computed in Q(sqrt 2), never typed. Points +-p come in pairs, which halves the work of a
transform.
"""

from dataclasses import dataclass
from functools import cache

from sdcomp.winograd.exact import ONE, ZERO, Surd, rational, root

Matrix = tuple[tuple[Surd, ...], ...]

TAPS = 3
"""Filter width of every transform here."""

POINTS: dict[int, tuple[Surd, ...]] = {
    2: (ZERO, ONE, -ONE),
    4: (ZERO, root(1, 2), root(-1, 2), root(1), root(-1)),
}
"""Finite interpolation points by m. For m = 4 those of ncnn (2023): the smallest error of the usual choices.
"""


@dataclass(frozen=True)
class Transform:
    """A^T [m][n], G [n][r] and B^T [n][n], exact."""

    output: Matrix
    filter: Matrix
    input: Matrix


@cache
def transform(m: int, taps: int = TAPS) -> Transform:
    """The matrices of F(m, taps)."""
    points = POINTS[m]
    n = m + taps - 1
    assert len(points) == n - 1
    output = tuple((*(_power(p, i) for p in points), ONE if i == m - 1 else ZERO) for i in range(m))
    scales = [_product([p - q for q in points if q != p]).inverse() for p in points]
    rows = [tuple(_power(p, k) * s for k in range(taps)) for p, s in zip(points, scales, strict=True)]
    last = tuple(ONE if k == taps - 1 else ZERO for k in range(taps))
    polynomials = [(*_expand([q for q in points if q != p]), ZERO) for p in points]
    return Transform(output, (*rows, last), (*polynomials, _expand(list(points))))


def tile_size(m: int) -> int:
    """Inputs per tile and axis."""
    return m + TAPS - 1


def floats(matrix: Matrix) -> list[list[float]]:
    """The matrix in double precision."""
    return [[float(value) for value in row] for row in matrix]


def _power(p: Surd, exponent: int) -> Surd:
    return _product([p] * exponent)


def _product(factors: list[Surd]) -> Surd:
    result = rational(1)
    for factor in factors:
        result = result * factor
    return result


def _expand(roots: list[Surd]) -> tuple[Surd, ...]:
    """Coefficients of prod (x - root), lowest power first."""
    coefficients = [ONE]
    for r in roots:
        shifted = [ZERO, *coefficients]
        scaled = [*(c * r for c in coefficients), ZERO]
        coefficients = [a - b for a, b in zip(shifted, scaled, strict=True)]
    return tuple(coefficients)
