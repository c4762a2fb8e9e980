"""Arithmetic on answers: exact for rationals, complex floats otherwise.

The size of every power, factorial and binomial is checked before it is computed.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Mapping
from fractions import Fraction

Value = Fraction | complex
Symbols = Mapping[str, Value]
Node = Callable[[Symbols], Value]

MAX_BITS = 40_000
MAX_FACTORIAL = 2_000
CANCELLED = 1e-10

_ZERO, _ONE, _MINUS_ONE = Fraction(0), Fraction(1), Fraction(-1)


class LimitError(Exception):
    """A value too large to compute."""


class UndecidedError(Exception):
    """Floats can't decide: digits were lost, or the value is undefined for these symbols."""


FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    "sin": cmath.sin,
    "cos": cmath.cos,
    "tan": cmath.tan,
    "cot": lambda z: 1 / cmath.tan(z),
    "sec": lambda z: 1 / cmath.cos(z),
    "csc": lambda z: 1 / cmath.sin(z),
    "arcsin": cmath.asin,
    "arccos": cmath.acos,
    "arctan": cmath.atan,
    "sinh": cmath.sinh,
    "cosh": cmath.cosh,
    "tanh": cmath.tanh,
    "exp": cmath.exp,
    "ln": cmath.log,
    "log": cmath.log,
    "lg": cmath.log10,
}


def measured(value: Value) -> Value:
    """Return the value, or raise LimitError if it is too large."""
    if isinstance(value, complex):  # a check against Fraction would go through the slower check of abstract classes
        if not cmath.isfinite(value):
            raise UndecidedError("not finite")
        return value
    if value.numerator.bit_length() + value.denominator.bit_length() > MAX_BITS:
        raise LimitError("a number with too many digits")
    return value


def inexact(value: Value) -> complex:
    if isinstance(value, complex):
        return value
    try:
        return complex(value)
    except OverflowError:
        raise UndecidedError("beyond floats") from None


def total(terms: list[tuple[int, Node]], symbols: Symbols) -> Value:
    result: Value = _ZERO
    largest = 0.0
    for sign, node in terms:
        value = node(symbols)
        if isinstance(result, complex) or isinstance(value, complex):
            left, right = inexact(result), inexact(value)
            largest = max(largest, abs(left), abs(right))
            result = measured(left + sign * right)
        else:
            result = measured(result + value if sign == 1 else result - value)
    if isinstance(result, complex) and abs(result) < CANCELLED * largest:
        raise UndecidedError("digits lost in a difference")
    return result


def product(factors: list[tuple[bool, Node]], is_negative: bool, symbols: Symbols) -> Value:
    result: Value = _MINUS_ONE if is_negative else _ONE
    for is_divisor, node in factors:
        value = node(symbols)
        result = over(result, value) if is_divisor else times(result, value)
    return result


def times(left: Value, right: Value) -> Value:
    if isinstance(left, complex) or isinstance(right, complex):
        return measured(inexact(left) * inexact(right))
    return measured(left * right)


def over(upper: Value, lower: Value) -> Value:
    if not lower:
        raise UndecidedError("division by zero")
    if isinstance(upper, complex) or isinstance(lower, complex):
        return measured(inexact(upper) / inexact(lower))
    return measured(upper / lower)


def power(base: Value, exponent: Value) -> Value:
    """Return a power, exact for a rational base and an integer exponent."""
    if isinstance(base, Fraction) and isinstance(exponent, Fraction):
        if exponent.denominator == 1:
            return _whole_power(base, exponent.numerator)
        if exponent == Fraction(1, 2):
            return square_root(base)
        if exponent.denominator % 2 == 1 and base < 0:  # the real root, as in school mathematics
            return -power(-base, exponent) if exponent.numerator % 2 else power(-base, exponent)
    if base == 0:
        return Fraction(0) if inexact(exponent).real > 0 else _undefined()
    try:
        return measured(inexact(base) ** inexact(exponent))
    except (OverflowError, ZeroDivisionError):
        raise LimitError("a power beyond floats") from None


def _whole_power(base: Fraction, exponent: int) -> Value:
    if base == 0 and exponent < 0:
        return _undefined()
    if base not in (0, 1, -1):
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if exponent.bit_length() > 32 or bits * abs(exponent) > MAX_BITS:
            raise LimitError("a power with too many digits")
    elif exponent.bit_length() > 32:
        exponent %= 2
    return base**exponent


def _undefined() -> Value:
    raise UndecidedError("not defined")


def square_root(value: Value) -> Value:
    """Return a square root, exact for squares of rationals."""
    if isinstance(value, Fraction) and value >= 0:
        upper, lower = math.isqrt(value.numerator), math.isqrt(value.denominator)
        if upper * upper == value.numerator and lower * lower == value.denominator:
            return Fraction(upper, lower)
    return measured(cmath.sqrt(inexact(value)))


def factorial(value: Value) -> Value:
    if isinstance(value, Fraction):
        if value.denominator != 1 or value < 0:
            return _undefined()
        if value > MAX_FACTORIAL:
            raise LimitError(f"a factorial of more than {MAX_FACTORIAL}")
        return Fraction(math.factorial(value.numerator))
    return complex(_gamma(value))


def _gamma(value: Value) -> float:
    number = inexact(value)
    if number.imag or not 0 <= number.real < 100:
        raise UndecidedError("the factorial of a complex or large number")
    return math.gamma(number.real + 1)


def binomial(upper: Value, lower: Value) -> Value:
    if isinstance(upper, Fraction) and isinstance(lower, Fraction):
        if upper.denominator != 1 or lower.denominator != 1 or lower < 0 or upper < 0:
            return _undefined()
        if upper > MAX_FACTORIAL:
            raise LimitError(f"a binomial of more than {MAX_FACTORIAL}")
        return Fraction(math.comb(upper.numerator, lower.numerator))
    difference = inexact(upper) - inexact(lower)
    return complex(_gamma(upper) / (_gamma(lower) * _gamma(difference)))


def rounded(value: Value, rounding: Callable[[float], int]) -> Value:
    if isinstance(value, Fraction):
        return Fraction(rounding(value))  # type: ignore[arg-type]
    if value.imag or abs(value.real) > 1e12:
        raise UndecidedError("the rounding of a complex or large number")
    return Fraction(rounding(value.real))


def call(name: str, argument: Value, base: Value | None) -> Value:
    if name in ("ln", "log", "lg") and argument == 0:
        return _undefined()
    try:
        value = FUNCTIONS[name](inexact(argument))
        if base is not None:
            value /= cmath.log(inexact(base))
    except (OverflowError, ZeroDivisionError, ValueError):
        raise UndecidedError("not defined") from None
    return measured(value)
