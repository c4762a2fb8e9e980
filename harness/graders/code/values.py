"""Decode values that a program returned to inert data, and compare them.

Sets and dicts stay lists of the program's items: foreign objects are never hashed, and no method of a value is called.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from harness.sandbox.inside import codec
from harness.sandbox.inside.codec import NotPlainError

_SETS = ("set", "frozenset")
_FLOATING = (bool, int, float, complex)


@dataclass(frozen=True, slots=True)
class Container:
    """A tuple, set, frozenset or dict (a list of pairs)."""

    kind: str
    items: list[Any]


def decode(body: bytes) -> Any:
    """Decode an untrusted encoding. Raises NotPlainError."""
    return codec.decode(body, _container)


def encode(value: object) -> bytes:
    """Encode a trusted value."""
    return codec.encode(value).encode()


def _container(tag: str, content: Any) -> Any:
    if tag not in ("tuple", "dict", *_SETS):
        return codec.number(tag, content)
    if type(content) is not list:
        raise NotPlainError(f"an empty {tag}")
    if tag == "dict" and not all(type(pair) is list and len(pair) == 2 for pair in content):
        raise NotPlainError("an empty dict")
    return Container(tag, content)


def items_of(value: Any) -> list[Any] | None:
    """Return the items of a list or container, the keys of a dict, the letters of a text, or None."""
    if type(value) is list:
        return value
    if type(value) is str:
        return list(value)
    if type(value) is Container:
        return [key for key, _ in value.items] if value.kind == "dict" else value.items
    return None


def is_number(value: Any) -> bool:
    return type(value) in _FLOATING or type(value) is Fraction


def equal(expected: Any, got: Any) -> bool:
    """Compare like Python's `==` on plain data."""
    if is_number(expected) and is_number(got):
        return bool(expected == got)
    if type(expected) is not type(got):
        return False
    if type(expected) is list:
        return _all_equal(expected, got)
    if type(expected) is Container:
        return _containers_equal(expected, got)
    return bool(expected == got)  # None, text, bytes


def _all_equal(expected: list[Any], got: list[Any]) -> bool:
    return len(expected) == len(got) and all(map(equal, expected, got))


def _containers_equal(expected: Container, got: Container) -> bool:
    if expected.kind in _SETS and got.kind in _SETS:
        return _all_equal(in_order(expected.items), in_order(got.items))
    if expected.kind != got.kind:
        return False
    if expected.kind == "dict":
        return _all_equal(_pairs_in_order(expected.items), _pairs_in_order(got.items))
    return _all_equal(expected.items, got.items)


def in_order(items: list[Any]) -> list[Any]:
    return sorted(items, key=canonical)


def _pairs_in_order(pairs: list[Any]) -> list[Any]:
    return sorted(pairs, key=lambda pair: canonical(pair[0]))


def canonical(value: Any) -> str:
    """Return a text that equal values share."""
    if type(value) is list:
        return f"[{','.join(map(canonical, value))}]"
    if type(value) is Container:
        items = sorted(map(canonical, value.items)) if value.kind != "tuple" else map(canonical, value.items)
        return f"{'set' if value.kind in _SETS else value.kind}({','.join(items)})"
    if type(value) is complex and not value.imag:
        value = value.real
    if type(value) is Fraction:
        return _canonical_fraction(value)
    if type(value) in (bool, int) or (type(value) is float and value.is_integer()):
        return hex(int(value))
    return json.dumps(value) if type(value) is str else repr(value)


def _canonical_fraction(value: Fraction) -> str:
    try:
        return canonical(float(value)) if float(value) == value else repr(value)
    except OverflowError:
        return hex(int(value)) if value.denominator == 1 else repr(value)


def with_lists(value: Any) -> Any:
    """Convert tuples to lists recursively, as JSON does."""
    if type(value) is list:
        return [with_lists(item) for item in value]
    if type(value) is Container:
        items = [with_lists(item) for item in value.items]
        return items if value.kind == "tuple" else Container(value.kind, items)
    return value


def close(expected: Any, got: Any, absolute: float, relative: float) -> bool:
    """Return whether numbers are within |got - expected| <= absolute + relative * |expected|, also in nested lists or
    tuples.

    Fractions and decimals are equal or not: peers don't mix them with floats either.
    """
    if is_number(expected) and is_number(got):
        return is_within(got, expected, absolute, relative)
    items, others = _sequence(expected), _sequence(got)
    if items is None or others is None or len(items) != len(others):
        return False
    return all(close(item, other, absolute, relative) for item, other in zip(items, others, strict=True))


def is_within(got: Any, expected: Any, absolute: float, relative: float = 0.0) -> bool:
    """Compare two numbers; some are too large for floats.

    A tolerance applies to finite numbers only. An infinity equals the same infinity, and NaN equals NaN.
    """
    if expected == got or (got != got and expected != expected):
        return True
    if type(got) not in _FLOATING or type(expected) not in _FLOATING:
        return False
    try:
        distance = abs(got - expected)
        return math.isfinite(distance) and bool(distance <= absolute + relative * abs(expected))
    except OverflowError:
        return False


def close_or_equal(expected: Any, got: Any, tolerance: float, relative: float | None = None) -> bool:
    """Return whether values are equal, with floats within the tolerance, absolutely or relatively.

    `relative` is the relative tolerance if it differs.
    """
    if type(expected) is float or type(got) is float:
        relative = tolerance if relative is None else relative
        return is_number(expected) and is_number(got) and close(expected, got, tolerance, relative)
    if type(expected) is list and type(got) is list and len(expected) == len(got):
        return all(close_or_equal(item, other, tolerance, relative) for item, other in zip(expected, got, strict=True))
    return equal(expected, got)


def _sequence(value: Any) -> list[Any] | None:
    if type(value) is list:
        return value
    return value.items if type(value) is Container and value.kind == "tuple" else None
