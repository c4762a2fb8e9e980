"""Legacy: the DAPO and FlowRL training reward for maths; the last `Answer:` line as a string, +1 or -1.

Reproduces `verl/utils/reward_score/math_dapo.py` as DAPO and FlowRL train with it: of the last 300 characters, the
text from the last `Answer:` (in any case) to the end of its line, the string normalisation of the Minerva paper's
appendix D (arXiv 2206.14858), then string equality. For your own results use `math`.

Known faults: a right answer in a box without an answer line gets -1; `1/2` and `0.5` differ; an answer line that begins
more than 300 characters before the end is not found; words such as "inches" are deleted wherever they occur; reasoning
tags are ignored, so an answer line in unfinished reasoning counts.
"""

from __future__ import annotations

import re

from harness.core.protocols import Grader
from harness.core.types import Completion, Problem, Verdict
from harness.graders.math.reference import MathReference, gold_text

TAIL = 300
_ANSWER = re.compile(r"(?i)answer\s*:\s*([^\n]+)")
# The order matters: each replacement works on the result of those before it.
_REPLACED = {"an ": "", "a ": "", ".$": "$", "\\$": "", "\\ ": "", " ": "", "mbox": "text"} | {
    ",\\text{and}": ",",
    "\\text{and}": ",",
    "\\text{m}": "\\text{}",
}
_WORDS = (
    "square ways integers dollars mph inches hours km units \\ldots sue points feet minutes digits cents degrees cm gm "
    "pounds meters meals edges students childrentickets multiples"
)
_MARKS = ("\\text{s}", "\\text{.}", "\\text{\ns}", "\\text{}^2", "\\text{}^3", "\\text{\n}", "\\text{}", "\\mathrm{th}")
_MORE_MARKS = ("^\\circ", "^{\\circ}", "\\;", ",\\!", "{,}", '"', "\\dots")
_DELETED = (*_WORDS.split(" "), *_MARKS, *_MORE_MARKS)


class LegacyDapoGrader(Grader[MathReference | str]):
    reward_range = (-1.0, 1.0)

    def grade(self, problem: Problem[MathReference | str], completion: Completion) -> Verdict:
        gold = gold_text(problem.reference)
        if gold is None:
            return Verdict("ungraded", None, reason="reference unreadable")
        lines = _ANSWER.findall(completion.text[-TAIL:])
        extracted = normalise(lines[-1]) if lines else None
        if extracted is not None and extracted == normalise(gold):
            return Verdict("correct", 1.0, extracted)
        return Verdict("incorrect", -1.0, extracted, "no answer" if extracted is None else "wrong")


def normalise(answer: str) -> str:
    """Return the string to compare."""
    answer = answer.rpartition("=")[2]
    for before, after in _REPLACED.items():
        answer = answer.replace(before, after)
    for word in _DELETED:
        answer = answer.replace(word, "")
    answer = re.sub(r"(.*?)\$(.*?)\$(.*)", r"$\2$", answer)
    for command in ("text", "textbf", "overline"):
        answer = re.sub(rf"\\{command}\{{(.*?)\}}", r"\1", answer)
    answer = re.sub(r"\\boxed\{(.*)\}", r"\1", answer)
    answer = re.sub(r"frac([^{])(.)", r"frac{\1}{\2}", answer)
    answer = re.sub(r"sqrt([^{])", r"sqrt{\1}", answer).replace("$", "")
    return (answer.replace(",", "") if answer.replace(",", "").isdigit() else answer).strip()


GRADER = LegacyDapoGrader
