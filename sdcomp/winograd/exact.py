"""Exact numbers a + b sqrt(2) with rational a and b: the field in which transform matrices are computed."""

from dataclasses import dataclass
from fractions import Fraction
from math import sqrt


@dataclass(frozen=True)
class Surd:
    """a + b sqrt(2)."""

    a: Fraction
    b: Fraction = Fraction(0)

    def __add__(self, other: "Surd") -> "Surd":
        return Surd(self.a + other.a, self.b + other.b)

    def __sub__(self, other: "Surd") -> "Surd":
        return Surd(self.a - other.a, self.b - other.b)

    def __neg__(self) -> "Surd":
        return Surd(-self.a, -self.b)

    def __mul__(self, other: "Surd") -> "Surd":
        return Surd(self.a * other.a + 2 * self.b * other.b, self.a * other.b + self.b * other.a)

    def inverse(self) -> "Surd":
        """1 / (a + b r) = (a - b r) / (a^2 - 2 b^2), r being sqrt(2), which is irrational: only 0 has no
        inverse.
        """
        norm = self.a * self.a - 2 * self.b * self.b
        return Surd(self.a / norm, -self.b / norm)

    def __float__(self) -> float:
        return float(self.a) + float(self.b) * sqrt(2)


ZERO = Surd(Fraction(0))
ONE = Surd(Fraction(1))


def rational(numerator: int, denominator: int = 1) -> Surd:
    return Surd(Fraction(numerator, denominator))


def root(numerator: int, denominator: int = 1) -> Surd:
    """A rational multiple of sqrt(2)."""
    return Surd(Fraction(0), Fraction(numerator, denominator))
