"""The transforms of F(m, 3): m outputs of a filter of 3 taps from m + 2 inputs with as many multiplies.

    y = A^T [(G g) * (B^T d)],  in two dimensions  Y = A^T [(G g G^T) * (B^T d B)] A

From interpolation points p_0 .. p_(t-2) and infinity, t = m + 2 (Toom-Cook, transposed; Lavin and Gray 2016):

    A^T[i][j] = p_j^i                         infinity: 1 in the last row
    G[j]      = (1, p_j, p_j^2) / prod_(i != j) (p_j - p_i)   infinity: (0, 0, 1)
    B^T[j]    = coefficients of prod_(i != j) (x - p_i)       infinity: those of prod_i (x - p_i)

**Upsampled maps.** Where each pixel stands twice (nearest neighbour) the window of m outputs holds but t =
m / 2 + 2 different pixels, and the upsampled map need not exist. Transposed, the convolution is

    Q(w) = even part of (1 + z) u(z) g(z)  with w = z^2:   Q_k = P_(2k-1) + P_2k  of the product P = u g
         = (g_0 + g_2 w) (u_e + w u_o)(w)  +  g_1 w (u_e + u_o)(w)      u_e, u_o: even and odd coefficients

so that B^T is that of F(m / 2, 3), and each point p has two products with the same input:

    A^T[i][j] = p^ceil(i/2)         G[j] = (1, 0, p) / prod_(i != j) (p_j - p_i)
    A^T[i][j] = p^(1 + floor(i/2))  G[j] = (0, 1, 0) / prod_(i != j) (p_j - p_i)

At 0 the second is nothing, and at 1 both have the same outputs, which makes them one: (1, 1, 1). With 0, 1,
-1 and infinity 5 products give m = 4 outputs, in two dimensions 25/16 per output, where F(4, 3) over the
upsampled map takes 36/16. The four 2x2 convolutions of its phases take 25/16 too, by F(4, 2), but transform
four times as many filters and leave their outputs interleaved; their rounding error is larger as well.

Everything is computed in Q(sqrt 2), never typed. Points +-p come in pairs, which halves the work of a
transform.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from sdcomp.winograd.exact import ONE, ZERO, Surd, rational, root

Matrix = tuple[tuple[Surd, ...], ...]
Row = tuple[Surd, ...]

TAPS = 3
"""Filter width of every transform here."""

POINTS: dict[tuple[int, int], tuple[Surd, ...]] = {
    (2, 1): (ZERO, ONE, -ONE),
    (4, 1): (ZERO, root(1, 2), root(-1, 2), root(1), root(-1)),
    (2, 2): (ZERO, ONE),
    (4, 2): (ZERO, ONE, -ONE),
}
"""Finite interpolation points by m and scale (2: of upsampled maps), those with the smallest measured error.

For (4, 1) those of ncnn (2023).
"""


@dataclass(frozen=True)
class Transform:
    """A^T [m][n], G [n][3] and B^T [n][t], exact: n products per axis, of t inputs.

    Windows of neighbouring tiles are `step` inputs apart.
    """

    output: Matrix
    filter: Matrix
    input: Matrix
    step: int

    @property
    def products(self) -> int:
        """n: products per axis."""
        return len(self.filter)

    @property
    def planes(self) -> int:
        """n^2: products per tile."""
        return self.products**2

    @property
    def inputs(self) -> int:
        """t: inputs per tile and axis."""
        return len(self.input[0])


@cache
def transform(m: int, scale: int = 1) -> Transform:
    """The matrices of F(m, 3) over a map, or over one upsampled twice; m is a multiple of `scale`."""
    points = POINTS[m, scale]
    assert len(points) == m // scale + 1
    columns: list[Row] = []
    filters: list[Row] = []
    inputs: list[Row] = []
    for p in points:
        others = [q for q in points if q != p]
        factor = _product([p - q for q in others]).inverse()
        for column, taps in (_plain if scale == 1 else _upsampled)(p, m):
            columns.append(column)
            filters.append(tuple(value * factor for value in taps))
            inputs.append((*_expand(others), ZERO))
    columns.append(tuple(ONE if i == m - 1 else ZERO for i in range(m)))
    filters.append((ZERO, ZERO, ONE))
    inputs.append(_expand(list(points)))
    return Transform(tuple(zip(*columns, strict=True)), tuple(filters), tuple(inputs), m // scale)


def _plain(p: Surd, m: int) -> Iterator[tuple[Row, Row]]:
    """Column of A^T and unscaled row of G of each product at a finite point."""
    yield tuple(_power(p, i) for i in range(m)), tuple(_power(p, k) for k in range(TAPS))


def _upsampled(p: Surd, m: int) -> Iterator[tuple[Row, Row]]:
    """The same over an upsampled map."""
    even = tuple(_power(p, (i + 1) // 2) for i in range(m))
    odd = tuple(_power(p, 1 + i // 2) for i in range(m))
    if even == odd:
        yield even, (ONE, ONE, p)
        return
    yield even, (ONE, ZERO, p)
    if any(value != ZERO for value in odd):
        yield odd, (ZERO, ONE, ZERO)


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
