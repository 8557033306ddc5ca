"""Vector functions, value by value over the whole range of f32, against numpy and torch in f64."""

import re
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
import torch

from sdcomp.codegen.builder import Emitter, Value
from sdcomp.codegen.kernels import vectormath
from sdcomp.codegen.kernels.base import Kernel, operand
from sdcomp.codegen.targets import TARGETS, Target
from sdcomp.ir.types import Array
from tests.codegen.assembly import assembly, function
from tests.codegen.case import ROUNDING, isa
from tests.codegen.contractions import ACTIVATIONS
from tests.codegen.jit import Jit

DENORMAL = float(np.finfo(np.float32).smallest_subnormal)
SMALLEST = float(np.finfo(np.float32).smallest_normal)
EXTREMES = (0.0, -0.0, DENORMAL, SMALLEST, 1e-20, 1e-8, 0.5, 1.0, 87.0, 88.5, 103.0, 127.0, 150.0, 1e4, 3e38)


def inputs() -> Array:
    """Densely where functions bend, then to the ends of the range; a length that is no multiple of any
    vector.
    """
    dense = np.concatenate([np.linspace(-30, 30, 4001), np.arange(-130, 130)])
    ends = np.array(EXTREMES)
    spread = np.geomspace(1e-30, 1e30, 301)
    return np.concatenate([dense, ends, -ends, spread, -spread]).astype(np.float32)


X = inputs()

_ARITHMETIC = re.compile(r"\tv(?!mov|broadcast|zeroupper|x?or)\w+\t")


@dataclass(frozen=True)
class Function(Kernel):
    """out[i] = function(x[i]). Operands: x, out."""

    name: str
    count: int

    kind = "function"

    @property
    def tiles(self) -> int:
        return 1

    def emit_tile(self, e: Emitter, tile: Value) -> None:
        x, out = operand(e, 0), operand(e, 1)
        e.columns(
            self.count,
            lambda at, mask: e.store_masked(self._call(e, e.load_masked(x, at, mask)), out, at, mask),
        )

    def _call(self, e: Emitter, x: Value) -> Value:
        if not self.name.startswith("exp2"):
            return vectormath.unary(e, self.name, x)
        _, degree, *negative = self.name.split("_")
        return vectormath.exp2(e, x, int(degree), bool(negative))


NAMES = (*ACTIVATIONS, "exp2_5", "exp2_6", "exp2_5_negative", "exp2_6_negative")


@pytest.fixture(scope="module")
def compiled(request: pytest.FixtureRequest) -> dict[str, Array]:
    """Every function of X, by name."""
    target: Target = request.param
    kernels = {name: Function(name, len(X)) for name in NAMES}
    jit = Jit.of(kernels.values(), target)
    results = {name: np.full_like(X, np.nan) for name in NAMES}
    for name, kernel in kernels.items():
        jit.run(kernel, [X.ctypes.data, results[name].ctypes.data])
    return results


def exact(name: str) -> Array:
    result: Array = ACTIVATIONS[name](torch.from_numpy(X.astype(np.float64))).numpy()
    return result


@isa
@pytest.mark.parametrize("degree", [5, 6])
@pytest.mark.parametrize("promise", ["", "_negative"])
def test_exp2(compiled: dict[str, Array], degree: int, promise: str) -> None:
    """Within the range of exponents: two or three roundings, and for degree 5 the polynomial's own 8e-8."""
    inside = (X >= -125) & ((0 if promise else 127) >= X)
    expected = np.exp2(X[inside].astype(np.float64))
    error = np.abs(compiled[f"exp2_{degree}{promise}"][inside] - expected) / expected
    assert error.max() <= (5 if degree == 5 else 3) * ROUNDING


