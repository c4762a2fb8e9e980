"""Compare two typed answers: by type, exactly, then numerically, then by algebra.

A structure is compared part by part, so that order, the ends of intervals and the number of answers count. Only single
expressions are ever computed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from harness.graders.math.arithmetic import LimitError, Node, Symbols, UndecidedError, Value, inexact
from harness.graders.math.equations import (
    SAME_FUNCTION,
    contains_its_label,
    equation_in,
    is_multiple,
    same_solutions,
    sides_of,
    symbols_for,
)
from harness.graders.math.expression import WORDS, UnreadableError, compiled
from harness.graders.math.notation import known_unit, listed, plain
from harness.graders.math.reference import MathReference, as_interval, read

Rung = Literal["exact", "numeric", "symbolic"]
RUNGS: tuple[Rung, ...] = ("exact", "numeric", "symbolic")

SAME_CONSTANT = 1e-12
WRITTEN_OUT = Fraction(1, 10**6)
_EXACT = Fraction(0)
MAX_SYMBOLIC = 64

_WHOLE = (5, 6, 7, 8, 9, 10, 11, 12, 25, 38, 51, 64)
_COUNTING = re.compile(r"\\(?:lfloor|lceil|binom)|!")

_CONSTANTS = re.compile(r"\\(?:pi|sqrt|frac|infty|cdot|times)(?![a-z])")
_PROSE = re.compile(r"(?<!\\)\b[a-z]{4,}\b")

Equal = Callable[[str, str], bool]


@dataclass
class Comparison:
    """One comparison of a gold answer with a candidate; `rung` is the last stage that was reached."""

    symbolic: Equal
    rung: Rung = "exact"
    n_symbolic: int = 0
    written_out: Fraction = WRITTEN_OUT
    """Relative tolerance of a decimal against a value without a finite decimal expansion."""
    base_may_be_missing: bool = False

    def same(self, gold: MathReference, answer: MathReference) -> bool:
        """Return whether the two are equal. Raises LimitError, and whatever `symbolic` raises."""
        if not self._units_agree(gold.unit, answer.unit):
            return False
        if "=" in gold.text and "=" in answer.text:
            renamed = _with_variable_of(gold, answer)
            if renamed is None:
                return False
            answer = renamed
            if (verdict := _as_equations(gold.text, answer.text)) is not None:
                self._climb("numeric")
                return verdict
        if (gold.kind, gold.brackets, gold.body) == (answer.kind, answer.brackets, answer.body):
            return True
        if gold.kind == "text":
            return _letters(gold.body) == _letters(answer.body)
        if gold.kind in ("set", "tuple", "interval"):
            return self._same_structure(gold, answer)
        if answer.kind == "set" and answer.brackets == "{}" and len(answer.items) == 1:
            answer = answer.items[0]
        if answer.kind in ("set", "tuple", "interval", "text"):
            return False
        if gold.value is not None and answer.value is not None:
            return _near(gold, gold.value, answer.value, self.written_out)
        return self._same_expression(gold, answer)

    def _units_agree(self, gold: str, answer: str) -> bool:
        """Return whether units are compatible: a missing or unknown unit fits any, two known ones must be equal.

        A number without a base is in base ten.
        """
        if gold.startswith("base ") or answer.startswith("base "):
            bases = {unit if unit else "base 10" for unit in (gold, answer)}
            return len(bases) == 1 or (self.base_may_be_missing and "" in (gold, answer))
        if (gold == "$" and answer.startswith("$")) or {gold, answer} == {"\u00a3", "lb"}:  # both are pounds
            return True
        return gold == answer or not (known_unit(gold) and known_unit(answer))

    # --- structures

    def _same_structure(self, gold: MathReference, answer: MathReference) -> bool:
        if gold.kind == "tuple" and gold.brackets == "()" and (point := _as_point(gold, answer)) is not None:
            answer = point
        if gold.kind == "set":
            if gold.brackets.startswith("named") and gold.brackets == answer.brackets:
                return all(map(self.same, gold.items, answer.items))
            items = answer.items if answer.kind == "set" else (answer,)
            return self._same_unordered(gold.items, items)
        if "interval" in (gold.kind, answer.kind):
            gold, answer = as_interval(gold), as_interval(answer)
        if gold.kind != answer.kind or not _shapes_agree(gold.brackets, answer.brackets):
            return False
        if gold.brackets == "union":
            return self._same_unordered(*(tuple(map(_point, side.items)) for side in (gold, answer)))
        return len(gold.items) == len(answer.items) and all(map(self.same, gold.items, answer.items))

    def _same_unordered(self, golds: Sequence[MathReference], answers: Sequence[MathReference]) -> bool:
        """Match each answer with exactly one gold answer."""
        left = list(answers)
        if len(left) != len(golds):
            return False
        for gold in golds:
            match = next((answer for answer in left if self.same(gold, answer)), None)
            if match is None:
                return False
            left.remove(match)
        return True

    # --- expressions

    def _same_expression(self, gold: MathReference, answer: MathReference) -> bool:
        self._climb("numeric")
        if (":" in gold.body) != (":" in answer.body):  # a time or a ratio is not a quotient
            return False
        try:
            if _is_chain(gold.text) and _is_chain(answer.text) and "\\approx" not in answer.body:
                whole = sides_of(plain(gold.text)), sides_of(plain(answer.text))  # a label is a part of a chain
                if len(whole[0]) == len(whole[1]) and self._same_parts(*whole):
                    return True
            sides = sides_of(gold.body), sides_of(answer.body)
            if "\\approx" in answer.body and not all(map(_is_balanced, sides[1])):
                return False
            if "\\approx" in gold.body and all(sides[0]) and all(map(_is_balanced, sides[0])):
                return any(self.same(replace(read(side), unit=gold.unit), answer) for side in sides[0])
            if len(sides[0]) == 1 and len(sides[1]) > 1:
                if len(sides[1]) == 2 and (equation := _as_equation(gold)) and _begins_otherwise(equation, answer.body):
                    return is_multiple(equation, f"{sides[1][0]}-({sides[1][1]})")
                return self._same_chain(gold, answer, sides[1])
            if len(sides[0]) != len(sides[1]):
                return False
            if len(sides[0]) == 1:
                return _same_value(gold, answer, self.written_out)
            if len(sides[0]) > 2:
                return self._same_parts(*sides)
            return is_multiple(*(f"{left}-({right})" for left, right in sides))
        except (UnreadableError, UndecidedError, ArithmeticError):
            return self._ask(gold.body, answer.body)

    def _same_chain(self, gold: MathReference, answer: MathReference, parts: Sequence[str]) -> bool:
        """Compare chains: in `3/6 = 1/2` the parts are equal, in `1/3 \approx 0.33` they are close."""
        if not all(parts):
            return False
        if _is_name(parts[0]):
            parts = parts[1:]
        answers = [read(part) for part in parts]
        agree = [self.same(gold, part) for part in answers]
        if "\\approx" not in answer.body or not any(agree):
            return all(agree)
        nodes = list(map(_node, answers))
        if any(names for _, names in nodes):
            return all(agree)
        return _is_rounding(answers, [inexact(node({})) for node, _ in nodes])

    def _same_parts(self, golds: Sequence[str], answers: Sequence[str]) -> bool:
        """Compare two chains such as `a = b = 1`: the same parts are equal, in any order."""
        if not (all(golds) and all(answers)):
            return False
        return self._same_unordered(list(map(read, golds)), list(map(read, answers)))

    def _ask(self, gold: str, answer: str) -> bool:
        if _PROSE.search(gold) is not None and gold.replace(" ", "") == answer.replace(" ", ""):
            return True
        self._climb("symbolic")
        self.n_symbolic += 1
        if self.n_symbolic > MAX_SYMBOLIC:
            raise LimitError(f"more than {MAX_SYMBOLIC} comparisons by algebra")
        return self.symbolic(gold, answer)

    def _climb(self, rung: Rung) -> None:
        self.rung = max(self.rung, rung, key=RUNGS.index)


# --- notation ------------------------------------------------------------------------------------------------------


def _letters(text: str) -> str:
    words = re.sub(r"\\[A-Za-z]+", " ", text)
    return "".join(character for character in words.casefold() if character.isalnum())


def _shapes_agree(gold: str, answer: str) -> bool:
    return gold == answer or {gold, answer} == {"()", "column"}


_FUNCTION = re.compile(r"^[A-Za-z] ?\( ?([A-Za-z]) ?\) ?=")
_LETTERS = re.compile(rf"\\[A-Za-z]+|(?:{WORDS})(?![a-z])|[A-Za-z]")
_COORDINATE = re.compile(r"^([A-Za-z]) ?= ?([^=]+)$")
_POINT_NAMES = re.compile(r"^\( ?([A-Za-z](?: ?, ?[A-Za-z])+) ?\) ?=")


def _with_variable_of(gold: MathReference, answer: MathReference) -> MathReference | None:
    """Return the answer `f(t) = t + 1` in the variable of a gold `f(x) = x + 1`.

    None if the gold's variable occurs in the answer already: there it is another symbol.
    """
    ours, theirs = _FUNCTION.match(plain(gold.text)), _FUNCTION.match(plain(answer.text))
    if ours is None or theirs is None or ours.group(1) == theirs.group(1):
        return answer
    if ours.group(1) in _LETTERS.findall(answer.body):
        return None
    renamed = _LETTERS.sub(lambda name: ours.group(1) if name.group() == theirs.group(1) else name.group(), answer.body)
    return replace(read(renamed), unit=answer.unit)


def _as_point(gold: MathReference, answer: MathReference) -> MathReference | None:
    """Read `x = 3, y = 4` as the pair (3, 4): in the gold's order of names, or in that of the alphabet."""
    if answer.kind != "set" or answer.brackets or len(answer.items) != len(gold.items):
        return None
    parts = [_COORDINATE.match(part) for part in listed(plain(answer.text))]
    values = {part.group(1): part.group(2) for part in parts if part is not None}
    stated = _POINT_NAMES.match(plain(gold.text))
    names = re.findall("[A-Za-z]", stated.group(1)) if stated is not None else sorted(values)
    if sorted(names) != sorted(values) or len(values) != len(parts):
        return None
    return replace(read(f"({','.join(values[name] for name in names)})"), text=answer.text)


