"""When the output of a program equals the expected one. Linear in the text; sizes are bounded before reading."""

from __future__ import annotations

import itertools
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Literal

Comparison = Literal["lines", "tokens", "words", "floats", "close_lines"]
ToleranceKind = Literal["either", "absolute", "relative"]

_MOST_TOKENS, _LONGEST_TOKEN, _LARGEST_EXPONENT = 100_000, 4300, 10_000
_SHOWN_CHARACTERS = 100
_PIECE_CHARACTERS = 1 << 16
_LINE_END, _BLANK = re.compile("\n"), re.compile(r"\s")
_NUMBER_SIGNS = frozenset("0123456789+-.eE")


def room_for(expected: bytes) -> int:
    """Return the largest size of a correct output; longer output is not read."""
    return 2 * len(expected) + (64 << 10)


def is_same(output: bytes, expected: bytes) -> bool:
    """Return whether outputs are equal under any rule, without parsing them."""
    return len(output) <= room_for(expected) and output.strip() == expected.strip()


def is_expected(
    comparison: Comparison, output: bytes, expected: bytes, tolerance: float, kind: ToleranceKind = "either"
) -> bool:
    if len(output) > room_for(expected):
        return False
    return _RULES[comparison](output.decode("utf-8", "replace"), expected.decode("utf-8", "replace"), tolerance, kind)


def lines_equal(output: str, expected: str, *_tolerance: object) -> bool:
    """LiveCodeBench's rule: stripped lines are equal as text, or as exact decimal numbers token by token."""
    return _all_pairs(_line_equal, _lines(output), _lines(expected))


def _all_pairs(is_equal: Callable[[str, str], bool], ours: Iterable[str], wanted: Iterable[str]) -> bool:
    pairs = itertools.zip_longest(ours, wanted)
    return all(a is not None and b is not None and is_equal(a, b) for a, b in pairs)


def _lines(text: str) -> Iterator[str]:
    """Yield the lines without trailing blanks, and without empty lines at the ends of the text."""
    n_blank, has_begun = 0, False
    for piece in _pieces(text, _LINE_END):
        for line in map(str.strip, piece.split("\n")):
            if not line:
                n_blank += has_begun
                continue
            yield from itertools.repeat("", n_blank)
            n_blank, has_begun = 0, True
            yield line


def _tokens(text: str) -> Iterator[str]:
    for piece in _pieces(text, _BLANK):
        yield from piece.split()


def _pieces(text: str, end: re.Pattern[str]) -> Iterator[str]:
    """Yield the text in pieces: all tokens at once would take twenty times its size."""
    begin = 0
    while begin <= len(text):
        found = end.search(text, begin + _PIECE_CHARACTERS)
        cut, following = found.span() if found is not None else (len(text), len(text) + 1)
        yield text[begin:cut]
        begin = following


def _line_equal(line: str, wanted: str) -> bool:
    if line == wanted:
        return True
    tokens, wanted_tokens = (text.split(maxsplit=_MOST_TOKENS) for text in (line, wanted))
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
        raise InvalidOperation  # comparing such numbers takes time proportional to the exponent
    return number


def tokens_equal(output: str, expected: str, *_tolerance: object) -> bool:
    """Whitespace-separated tokens are equal as text; yes and no in any case, as on CodeForces."""
    return _all_pairs(operator.eq, map(_token, _tokens(output)), map(_token, _tokens(expected)))


def _token(token: str) -> str:
    return token.upper() if token.upper() in ("YES", "NO") else token


def words_equal(output: str, expected: str, *_tolerance: object) -> bool:
    """Tokens are equal as text, in any case."""
    return _all_pairs(operator.eq, map(str.upper, _tokens(output)), map(str.upper, _tokens(expected)))


def floats_close(output: str, expected: str, tolerance: float, kind: ToleranceKind = "either") -> bool:
    """As many tokens; where a number with a point or an exponent is expected, one within the tolerance; elsewhere the
    same text, also for an infinity or NaN.
    """

    def is_close(token: str, wanted: str) -> bool:
        return _token_close(token, wanted, wanted, tolerance, kind)

    return _all_pairs(is_close, _tokens(output), _tokens(expected))


def close_lines_equal(output: str, expected: str, tolerance: float, kind: ToleranceKind = "either") -> bool:
    """LiveCodeBench's rule, or as many tokens, with numbers within the tolerance if one has a point or an exponent."""

    def is_close(token: str, wanted: str) -> bool:
        return _token_close(token, wanted, token + wanted, tolerance, kind)

    return lines_equal(output, expected) or _all_pairs(is_close, _tokens(output), _tokens(expected))


def _token_close(token: str, wanted: str, floating: str, tolerance: float, kind: ToleranceKind) -> bool:
    """Return whether two tokens are equal, or numbers within the tolerance if `floating` has a point or an exponent."""
    if token == wanted:
        return True
    if not (_is_number(wanted) and _is_number(token) and set(floating) & set(".eE")):
        return False
    number, other = float(token), float(wanted)
    room = tolerance + 1e-15
    if not (math.isfinite(number) and math.isfinite(other)):
        return False
    absolute, relative = (room if kind in ("either", one) else 0.0 for one in ("absolute", "relative"))
    return abs(number - other) <= max(absolute, relative * abs(other))


def _is_number(token: str) -> bool:
    if not _NUMBER_SIGNS.issuperset(token) or len(token) > _LONGEST_TOKEN:
        return False
    try:
        float(token)
    except ValueError:
        return False
    return True


def first_difference(output: bytes, expected: bytes) -> str:
    """Return the first line that differs, without trailing blanks, in a bounded form for a person."""
    lines, wanted = (_lines(text.decode("utf-8", "replace")) for text in (output, expected))
    for n_alike, (line, other) in enumerate(itertools.zip_longest(lines, wanted)):
        if line is None or other is None:
            n_all = n_alike + 1 + sum(1 for _ in itertools.chain(lines, wanted))
            n_expected, n_written = (n_all, n_alike) if line is None else (n_alike, n_all)
            return f"{n_expected} lines expected, {n_written} written"
        if line != other:
            begin = max(0, _first_unlike(line, other) - _SHOWN_CHARACTERS // 2)
            return f"line {n_alike + 1}: {_piece(other, begin)} expected, {_piece(line, begin)} written"
    return "in blanks alone"


def _first_unlike(line: str, other: str) -> int:
    return next((place for place, (a, b) in enumerate(zip(line, other, strict=False)) if a != b), 0)


def _piece(line: str, begin: int) -> str:
    end = begin + _SHOWN_CHARACTERS
    return repr(("... " if begin else "") + line[begin:end] + (" ..." if len(line) > end else ""))


_RULES: Mapping[Comparison, Callable[[str, str, float, ToleranceKind], bool]] = {
    "lines": lines_equal,
    "tokens": tokens_equal,
    "words": words_equal,
    "floats": floats_close,
    "close_lines": close_lines_equal,
}
