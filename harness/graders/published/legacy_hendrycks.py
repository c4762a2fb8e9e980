"""Legacy: the string match of the MATH paper, as used by Hendrycks et al. and lm-eval's string metrics.

Reproduces `modeling/math_equivalence.py` of hendrycks/math (arXiv 2103.03874): remove spacing, sizes, degree, dollar
and percent signs and right-hand units, expand `a/b` and `\\frac12`, write 0.5 as `\\frac{1}{2}`, then compare strings.
`variant` selects a copy of it; they differ in where the answer is extracted from:

* `hendrycks`: from the last `\\boxed{}`, and nowhere else.
* `lm-eval-aime` (its aime tasks): from the last box, else from the first to the last dollar sign, else the whole text.
* `lm-eval-math` (its hendrycks_math tasks): from dollar sign to dollar sign, else the whole text; boxes are ignored.

lm-eval's copy keeps a percent sign without a backslash, and compares a text with one slash between anything but whole
numbers without normalising it. For your own results use `math`.

Known faults: different spellings of one value differ (0.25 and 1/4, the order of two answers, a space in a text); 50%
equals 50; only labels of up to two characters are removed; an answer in truncated reasoning counts.
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


class LegacyHendrycksGrader(Grader[MathReference | str]):
    @dataclass(frozen=True, slots=True)
    class Config:
        variant: Variant = "hendrycks"

    config: Config

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
        if _is_same(gold, answer, is_lm_eval=variant != "hendrycks"):
            return Verdict("correct", 1.0, answer)
        return Verdict("incorrect", 0.0, answer, "wrong")


def _last_box(text: str, *, is_lm_eval: bool) -> str | None:
    """Return the content of the last `\\boxed{}`; for lm-eval first what follows the last `\\boxed `, anywhere."""
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


def _is_same(gold: str, answer: str, *, is_lm_eval: bool) -> bool:
    """Compare normalised texts. If the normalisation fails, compare them unchanged, as the sources do."""
    try:
        return normalise(gold, is_lm_eval=is_lm_eval) == normalise(answer, is_lm_eval=is_lm_eval)
    except (IndexError, ValueError):
        return gold == answer


def normalise(text: str, *, is_lm_eval: bool = False) -> str:
    """Return the string to compare."""
    for mark in _DELETED:
        text = text.replace(mark, "")
    text = text.replace("\\\\", "\\").replace("tfrac", "frac").replace("dfrac", "frac")
    for mark in _LATER_DELETED:
        text = text.replace(mark, "")
    text = _remove_unit(text).replace("\\%", "")
    text = (text if is_lm_eval else text.replace("%", "")).replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    text = "0" + text if text[0] == "." else text
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:
        text = sides[1]
    text = _expand_fractions(_expand_roots(text).replace(" ", ""))
    return _expand_quotient("\\frac{1}{2}" if text == "0.5" else text, is_lm_eval=is_lm_eval)


def _remove_unit(text: str) -> str:
    parts = text.split("\\text{ ")
    if len(parts) > 2:
        raise ValueError("two units")
    return parts[0]


def _expand_roots(text: str) -> str:
    first, *others = text.split("\\sqrt")
    return first + "".join("\\sqrt" + (part if part[0] == "{" else f"{{{part[0]}}}{part[1:]}") for part in others)


def _expand_fractions(text: str) -> str:
    first, *others = text.split("\\frac")
    if any(part[0] != "{" and len(part) < 2 for part in others):
        return text
    return first + "".join("\\frac" + _expand_arguments(part) for part in others)


def _expand_arguments(part: str) -> str:
    if part[0] == "{":
        return part
    upper, lower, rest = part[0], part[1], part[2:]
    return f"{{{upper}}}{{{rest}" if lower == "{" else f"{{{upper}}}{{{lower}}}{rest}"


def _expand_quotient(text: str, *, is_lm_eval: bool) -> str:
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


GRADER = LegacyHendrycksGrader