def _point(part: MathReference) -> MathReference:
    r"""Read `\{1\}` in a union as the interval from 1 to 1."""
    if part.kind == "set" and len(part.items) == 1:
        return replace(part, kind="interval", brackets="[]", items=part.items * 2)
    return part


def _is_chain(text: str) -> bool:
    return len(sides_of(text.replace("\uff1d", "="))) > 2  # the fullwidth sign too


def _is_balanced(side: str) -> bool:
    return all(side.count(opening) == side.count(closing) for opening, closing in ("()", "{}", "[]"))


def _is_rounding(parts: Sequence[MathReference], values: Sequence[complex]) -> bool:
    """Return whether a chain rounds: as in `1/3 \approx 0.333`, each part is near the first, in other precision."""
    places = [_places(part) for part in parts]
    for at, value in enumerate(values):
        for before in range(at):
            if abs(value - values[before]) > 10.0 ** -min(places[at], places[before]):
                return False
            if places[at] == places[before] and abs(value - values[before]) > SAME_CONSTANT * abs(value):
                return False
    return True


def _places(part: MathReference) -> int:
    """Return the number of decimal places; infinite for anything but a decimal number."""
    return len(part.body.partition(".")[2]) if part.kind in ("integer", "decimal") else 300


def _as_equations(gold: str, answer: str) -> bool | None:
    """Compare two answers that are equations. None where the left sides may be no more than labels."""
    ours, theirs = equation_in(gold), equation_in(answer)
    if ours is None or theirs is None:
        return None
    if ours == theirs:
        return True
    is_label = True
    try:
        is_label = not contains_its_label(answer)
        return True if same_solutions(ours, theirs) else (None if is_label else False)
    except (UnreadableError, UndecidedError, LimitError, ArithmeticError):
        return None if is_label else False


