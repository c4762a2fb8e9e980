"""When the output of a program is the expected one. Linear in the text; sizes are bounded before anything is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Literal

Comparison = Literal["lines", "tokens", "words", "floats"]

_MOST_TOKENS, _LONGEST_TOKEN, _LARGEST_EXPONENT = 100_000, 4300, 10_000
_SHOWN_CHARACTERS = 100
_NUMBER_SIGNS = frozenset("0123456789+-.eE")


def room_for(expected: bytes) -> int:
    """More output than this can't be right, so it is not even read."""
    return 2 * len(expected) + (64 << 10)


def is_expected(comparison: Comparison, output: bytes, expected: bytes, tolerance: float) -> bool:
    if len(output) > room_for(expected):
        return False
    if output == expected:
        return True
    return _RULES[comparison](output.decode("utf-8", "replace"), expected.decode("utf-8", "replace"), tolerance)


def lines_equal(output: str, expected: str, _tolerance: float = 0.0) -> bool:
    """LiveCodeBench's rule: stripped lines are equal as text, or as exact decimal numbers token by token."""
    lines, wanted = output.strip().split("\n"), expected.strip().split("\n")
    return len(lines) == len(wanted) and all(map(_line_equal, lines, wanted))


def _line_equal(line: str, wanted: str) -> bool:
    line, wanted = line.strip(), wanted.strip()
    if line == wanted:
        return True
    tokens, wanted_tokens = line.split(), wanted.split()
    if len(tokens) != len(wanted_tokens) or len(tokens) > _MOST_TOKENS:
        return False
    try:
        return all(_decimal(token) == _decimal(other) for token, other in zip(tokens, wanted_tokens, strict=True))
    except InvalidOperation:
        return False


def _decimal(token: str) -> Decimal:
    if len(token) > _LONGEST_TOKEN:
        raise InvalidOperation
    number = Decimal(token)
    if number and number.is_finite() and abs(number.adjusted()) > _LARGEST_EXPONENT:
        raise InvalidOperation  # comparing such numbers takes as long as the exponent says
    return number


def tokens_equal(output: str, expected: str, _tolerance: float = 0.0) -> bool:
    """Tokens between white space are equal as text; a yes or no in any case, as CodeForces has it."""
    return list(map(_token, output.split())) == list(map(_token, expected.split()))


def _token(token: str) -> str:
    return token.upper() if token.upper() in ("YES", "NO") else token


def words_equal(output: str, expected: str, _tolerance: float = 0.0) -> bool:
    """Tokens are equal as text, in any case."""
    return output.upper().split() == expected.upper().split()


def floats_close(output: str, expected: str, tolerance: float) -> bool:
    """As many tokens; where a number with a point or an exponent is expected, one that is absolutely or relatively
    within the tolerance; elsewhere the same text."""
    tokens, wanted = output.split(), expected.split()
    return len(tokens) == len(wanted) and all(
        _token_close(t, w, tolerance) for t, w in zip(tokens, wanted, strict=True)
    )


def _token_close(token: str, wanted: str, tolerance: float) -> bool:
    if token == wanted:
        return True
    if not (_is_number(wanted) and _is_number(token) and set(wanted) & set(".eE")):
        return False
    number, other = float(token), float(wanted)
    room = tolerance + 1e-15
    return abs(number - other) <= max(room, room * abs(other))


def _is_number(token: str) -> bool:
    if not _NUMBER_SIGNS.issuperset(token) or len(token) > _LONGEST_TOKEN:
        return False
    try:
        float(token)
    except ValueError:
        return False
    return True


def first_difference(output: bytes, expected: bytes) -> str:
    """The first line in which the texts differ, blanks at its ends aside, in a bounded form for a person."""
    lines, wanted = (text.decode("utf-8", "replace").strip().split("\n") for text in (output, expected))
    for number, (line, other) in enumerate(zip(lines, wanted, strict=False), 1):
        if line.strip() != other.strip():
            n_alike = next((n for n, (a, b) in enumerate(zip(line, other, strict=False)) if a != b), 0)
            begin = max(0, n_alike - _SHOWN_CHARACTERS // 2)
            return f"line {number}: {_piece(other, begin)} expected, {_piece(line, begin)} written"
    if len(lines) == len(wanted):
        return "in blanks alone"
    return f"{len(wanted)} lines expected, {len(lines)} written"


def _piece(line: str, begin: int) -> str:
    end = begin + _SHOWN_CHARACTERS
    return repr(("... " if begin else "") + line[begin:end] + (" ..." if len(line) > end else ""))


_RULES: Mapping[Comparison, Callable[[str, str, float], bool]] = {
    "lines": lines_equal,
    "tokens": tokens_equal,
    "words": words_equal,
    "floats": floats_close,
}
