"""Equality rules for return values that differ from the expected text. A rule is plain data, so that another process
can apply it.
"""

from __future__ import annotations

import functools
import marshal
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.graders.code import evalplus_rules
from harness.graders.code.output_match import lines_equal
from harness.graders.code.values import Container, close_or_equal, decode, encode, equal, with_lists
from harness.sandbox.inside import codec
from harness.sandbox.inside.codec import NotPlainError

_MORE_BYTES, _SHOWN_CHARACTERS = 4 << 20, 1000

AnswerRule = tuple[Any, ...]
"""The name of a rule in `_RULES`, and its options."""


@dataclass(frozen=True)
class ExpectedAnswer:
    """An expected return value, encoded."""

    text: bytes

    @functools.cached_property
    def packed(self) -> bytes | None:
        """The packed form, if a program would pack it."""
        try:
            value = decode(self.text)
        except NotPlainError:  # packed because it is giant
            return None
        return codec.packed(tuple(value.items) if _is_tuple(value) else value)

    @property
    def room_bytes(self) -> int:
        """Upper bound of the length of a correct answer: other types of containers and numbers have longer names, and
        packed numbers take nine bytes each.
        """
        n_bytes = len(self.text)
        n_numbers = self.text.count(b",") + 1 if self.text.startswith((b"[", b'{"tuple"')) else 0
        return max(min(4 * n_bytes, n_bytes * 3 // 2 + _MORE_BYTES), 9 * n_numbers) + 4096


def _is_tuple(value: Any) -> bool:
    return type(value) is Container and value.kind == "tuple"


def is_right(rule: AnswerRule, expected: bytes, body: bytes) -> bool:
    """Return whether two encoded values are equal by the rule. Anything that is not a value, or is nested more deeply
    than a program's encoder allows, is wrong.
    """
    try:
        return _follows(rule, expected, decode(body))
    except (NotPlainError, RecursionError):
        return False


def is_right_packed(rule: AnswerRule, expected: bytes, body: bytes) -> bool:
    """Return whether a packed value is correct. For a sandbox only: packed bytes may be made to crash their reader."""
    value = _unpacked(body)
    try:
        return value is not None and _follows(rule, expected, value)
    except NotPlainError:  # the expected value is giant
        return False


def _unpacked(body: bytes) -> Any:
    """Return the value, or None for bytes that our encoder would not have packed."""
    if not _is_flat(body):
        return None
    try:
        value = marshal.loads(body)
    except Exception:  # a forged text can raise any exception
        return None
    if codec.packed(value) != body:
        return None
    return Container("tuple", list(value)) if type(value) is tuple else value


_FIXED_ITEMS = re.compile(rb"(?:[NTF]|i.{4}|g.{8})++", re.DOTALL)
_HEAD_BYTES = 5
_UNIT_BYTES = {b"u": 1, b"l": 2}
"""Bytes per unit of length: a text's bytes, and the digits of an integer beyond 32 bits."""


def _is_flat(body: bytes) -> bool:
    """Return whether these are the marshal bytes of a text, or of a list or tuple of numbers and texts.

    A few hundred bytes of nested tuples that refer to each other can take a reader hours. A flat value takes as long
    as its bytes are many.
    """
    kind, length = body[:1], int.from_bytes(body[1:_HEAD_BYTES], "little", signed=True)
    if kind == b"u":
        return length == len(body) - _HEAD_BYTES
    if kind not in (b"[", b"(") or not 0 <= length <= len(body) - _HEAD_BYTES:
        return False
    at = _HEAD_BYTES
    while at < len(body):
        if (fixed := _FIXED_ITEMS.match(body, at)) is not None:
            at = fixed.end()
            continue
        unit_bytes = _UNIT_BYTES.get(body[at : at + 1])
        if unit_bytes is None:
            return False
        n_units = int.from_bytes(body[at + 1 : at + _HEAD_BYTES], "little", signed=True)
        at += _HEAD_BYTES + unit_bytes * abs(n_units)
    return at == len(body)


def start_of_packed(body: bytes) -> str:
    value = _unpacked(body)
    try:
        return repr(value.items if _is_tuple(value) else value)[:_SHOWN_CHARACTERS]
    except ValueError:  # Python does not write integers of thousands of digits
        return "with an integer of thousands of digits"


def _follows(rule: AnswerRule, expected: bytes, got: Any) -> bool:
    name, *options = rule
    return _RULES[name](decode(expected), got, *options)


def _plain(expected: Any, got: Any, tolerance: float, relative: float | None = None) -> bool:
    return close_or_equal(expected, with_lists(got), tolerance, relative)


def _evalplus(
    expected: Any,
    got: Any,
    dataset: evalplus_rules.Dataset,
    entry_point: str,
    arguments: Sequence[object],
    tolerance: float,
) -> bool:
    ours = decode(encode(list(arguments)))
    return evalplus_rules.is_right(dataset, entry_point, ours, expected, got, tolerance)


def _official_output(expected: Any, got: Any) -> bool:
    return _are_alike(expected, got) and type(got[1]) is str and lines_equal(got[1], expected[1])


def _official_value(expected: Any, got: Any) -> bool:
    return _are_alike(expected, got) and equal(expected[1], got[1])


def _are_alike(expected: Any, got: Any) -> bool:
    """Yield pairs whose keys begin with the same name."""
    return type(got) is list and len(got) == len(expected) and got[0] == expected[0]


_RULES: Mapping[str, Callable[..., bool]] = {
    "plain": _plain,
    "evalplus": _evalplus,
    "official_output": _official_output,
    "official_value": _official_value,
}