@isa
def test_exp2_saturates(compiled: dict[str, Array]) -> None:
    """Beyond the exponents it is 2^-125 and 2^127: small and large enough for every use, and never infinite,
    a NaN, or denormal, with which processors take a hundred times as long to compute.
    """
    for name in ("exp2_5", "exp2_6", "exp2_5_negative", "exp2_6_negative"):
        np.testing.assert_allclose(compiled[name][X < -125], 2.0**-125, rtol=5 * ROUNDING)
        assert compiled[name][X <= 0].min() >= SMALLEST
    for name in ("exp2_5", "exp2_6"):
        np.testing.assert_allclose(compiled[name][X > 127], 2.0**127, rtol=4 * ROUNDING)


@isa
def test_exp2_of_whole_numbers_is_exact(compiled: dict[str, Array]) -> None:
    """At degree 6, whose constant term rounds to 1."""
    whole = (np.rint(X) == X) & (np.abs(X) <= 125)
    np.testing.assert_array_equal(compiled["exp2_6"][whole], np.exp2(X[whole].astype(np.float64)))


@pytest.mark.parametrize(
    ("target", "count"),
    [pytest.param(TARGETS["x86-64-v3"], 11, id="v3"), pytest.param(TARGETS["x86-64-v4"], 8, id="v4")],
)
def test_exp2_is_few_instructions(target: Target, count: int) -> None:
    """Five fused multiply-adds, the bound, and around them five steps, or two where the target has them."""
    lines = function(assembly(Function("exp2_5_negative", target.lanes), target), "kernel")
    arithmetic = [line for line in lines if _ARITHMETIC.search(line)]
    assert len(arithmetic) == count, arithmetic


@isa
@pytest.mark.parametrize("name", ["sigmoid", "silu", "quick_gelu"])
def test_sigmoids(compiled: dict[str, Array], name: str) -> None:
    """1 / (1 + e^-x): the power's argument is rounded, which its tail amplifies by |x|; where the power
    saturates (|x| > 87, results below 1e-38 of x) only the absolute size counts.
    """
    expected, size = exact(name), np.abs(X.astype(np.float64))
    bound = ROUNDING * (4 + 2 * size) * np.abs(expected) + 2.0**-125 * (1 + size)
    assert (np.abs(compiled[name] - expected) <= bound).all()


@isa
def test_tanh(compiled: dict[str, Array]) -> None:
    """2 sigmoid(2x) - 1: an absolute error of a few roundings of 1."""
    assert np.abs(compiled["tanh"] - exact("tanh")).max() <= 3 * ROUNDING


@isa
def test_gelu(compiled: dict[str, Array]) -> None:
    """Abramowitz and Stegun give erf to 1.5e-7, so gelu to half of that times |x|, and some roundings of
    the result.
    """
    expected, size = exact("gelu"), np.abs(X.astype(np.float64))
    bound = 0.75e-7 * np.minimum(size, 10) + ROUNDING * 6 * np.abs(expected) + SMALLEST * size + DENORMAL
    assert (np.abs(compiled["gelu"] - expected) <= bound).all()


@isa
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_ends_of_the_range(compiled: dict[str, Array], name: str) -> None:
    """Finite, of the right sign, zero at zero, and the identity or one for large arguments."""
    found, large = compiled[name], X >= 1e4
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[large], 1 if name in ("sigmoid", "tanh") else X[large])
    assert (found[X == 0] == (0.5 if name == "sigmoid" else 0)).all()
    assert (found[X > 0] >= 0).all()
    assert np.abs(found[(X <= -1e4) & (X >= -2e4)] - (-1.0 if name == "tanh" else 0.0)).max() < 1e-30


def test_polynomial_is_close_to_the_best() -> None:
    """Its error oscillates with nearly equal peaks, so no polynomial of that degree is much better (de la
    Vallee-Poussin).
    """
    for degree, first in product((5, 6), (-0.5, 0.0)):
        f = np.linspace(first, first + 1, 20001)
        coefficients = vectormath.exp2_coefficients(degree, first)
        error = np.polynomial.polynomial.polyval(f, coefficients) - np.exp2(f)
        error = error[error != 0]
        peaks = [part.max() for part in np.split(np.abs(error), np.flatnonzero(np.diff(np.sign(error))) + 1)]
        assert len(peaks) >= degree + 2
        assert max(peaks) <= 2 * min(peaks)