def _as_equation(gold: MathReference) -> str:
    """Return `y-(2x+3)` for a gold `y = 2x + 3` with symbols on its right side, else None."""
    label = re.match(r"([A-Za-z]) ?=", plain(gold.text))
    return f"{label.group(1)}-({gold.body})" if label is not None and compiled(gold.body)[1] else ""


def _begins_otherwise(equation: str, answer: str) -> bool:
    """Return whether an answer is not of the form `y = ...` but contains that y."""
    return equation[0] in compiled("+".join(f"({side})" for side in sides_of(answer)))[1]


def _is_name(side: str) -> bool:
    """Return whether a side is a name without a number, such as `m+n` or `\angle ABC`."""
    return re.search(r"[A-Za-z]", _CONSTANTS.sub("", side)) is not None and re.search(r"[0-9]", side) is None


# --- values --------------------------------------------------------------------------------------------------------


def _same_value(gold: MathReference, answer: MathReference, written_out: Fraction) -> bool:
    gold_node, gold_names = _node(gold)
    answer_node, answer_names = _node(answer)
    if not gold_names and not answer_names:
        is_decimal = answer.kind in ("decimal", "scientific")
        return _near(gold, gold_node({}), answer_node({}), written_out, is_decimal=is_decimal)
    if ("|" in gold.body) != ("|" in answer.body):
        raise UndecidedError("an absolute value on one side: only positive symbols are tried here")
    names = sorted(gold_names | answer_names)
    counts = _COUNTING.search(gold.body) is not None or _COUNTING.search(answer.body) is not None
    points = _whole_symbols(names) if counts else symbols_for(names)
    values = [(inexact(gold_node(point)), inexact(answer_node(point))) for point in points]
    if all(abs(left - right) <= SAME_FUNCTION * max(abs(left), abs(right)) for left, right in values):
        return True
    if gold_names and answer_names and gold_names != answer_names and not _differ_by_case(gold_names, answer_names):
        raise UndecidedError("other symbols: perhaps another notation")
    return False


