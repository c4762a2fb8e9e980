r"""Compare two equations by their solutions, each as left minus right.

`3x - 2y = 1` and `y = (3x - 1)/2` are multiples of one another by a number. `y = 1/x` and `xy = 1` differ by a factor
that depends on the symbols: they are the same if both are linear in one symbol, have the same value of it everywhere,
and neither has a factor of its own, as `x(y - 1) = 0` has compared with `y = 1`. Only generic points are tried.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from harness.graders.math.arithmetic import LimitError, Node, Symbols, UndecidedError, inexact
from harness.graders.math.expression import compiled
from harness.graders.math.notation import plain

SAME_FUNCTION = 1e-9
COMMON_FACTOR = 1e-3
NEAR_A_ROOT = 1e-6
MAX_STEPS = 40
MAX_SYMBOLS = 10

_POINTS = ((0.73, 0.391), (1.87, 0.617), (1.31, 0.173), (2.29, 0.271))
_STARTS = ((0.4 + 0.3j, 0.9 + 0.1j), (-1.3 + 0.2j, -0.8 - 0.1j))
_EQUALITY = re.compile(r"(?<![<>!])=|\\(?:approx|equiv|simeq)(?![a-z])")
_SELF_NAMED = re.compile(r"^([A-Za-z]) ?=")

Line = Callable[[Symbols], tuple[complex, complex]]
"""Intercept and slope in one symbol, as functions of the others."""


def sides_of(body: str) -> list[str]:
    """Split at the signs of equality."""
    return [side.strip() for side in _EQUALITY.split(body)]


def equation_in(text: str) -> str | None:
    """Return left minus right of a text that is one equation with a left and a right side, or None."""
    text = plain(text)
    sides = sides_of(text)
    if len(sides) != 2 or text.count("=") != 1 or not all(sides) or "," in text:
        return None
    if any(side.count(left) != side.count(right) for side in sides for left, right in ("()", "[]", "{}")):
        return None
    return f"{sides[0]}-({sides[1]})"


def contains_its_label(text: str) -> bool:
    """Return whether a text such as `x = 2x` has its left side on the right too, so that it is not a label."""
    text = plain(text)
    label = _SELF_NAMED.match(text)
    return label is not None and label.group(1) in compiled(text[label.end() :])[1]


def symbols_for(names: Sequence[str]) -> list[Symbols]:
    """Draw positive values without structure, so that no false identity holds by accident."""
    return [
        {name: complex(start + math.modf((index + 1) * step)[0]) for index, name in enumerate(names)}
        for start, step in _POINTS
    ]


def is_multiple(gold: str, answer: str) -> bool:
    """Return whether two equations, each as left minus right, are multiples of one another by a number."""
    (left, left_names), (right, right_names) = compiled(gold), compiled(answer)
    if left_names != right_names:
        raise UndecidedError("other symbols: perhaps another notation")
    ratios = [
        inexact(left(point)) / inexact(right(point)) for point in symbols_for(sorted(left_names)) if right(point) != 0
    ]
    if len(ratios) < len(_POINTS) or not all(map(abs, ratios)):
        raise UndecidedError("an equation that always holds here")
    return all(abs(ratio - ratios[0]) <= SAME_FUNCTION * abs(ratios[0]) for ratio in ratios)


def same_solutions(gold: str, answer: str) -> bool:
    """Return whether two equations have the same solutions, as far as multiples and linear symbols show it."""
    if is_multiple(gold, answer):
        return True
    (left, names), (right, _) = compiled(gold), compiled(answer)
    return any(_same_line(left, right, name, sorted(names)) for name in sorted(names))


def _same_line(gold: Node, answer: Node, name: str, names: Sequence[str]) -> bool:
    if not 2 <= len(names) <= MAX_SYMBOLS:
        return False
    points, lines = symbols_for(names), (_line(gold, name), _line(answer, name))
    # Most wrong answers differ at the first point, which is cheaper to see than whether both sides are linear.
    if not all(_same_root(lines, point) for point in points):
        return False
    if not all(_is_linear(side, name, point) for side in (gold, answer) for point in points):
        return False
    others = [other for other in names if other != name]
    return not any(_has_own_factor(line, other, points[0]) for line in lines for other in others)


def _same_root(lines: tuple[Line, Line], point: Symbols) -> bool:
    """Return whether two lines have the same root, for these values of the other symbols."""
    try:
        (first, slope), (second, other_slope) = (line(point) for line in lines)
    except (UndecidedError, LimitError, ArithmeticError):
        return False
    return abs(first * other_slope - second * slope) <= SAME_FUNCTION * max(abs(first * other_slope), abs(slope))


def _line(side: Node, name: str) -> Line:
    def line(point: Symbols) -> tuple[complex, complex]:
        at_one, at_two = (inexact(side({**point, name: complex(value)})) for value in (1, 2))
        return 2 * at_one - at_two, at_two - at_one

    return line


def _is_linear(side: Node, name: str, point: Symbols) -> bool:
    try:
        one, two, four = (inexact(side({**point, name: complex(value)})) for value in (1, 2, 4))
    except (UndecidedError, LimitError, ArithmeticError):
        return False
    largest = max(map(abs, (one, two, four)))
    slope = two - one
    return abs(slope) > SAME_FUNCTION * largest and abs(four - two - 2 * slope) <= SAME_FUNCTION * largest


def _has_own_factor(line: Line, other: str, point: Symbols) -> bool:
    """Return whether slope and intercept vanish together for a value of `other`: a factor without the linear symbol."""
    for first, second in _STARTS:
        try:
            root = _root(lambda value: line({**point, other: value})[1], first, second)
            if root is not None:
                intercept, _ = line({**point, other: root + 1e-5})
                if abs(intercept) < COMMON_FACTOR:
                    return True
        except (UndecidedError, LimitError, ArithmeticError):
            continue
    return False


def _root(function: Callable[[complex], complex], first: complex, second: complex) -> complex | None:
    """Return a root by the secant method, or None."""
    value = function(first)
    for _ in range(MAX_STEPS):
        following = _value_or_zero(function, second)
        if abs(following) < NEAR_A_ROOT:
            return second
        if following == value:
            return None
        first, second, value = second, second - following * (second - first) / (following - value), following
    return None


def _value_or_zero(function: Callable[[complex], complex], at: complex) -> complex:
    try:
        return function(at)
    except UndecidedError:  # so near to a root that digits are lost
        return 0j
