"""When the answer of a function is right though it is not written as the expected one is. A rule is plain data, so that
another process can apply it."""

from __future__ import annotations

import functools
import marshal
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
"""The name of a rule and its options: what `_RULES` has."""


@dataclass(frozen=True)
class ExpectedAnswer:
    """Encoded."""

    text: bytes

    @functools.cached_property
    def packed(self) -> bytes | None:
        """As a program would pack it, if it would."""
        try:
            value = decode(self.text)
        except NotPlainError:  # it is giant
            return None
        return codec.packed(tuple(value.items) if _is_tuple(value) else value)

    @property
    def room_bytes(self) -> int:
        """How long a right answer may be: other kinds of containers and numbers have longer names, and numbers that are
        packed take nine bytes each."""
        n_bytes = len(self.text)
        n_numbers = self.text.count(b",") + 1 if self.text.startswith((b"[", b'{"tuple"')) else 0
        return max(min(4 * n_bytes, n_bytes * 3 // 2 + _MORE_BYTES), 9 * n_numbers) + 4096


def _is_tuple(value: Any) -> bool:
    return type(value) is Container and value.kind == "tuple"


def is_right(rule: AnswerRule, expected: bytes, body: bytes) -> bool:
    """Both are encoded. What is no value, or is nested deeper than a program's own encoder allows, is wrong."""
    try:
        return _follows(rule, expected, decode(body))
    except (NotPlainError, RecursionError):
        return False


def is_right_packed(rule: AnswerRule, expected: bytes, body: bytes) -> bool:
    """For a sandbox alone: what a program packed may be made to break whoever reads it."""
    value = _unpacked(body)
    try:
        return value is not None and _follows(rule, expected, value)
    except NotPlainError:  # a giant is expected
        return False


def _unpacked(body: bytes) -> Any:
    """None of what no program's own side would have packed."""
    try:
        value = marshal.loads(body)
    except Exception:  # of whatever kind a made-up text brings about
        return None
    if codec.packed(value) != body:
        return None
    return Container("tuple", list(value)) if type(value) is tuple else value


def start_of_packed(body: bytes) -> str:
    value = _unpacked(body)
    return repr(value.items if _is_tuple(value) else value)[:_SHOWN_CHARACTERS]


def _follows(rule: AnswerRule, expected: bytes, got: Any) -> bool:
    name, *options = rule
    return _RULES[name](decode(expected), got, *options)


def _plain(expected: Any, got: Any, tolerance: float) -> bool:
    return close_or_equal(expected, with_lists(got), tolerance)


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
    """Pairs that begin with the same name."""
    return type(got) is list and len(got) == len(expected) and got[0] == expected[0]


_RULES: Mapping[str, Callable[..., bool]] = {
    "plain": _plain,
    "evalplus": _evalplus,
    "official_output": _official_output,
    "official_value": _official_value,
}
