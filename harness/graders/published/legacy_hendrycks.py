"""Legacy: the string match of the MATH paper, as Hendrycks et al. and lm-eval's string metrics use it.

Reproduces `modeling/math_equivalence.py` of hendrycks/math (arXiv 2103.03874): spacing, sizes, degree, dollar and
percent signs and right-hand units taken off, `a/b` and `\\frac12` spelt out, 0.5 spelt `\\frac{1}{2}`, then equality.
`variant` says whose copy of it, which differ in where the answer is found:

* `hendrycks`: in the last `\\boxed{}`, and nowhere else.
* `lm-eval-aime` (its aime tasks): in the last box, else from the first to the last dollar sign, else the whole text.
* `lm-eval-math` (its hendrycks_math tasks): from dollar sign to dollar sign, else the whole text; a box means nothing.

lm-eval's copy leaves a percent sign without a backslash where it is, and gives up on a text with one slash between
anything but whole numbers, which is then compared unnormalised. For numbers of one's own use `math`.

Known to be wrong with it: any other spelling of the same value differs (0.25 and 1/4, the order of two answers, a
space in a text); 50% equals 50; only labels of up to two characters are taken off; a truncated thought counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from harness.core.protocols import Grader
from harness.core.types import Completion, Problem, Verdict
from harness.graders.math.reference import MathReference, gold_text

Variant = Literal["hendrycks", "lm-eval-aime", "lm-eval-math"]

_DELETED = ("\n", "\\!")
_LATER_DELETED = ("\\left", "\\right", "^{\\circ}", "^\\circ", "\\$")


class LegacyHendrycksGrader:
    @dataclass(frozen=True, slots=True)
    class Config:
        variant: Variant = "hendrycks"

    def __init__(self, config: Config) -> None:
        self.config = config

    def grade(self, problem: Problem[MathReference | str], completion: Completion) -> Verdict:
        gold = gold_text(problem.reference)
        if gold is None:
            return Verdict("ungraded", None, reason="reference unreadable")
        variant = self.config.variant
        answer = None if variant == "lm-eval-math" else _last_box(completion.text, is_lm_eval=variant == "lm-eval-aime")
        if answer is None and variant != "hendrycks":
            answer = _between_dollars(completion.text)
        if answer is None:
            return Verdict("incorrect", 0.0, reason="no answer")
        if _same(gold, answer, is_lm_eval=variant != "hendrycks"):
            return Verdict("correct", 1.0, answer)
        return Verdict("incorrect", 0.0, answer, "wrong")


def _last_box(text: str, *, is_lm_eval: bool) -> str | None:
    """What is in the last `\\boxed{}`; lm-eval takes what follows the last `\\boxed ` first, wherever it is."""
    if is_lm_eval and "\\boxed " in text:
        return text.rpartition("\\boxed ")[2].partition("$")[0]
    start = text.rfind("\\boxed")
    if start < 0 or not text.startswith("\\boxed{", start):
        return None
    level = 0
    for mark in re.compile(r"[{}]").finditer(text, start):
        level += 1 if mark.group() == "{" else -1
        if level == 0:
            return text[start + len("\\boxed{") : mark.start()]
    return None


def _between_dollars(text: str) -> str:
    first, last = text.find("$"), text.rfind("$")
    return text[first + 1 : last] if first < last else text


def _same(gold: str, answer: str, *, is_lm_eval: bool) -> bool:
    """A text that the normalisation can't take is compared as it is, as the sources do it."""
    try:
        return normalised(gold, is_lm_eval=is_lm_eval) == normalised(answer, is_lm_eval=is_lm_eval)
    except (IndexError, ValueError):
        return gold == answer


def normalised(text: str, *, is_lm_eval: bool = False) -> str:
    """The string that is compared."""
    for mark in _DELETED:
        text = text.replace(mark, "")
    text = text.replace("\\\\", "\\").replace("tfrac", "frac").replace("dfrac", "frac")
    for mark in _LATER_DELETED:
        text = text.replace(mark, "")
    text = _without_unit(text).replace("\\%", "")
    text = (text if is_lm_eval else text.replace("%", "")).replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    text = "0" + text if text[0] == "." else text
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:
        text = sides[1]
    text = _spelt_fractions(_spelt_roots(text).replace(" ", ""))
    return _spelt_quotient("\\frac{1}{2}" if text == "0.5" else text, is_lm_eval=is_lm_eval)


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


def _spelt_quotient(text: str, *, is_lm_eval: bool) -> str:
    sides = text.split("/")
    if len(sides) != 2:
        return text
    try:
        upper, lower = int(sides[0]), int(sides[1])
    except ValueError:
        if is_lm_eval:
            raise
        return text
    return f"\\frac{{{upper}}}{{{lower}}}" if text == f"{upper}/{lower}" else text


GRADER: type[Grader[MathReference | str]] = LegacyHendrycksGrader
