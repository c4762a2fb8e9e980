"""Multiple choice: the letter in the last box or on the last answer line.

The answer is extracted as by the `math` grader: after the reasoning, from the last box or the last line such as
`Answer: C`, or from a reply that is nothing but an answer. It must be one letter of the problem, `C`, `(C)`, `"C"`,
`C. the option`, or the full text of an option. Two different letters are `several answers`. Details hold the
extracted letter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.core.protocols import Grader
from harness.core.types import Completion, Problem, Verdict
from harness.graders.math.extraction import answer_region, find
from harness.graders.references.choice import ChoiceReference

_MARKS = re.compile(r"\\(?:text|textbf|mathbf|mathrm|boxed|rm|bf)\b|[{}$*\\\"`“”「」]")
_FIRST_LETTER = re.compile(
    r"^(?:option|choice|answer)? *\(?([A-Za-z])(?![A-Za-z'])(?P<marks>[).:]*)(?P<rest>.*)$", re.IGNORECASE
)
_ANOTHER = re.compile(r"^ *(?:,|and|or|/|&)+ *\(?[A-Za-z]\b(?!\w)", re.IGNORECASE)


class ChoiceGrader(Grader[ChoiceReference]):
    @dataclass(frozen=True, slots=True)
    class Config:
        opening_tag: str = "<think>"
        closing_tag: str = "</think>"
        starts_in_reasoning: bool = False
        """The prompt opens the reasoning, so that a completion without the closing tag is truncated."""

    config: Config

    def grade(self, problem: Problem[ChoiceReference], completion: Completion) -> Verdict:
        reference: object = problem.reference
        if not isinstance(reference, ChoiceReference):
            return Verdict("ungraded", None, reason="reference unreadable")
        config = self.config
        region = answer_region(
            completion.text, config.opening_tag, config.closing_tag, starts_inside=config.starts_in_reasoning
        )
        is_cut = completion.finish_reason == "length"
        found = find(region, is_cut=is_cut) if region is not None else None
        if found is None or (not found.answers and is_cut):
            return Verdict("incorrect", 0.0, reason="truncated")
        if not found.answers:
            return Verdict("incorrect", 0.0, reason="no answer")
        return _compare(reference, found.answers)


def _compare(reference: ChoiceReference, answers: tuple[str, ...]) -> Verdict:
    extracted = ", ".join(answers)[:1000]
    letters = {_letter(reference, answer) for answer in answers}
    if len(letters) > 1 or "several" in letters:
        return Verdict("incorrect", 0.0, extracted, "several answers")
    letter = letters.pop()
    if letter is None:
        return Verdict("incorrect", 0.0, extracted, "no letter of the problem")
    details = {"letter": letter}
    if letter == reference.letter:
        return Verdict("correct", 1.0, extracted, details=details)
    return Verdict("incorrect", 0.0, extracted, "wrong", details)


def _letter(reference: ChoiceReference, answer: str) -> str | None:
    """Return the letter an answer names; `several` if there are more, None if it is not a letter of the problem."""
    text = " ".join(_MARKS.sub(" ", answer[:4096]).split()).rstrip(".").strip("'‘’ ").rstrip(".")
    if text in reference.letters:  # first, because the texts of the options may be letters too
        return text
    by_text = {_squeeze(option): letter for letter, option in zip(reference.letters, reference.options, strict=True)}
    if _squeeze(answer) in by_text and len(by_text) == len(reference.options):
        return by_text[_squeeze(answer)]
    found = _FIRST_LETTER.match(text)
    if found is None or found.group(1).upper() not in reference.letters:
        return None
    if _ANOTHER.match(found.group("rest")) is not None:
        return "several"
    if found.group(1).islower() and found.group("rest") and not found.group("marks"):
        return None  # an article: `a dog`
    return found.group(1).upper()


def _squeeze(text: str) -> str:
    return "".join(text.split()).rstrip(".").casefold()


GRADER = ChoiceGrader
