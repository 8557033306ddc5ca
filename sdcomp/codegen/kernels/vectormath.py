"""Transcendental functions on vectors, as polynomials: LLVM would call libm lane by lane."""

from collections.abc import Sequence
from functools import cache
from math import log2

import llvmlite.ir as ir
import numpy as np

from sdcomp.codegen.builder import I32, Emitter, Value

LOG2_E = log2(np.e)
_ROUNDER = 1.5 * 2.0**23
_LOWEST_EXPONENT, _HIGHEST_EXPONENT = -125.0, 127.0
"""The least power is twice the least normal number: a polynomial a rounding below 1 makes it no denormal."""


@cache
def exp2_coefficients(degree: int, first: float) -> tuple[float, ...]:
    """2^f on [first, first + 1], lowest power first: interpolation in Chebyshev nodes, which is within a
    factor of two of the best.
    """
    nodes = first + 0.5 + 0.5 * np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
    return tuple(float(c) for c in np.polynomial.polynomial.polyfit(nodes, np.exp2(nodes), degree))


def exp2(e: Emitter, x: Value, degree: int = 6, negative: bool = False) -> Value:
    """2^x = 2^n 2^f with n + f = x; 2^f is a polynomial. Saturates at 2^-125 and 2^127.

    `negative` promises x <= 0 and saves the upper bound.
    """
    x = e.maximum(x, e.splat(_LOWEST_EXPONENT))
    if not negative:
        x = e.b.select(e.b.fcmp_ordered("<", x, e.splat(_HIGHEST_EXPONENT)), x, e.splat(_HIGHEST_EXPONENT))
    return _scaled_power(e, x, degree) if e.target.scales_by_powers else _shifted_power(e, x, degree)


def _scaled_power(e: Emitter, x: Value, degree: int) -> Value:
    """n = floor(x): one instruction takes x - floor(x), and one multiplies by 2^floor(x)."""
    every_lane, downwards = ir.Constant(ir.IntType(e.target.lanes), -1), ir.Constant(I32, 1)
    as_always = ir.Constant(I32, 4)  # results are rounded and exceptions masked as MXCSR says

    def call(name: str, *operands: Value) -> Value:
        arguments = [*operands, e.zeros(), every_lane, as_always]
        kind = ir.FunctionType(e.vector, [argument.type for argument in arguments])
        return e.b.call(e.declare(f"llvm.x86.avx512.mask.{name}.ps.512", kind), arguments)

    return call("scalef", _polynomial(e, call("reduce", x, downwards), exp2_coefficients(degree, 0.0)), x)


def _shifted_power(e: Emitter, x: Value, degree: int) -> Value:
    """n = round(x): the polynomial's exponent field is raised by n."""
    # Adding 1.5 2^23 rounds to an integer, which the sum's lowest bits hold in two's complement.
    rounded = e.b.fadd(x, e.splat(_ROUNDER))
    fraction = e.b.fsub(x, e.b.fsub(rounded, e.splat(_ROUNDER)))
    result = _polynomial(e, fraction, exp2_coefficients(degree, -0.5))
    integers = ir.VectorType(I32, e.target.lanes)
    shift = ir.Constant(integers, [23] * e.target.lanes)
    exponent = e.b.shl(e.b.bitcast(rounded, integers), shift)
    return e.b.bitcast(e.b.add(e.b.bitcast(result, integers), exponent), e.vector)


def _polynomial(e: Emitter, x: Value, coefficients: Sequence[float]) -> Value:
    """By Horner's rule; lowest power first."""
    *rest, result = (e.splat(c) for c in coefficients)
    for coefficient in reversed(rest):
        result = e.fma(result, x, coefficient)
    return result


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
    series = _polynomial(e, t, _ERF_POLYNOMIAL)
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
