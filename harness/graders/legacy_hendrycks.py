"""Legacy: the string match of the MATH paper, as Hendrycks et al. and lm-eval's string metrics use it.

Reproduces `modeling/math_equivalence.py` of hendrycks/math (arXiv 2103.03874): the last `\\boxed{}` or `\\fbox{}`,
spacing, sizes, degree, dollar and percent signs and right-hand units taken off, `a/b` and `\\frac12` spelt out, 0.5
spelt `\\frac{1}{2}`, equality of strings. With `between_dollars` a completion without a box gives what stands between
its first and last dollar sign, which is how lm-eval reads it. For numbers of one's own use `math`.

Known to be wrong with it: any other spelling of the same value differs (0.25 and 1/4, the order of two answers, a
space in a text); 50% equals 50; only labels of up to two characters are taken off; a truncated thought counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.core.protocols import Grader
from harness.core.types import Completion, Problem, Verdict
from harness.graders._math_reference import MathReference, gold_text

_DELETED = ("\n", "\\!")
_LATER_DELETED = ("\\left", "\\right", "^{\\circ}", "^\\circ", "\\$")


class LegacyHendrycksGrader:
    @dataclass(frozen=True, slots=True)
    class Config:
        between_dollars: bool = False
        """Without a box, read what stands between the first and the last dollar sign."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def grade(self, problem: Problem[MathReference | str], completion: Completion) -> Verdict:
        gold = gold_text(problem.reference)
        if gold is None:
            return Verdict("ungraded", None, reason="reference unreadable")
        answer = _last_box(completion.text)
        if answer is None and self.config.between_dollars:
            answer = completion.text.partition("$")[2].rpartition("$")[0]
        if answer is None:
            return Verdict("incorrect", 0.0, reason="no answer")
        if _same(gold, answer):
            return Verdict("correct", 1.0, answer)
        return Verdict("incorrect", 0.0, answer, "wrong")


def _last_box(text: str) -> str | None:
    start = text.rfind("\\boxed")
    if start < 0:
        start = text.rfind("\\fbox")
    if start < 0:
        return None
    if text.startswith("\\boxed ", start):
        return text[start + len("\\boxed ") :].partition("$")[0]
    level, begin = 0, text.find("{", start)
    for mark in re.compile(r"[{}]").finditer(text, start):
        level += 1 if mark.group() == "{" else -1
        if level == 0:
            return text[begin + 1 : mark.start()]
    return None


def _same(gold: str, answer: str) -> bool:
    """A text that the normalisation can't take is compared as it is, as the source does it."""
    try:
        return normalised(gold) == normalised(answer)
    except (IndexError, ValueError):
        return gold == answer


def normalised(text: str) -> str:
    """The string that is compared."""
    for mark in _DELETED:
        text = text.replace(mark, "")
    text = text.replace("\\\\", "\\").replace("tfrac", "frac").replace("dfrac", "frac")
    for mark in _LATER_DELETED:
        text = text.replace(mark, "")
    text = _without_unit(text).replace("\\%", "").replace("%", "").replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    text = "0" + text if text[0] == "." else text
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:
        text = sides[1]
    text = _spelt_fractions(_spelt_roots(text).replace(" ", ""))
    return _spelt_quotient("\\frac{1}{2}" if text == "0.5" else text)


def _without_unit(text: str) -> str:
    parts = text.split("\\text{ ")
    if len(parts) > 2:
        raise ValueError("two units")
    return parts[0]


def _spelt_roots(text: str) -> str:
    first, *others = text.split("\\sqrt")
    return first + "".join("\\sqrt" + (part if part[0] == "{" else f"{{{part[0]}}}{part[1:]}") for part in others)


def _spelt_fractions(text: str) -> str:
    first, *others = text.split("\\frac")
    if any(part[0] != "{" and len(part) < 2 for part in others):
        return text
    return first + "".join("\\frac" + _spelt_arguments(part) for part in others)


def _spelt_arguments(part: str) -> str:
    if part[0] == "{":
        return part
    upper, lower, rest = part[0], part[1], part[2:]
    return f"{{{upper}}}{{{rest}" if lower == "{" else f"{{{upper}}}{{{lower}}}{rest}"


def _spelt_quotient(text: str) -> str:
    sides = text.split("/")
    if len(sides) != 2:
        return text
    try:
        upper, lower = int(sides[0]), int(sides[1])
    except ValueError:
        return text
    return f"\\frac{{{upper}}}{{{lower}}}" if text == f"{upper}/{lower}" else text


GRADER: type[Grader[MathReference | str]] = LegacyHendrycksGrader
