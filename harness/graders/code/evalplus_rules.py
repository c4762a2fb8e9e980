"""When an output counts as correct on HumanEval+ and MBPP+: evalplus' tolerances, and problems with their own rule.

Rules read our own copy of the arguments, never one that a program may have changed. Unlike in evalplus, a tolerance
that one float answer requires does not apply to later answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

from harness.graders.code.values import Container, canonical, close, equal, is_number, is_within, items_of

_FLOAT_TOLERANCE, _RELATIVE_TOLERANCE = 1e-6, 1e-7
_EQUAL_AS_SETS = {
    *("similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly"),
    *("larg_nnum", "intersection_array", "find_dissimilar", "Diff"),
}
FOUND_OR_NOT = frozenset(("check_str", "text_match_three", "text_starta_endb"))
"""Functions that may return anything except None for yes."""

Dataset = Literal["humaneval", "mbpp"]


def is_right(
    dataset: Dataset, entry_point: str, arguments: Sequence[Any], expected: Any, got: Any, tolerance: float
) -> bool:
    """Return whether `got` is accepted where the reference solution returned `expected`."""
    if dataset == "humaneval" and entry_point == "find_zero":
        return _is_zero(arguments[0], got, tolerance)
    exact = _is_exact(dataset, entry_point, arguments, expected, got, tolerance)
    if exact:
        return True
    room = _FLOAT_TOLERANCE if tolerance == 0 and _is_of_floats(expected) else tolerance
    return room != 0 and _kind(expected) == _kind(got) and close(expected, got, room, _RELATIVE_TOLERANCE)


def _is_exact(
    dataset: Dataset, entry_point: str, arguments: Sequence[Any], expected: Any, got: Any, tolerance: float
) -> bool:
    if dataset == "mbpp":
        if entry_point in _EQUAL_AS_SETS:
            return _equal_as_sets(expected, got)
        if entry_point in FOUND_OR_NOT:
            found = got if type(got) is bool else got is not None
            return found == (expected is not None)
        if entry_point in _MORE_ANSWERS and _MORE_ANSWERS[entry_point](arguments, got, tolerance):
            return True
    return equal(expected, got)


def _is_zero(coefficients: Sequence[float], got: Any, tolerance: float) -> bool:
    if type(got) not in (bool, int, float, Fraction):
        return False
    try:
        value = sum(c * math.pow(got, power) for power, c in enumerate(coefficients))
    except (OverflowError, ValueError):
        return False
    return abs(value) <= tolerance


def _digit_distance(first: object, second: object) -> int:
    width = max(len(str(first)), len(str(second)))
    digits = zip(str(first).zfill(width), str(second).zfill(width), strict=True)
    return sum(abs(int(a) - int(b)) for a, b in digits)


def _pyramid_surface(base: float, height: float) -> int:
    """The problem does not say whether the height is that of the pyramid or of a side; the reference takes the side."""
    return round(base**2 + 2 * base * math.sqrt((base / 2) ** 2 + height**2))


def _is(value: Any, got: Any, tolerance: float = 0.0) -> bool:
    return is_number(got) and is_within(got, value, tolerance)


_MORE_ANSWERS: dict[str, Any] = {
    "are_equivalent": lambda _arguments, _got, _tolerance: True,
    "sum_div": lambda _arguments, got, _tolerance: _is(0, got),
    "surface_Area": lambda arguments, got, tolerance: _is(_pyramid_surface(*arguments), got, tolerance),
    "digit_distance_nums": lambda arguments, got, _tolerance: _is(_digit_distance(*arguments), got),
}


def _equal_as_sets(expected: Any, got: Any) -> bool:
    wanted, items = items_of(expected), items_of(got)
    if wanted is None or items is None or any(_is_unhashable(item) for item in items):
        return False
    return {*map(canonical, wanted)} == {*map(canonical, items)}


def _is_unhashable(value: Any) -> bool:
    return type(value) is list or (type(value) is Container and value.kind in ("set", "dict"))


def _is_of_floats(value: Any) -> bool:
    if type(value) is float:
        return True
    items = value.items if _kind(value) == "tuple" else value
    return type(items) is list and bool(items) and all(type(item) is float for item in items)


def _kind(value: Any) -> str:
    return value.kind if type(value) is Container else type(value).__name__
