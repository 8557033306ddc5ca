"""Transcendental functions on vectors, as polynomials: LLVM would call libm lane by lane."""

from functools import cache
from math import log2

import llvmlite.ir as ir
import numpy as np

from sdcomp.codegen.builder import I32, Emitter, Value

LOG2_E = log2(np.e)
_ROUNDER = 1.5 * 2.0**23
_LOWEST_EXPONENT, _HIGHEST_EXPONENT = -126.0, 127.0


@cache
def exp2_coefficients(degree: int) -> tuple[float, ...]:
    """2^f on [-1/2, 1/2], lowest power first: interpolation in Chebyshev nodes, which is within a factor of
    two of the best.
    """
    nodes = 0.5 * np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
    return tuple(float(c) for c in np.polynomial.polynomial.polyfit(nodes, np.exp2(nodes), degree))


def exp2(e: Emitter, x: Value, degree: int = 6, negative: bool = False) -> Value:
    """2^x = 2^n 2^f with n = round(x): the polynomial's exponent field is raised by n. Saturates at 2^-126
    and 2^127.

    `negative` promises x <= 0 and saves the upper bound.
    """
    x = e.maximum(x, e.splat(_LOWEST_EXPONENT))
    if not negative:
        x = e.b.select(e.b.fcmp_ordered("<", x, e.splat(_HIGHEST_EXPONENT)), x, e.splat(_HIGHEST_EXPONENT))
    # Adding 1.5 2^23 rounds to an integer, which the sum's lowest bits hold in two's complement.
    rounded = e.b.fadd(x, e.splat(_ROUNDER))
    fraction = e.b.fsub(x, e.b.fsub(rounded, e.splat(_ROUNDER)))
    *rest, result = (e.splat(c) for c in exp2_coefficients(degree))
    for coefficient in reversed(rest):
        result = e.fma(result, fraction, coefficient)
    integers = ir.VectorType(I32, e.target.lanes)
    shift = ir.Constant(integers, [23] * e.target.lanes)
    exponent = e.b.shl(e.b.bitcast(rounded, integers), shift)
    return e.b.bitcast(e.b.add(e.b.bitcast(result, integers), exponent), e.vector)


def sigmoid(e: Emitter, x: Value, scale: float = 1.0) -> Value:
    """1 / (1 + exp(-scale x))"""
    power = exp2(e, e.b.fmul(x, e.splat(-scale * LOG2_E)))
    return e.b.fdiv(e.splat(1.0), e.b.fadd(e.splat(1.0), power))


def tanh(e: Emitter, x: Value) -> Value:
    """2 sigmoid(2x) - 1"""
    return e.fma(e.splat(2.0), sigmoid(e, x, 2.0), e.splat(-1.0))


_ERF_SCALE = 0.3275911
_ERF_POLYNOMIAL = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def gelu(e: Emitter, x: Value) -> Value:
    """x Phi(x), with erf by Abramowitz and Stegun 7.1.26: |error of erf| <= 1.5e-7.

    With z = |x| / sqrt 2 and t = 1 / (1 + p z): 1 - erf(z) = t (a1 + t (a2 + ...)) exp(-z^2), so that x
    Phi(x) is x (1 - r/2) for x > 0 and x r/2 otherwise, r being that product: no cancellation in the
    negative tail.
    """
    z = e.b.fmul(e.intrinsic("fabs", x), e.splat(0.5**0.5))
    t = e.b.fdiv(e.splat(1.0), e.fma(z, e.splat(_ERF_SCALE), e.splat(1.0)))
    *rest, series = (e.splat(a) for a in _ERF_POLYNOMIAL)
    for coefficient in reversed(rest):
        series = e.fma(series, t, coefficient)
    power = exp2(e, e.b.fmul(e.b.fmul(z, z), e.splat(-LOG2_E)), negative=True)
    half_tail = e.b.fmul(e.b.fmul(e.b.fmul(series, t), power), e.splat(0.5))
    positive = e.b.fcmp_ordered(">", x, e.zeros())
    return e.b.fmul(x, e.b.select(positive, e.b.fsub(e.splat(1.0), half_tail), half_tail))


def unary(e: Emitter, op: str, x: Value) -> Value:
    """The pointwise operation `op` of the op table."""
    if op == "silu":
        return e.b.fmul(x, sigmoid(e, x))
    if op == "quick_gelu":
        return e.b.fmul(x, sigmoid(e, x, 1.702))
    return {"gelu": gelu, "sigmoid": sigmoid, "tanh": tanh}[op](e, x)


def binary(e: Emitter, op: str, a: Value, b: Value) -> Value:
    """`add` or `mul`."""
    return {"add": e.b.fadd, "mul": e.b.fmul}[op](a, b)