def _differ_by_case(left: frozenset[str], right: frozenset[str]) -> bool:
    """Return whether symbols differ only in case: r is not R, even where algebra ignores it."""
    return {name.casefold() for name in left} == {name.casefold() for name in right}


def _node(side: MathReference) -> tuple[Node, frozenset[str]]:
    value = side.value
    return compiled(side.body) if value is None else ((lambda symbols: value), frozenset())  # noqa: ARG005


def _whole_symbols(names: Sequence[str]) -> list[Symbols]:
    """Draw integers, for identities that hold only for integers: floors, factorials, binomials."""
    return [{name: Fraction(start + 3 * index) for index, name in enumerate(names)} for start in _WHOLE]


def _near(
    gold: MathReference, expected: Value, found: Value, written_out: Fraction, *, is_decimal: bool = False
) -> bool:
    """Return whether two values agree within the gold's tolerances; exactly if both are rational and it has none."""
    if isinstance(expected, Fraction) and isinstance(found, Fraction):
        if expected == found:
            return True
        is_written_out = is_decimal and not _is_terminating(expected)
        return abs(expected - found) <= max(_allowed(gold, expected), is_written_out * written_out * abs(expected))
    left, right = inexact(expected), inexact(found)
    scale, difference = max(abs(left), abs(right)), abs(left - right)
    tolerance = max(float(written_out), SAME_CONSTANT) if is_decimal else SAME_CONSTANT
    if difference <= max(tolerance * scale, float(_allowed(gold, Fraction(abs(left)))) * (1 + SAME_CONSTANT)):
        return True
    if difference <= SAME_FUNCTION * (scale if left and right else 1.0):
        raise UndecidedError("as near as floats can come")
    return False


def _allowed(gold: MathReference, expected: Fraction) -> Fraction:
    if not (gold.absolute_tolerance or gold.relative_tolerance):
        return _EXACT
    return max(Fraction(str(gold.absolute_tolerance)), Fraction(str(gold.relative_tolerance)) * abs(expected))


def _is_terminating(value: Fraction) -> bool:
    denominator = value.denominator
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    return denominator == 1
