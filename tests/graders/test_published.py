"""Multiple choice, and the legacy graders with what is right and what is wrong with each."""

from __future__ import annotations

import pytest

from harness.core.types import Completion, Problem, Tokens
from harness.graders.choice import ChoiceGrader
from harness.graders.math.reference import typed_reference
from harness.graders.published.legacy_dapo import LegacyDapoGrader
from harness.graders.published.legacy_gsm8k import LegacyGsm8kGrader
from harness.graders.published.legacy_hendrycks import LegacyHendrycksGrader
from harness.graders.published.legacy_math_verify import LegacyMathVerifyGrader
from harness.graders.references.choice import ChoiceReference

OPTIONS = ChoiceReference("C", ("10 eV", "20 eV", "30 eV", "a cat"))


def verdict(grader_class, reference, text, finish_reason="stop", **options):
    grader = grader_class(grader_class.Config(**options))
    return grader.grade(Problem("p", "t", (), reference), Completion("p", 0, 0, text, finish_reason, Tokens(1, 1)))


@pytest.mark.parametrize(
    ("text", "outcome", "reason"),
    [
        ("Answer: C", "correct", ""),
        ("answer: (c)", "correct", ""),
        ("The correct answer is C.", "correct", ""),
        (r"\boxed{C}", "correct", ""),
        (r"\boxed{\text{(C)}}", "correct", ""),
        (r"\boxed{\textbf{(C)}\ 30 eV}", "correct", ""),
        (r"\boxed{30 eV}", "correct", ""),
        ("**Answer: C**", "correct", ""),
        ("Answer: C) 30 eV", "correct", ""),
        ("Answer: D", "incorrect", "wrong"),
        ("Answer: a cat", "incorrect", "wrong"),
        ("Answer: B or C", "incorrect", "several answers"),
        ("Answer: A, B, C, D", "incorrect", "several answers"),
        (r"\boxed{C} or \boxed{D}", "incorrect", "several answers"),
        ("Answer: E", "incorrect", "no letter of the problem"),
        ("Answer: Carbon", "incorrect", "no letter of the problem"),
        ("C", "correct", ""),
        ("(C)", "correct", ""),
        ("C.", "correct", ""),
        ("**C**", "correct", ""),
        ('"C"', "correct", ""),
        ("C) 30 eV", "correct", ""),
        ('Answer: "C"', "correct", ""),
        ("Answer: `C`.", "correct", ""),
        ("The answer is “C”.", "correct", ""),
        ("**Answer**\n\nC", "correct", ""),
        ("<answer>C</answer>", "correct", ""),
        ("答案：C", "correct", ""),
        ("The answer is C because 30 eV is needed.", "correct", ""),
        ("D", "incorrect", "wrong"),
        ('Answer: "D"', "incorrect", "wrong"),
        ("Answer: c dog", "incorrect", "no letter of the problem"),
        ("C or D", "incorrect", "several answers"),
        ('"C" or "D"', "incorrect", "several answers"),
        ("Carbon has more of them.", "incorrect", "no answer"),
        ("<think>Answer: C", "incorrect", "truncated"),
        ("<think>Answer: C</think>Answer: D", "incorrect", "wrong"),
    ],
)
def test_choice_grader_has_the_expected_verdicts(text, outcome, reason):
    found = verdict(ChoiceGrader, OPTIONS, text)
    assert (found.outcome, found.reason) == (outcome, reason)


def test_choice_grader_refuses_references_of_another_type():
    assert verdict(ChoiceGrader, "C", "Answer: C").outcome == "ungraded"
    with pytest.raises(ValueError, match="one of A, B"):
        ChoiceReference("C", ("x", "y"))


@pytest.mark.parametrize(
    ("gold", "text", "reward"),
    [
        ("34", "So.\nAnswer: 34", 1),
        ("34", "ANSWER : $34$", 1),
        ("34", r"Answer: \boxed{34}", 1),
        ("34", "Answer: x = 34", 1),
        ("1234", "Answer: 1,234", 1),
        (r"\frac{1}{2}", r"Answer: \frac12", 1),
        ("5", "Answer: 5 inches", 1),
        ("34", r"\boxed{34}", -1),
        ("34", "Answer: 34.", -1),
        ("0.5", "Answer: 1/2", -1),
        ("34", "Answer: 34" + " " * 300, -1),
        ("34", "Answer: 34\nAnswer: 35", -1),
    ],
)
def test_legacy_dapo_has_the_expected_rewards(gold, text, reward):
    assert verdict(LegacyDapoGrader, typed_reference(gold), text).reward == reward


@pytest.mark.parametrize(
    ("gold", "text", "outcome"),
    [
        (r"\frac{1}{2}", r"\boxed{0.5}", "correct"),
        (r"\frac{1}{2}", r"\boxed{1/2}", "correct"),
        (r"\frac{1}{2}", r"\boxed{\dfrac12}", "correct"),
        (r"\sqrt{3}", r"\boxed{\sqrt3}", "correct"),
        ("90", r"\boxed{90^\circ}", "correct"),
        ("50", r"\boxed{50\%}", "correct"),
        ("5", r"\boxed{x=5}", "correct"),
        ("12", r"\boxed{12 \text{ cm}}", "correct"),
        ("(1,2)", r"\boxed{\left(1, 2\right)}", "correct"),
        (r"\frac{1}{4}", r"\boxed{0.25}", "incorrect"),
        ("1,2", r"\boxed{2,1}", "incorrect"),
        ("5", "5", "incorrect"),
        (r"\sqrt", r"\boxed{\sqrt}", "correct"),
    ],
)
def test_legacy_hendrycks_has_the_expected_verdicts(gold, text, outcome):
    assert verdict(LegacyHendrycksGrader, typed_reference(gold), text).outcome == outcome


@pytest.mark.parametrize(
    ("variant", "text", "outcome"),
    [
        ("hendrycks", "it is $5$.", "incorrect"),
        ("lm-eval-aime", "it is $5$.", "correct"),
        ("lm-eval-math", "it is $5$.", "correct"),
        ("lm-eval-math", "5", "correct"),
        ("lm-eval-math", r"it is \boxed{5}", "incorrect"),
        ("lm-eval-aime", r"it is $6$, \boxed{5}", "correct"),
        ("lm-eval-aime", r"\boxed 5$ or \boxed{6}", "correct"),
        ("hendrycks", r"\boxed{5%}", "correct"),
        ("lm-eval-aime", r"\boxed{5%}", "incorrect"),
        ("hendrycks", r"\fbox{5}", "incorrect"),
    ],
)
def test_legacy_hendrycks_has_the_variants_of_its_copies(variant, text, outcome):
    assert verdict(LegacyHendrycksGrader, "5", text, variant=variant).outcome == outcome


@pytest.mark.parametrize(
    ("gold", "text", "strict", "flexible"),
    [
        ("18", "2*9=18\n#### 18", "correct", "correct"),
        ("1250", "#### 1,250.", "correct", "correct"),
        ("1,250", "It is $1250.", "incorrect", "correct"),
        ("18", "#### 18 or #### 7", "correct", "incorrect"),
        ("18", "#### 7, no, 18", "incorrect", "correct"),
        ("18", "#### 18.0", "incorrect", "incorrect"),
        ("18", r"\boxed{18}", "incorrect", "correct"),
        ("-3", "#### -3", "correct", "correct"),
        ("3", "#### -3", "incorrect", "incorrect"),
        ("5", "5", "incorrect", "correct"),
        ("5", "", "incorrect", "incorrect"),
    ],
)
def test_legacy_gsm8k_is_both_filters_of_lm_eval(gold, text, strict, flexible):
    assert verdict(LegacyGsm8kGrader, typed_reference(gold), text).outcome == strict
    assert verdict(LegacyGsm8kGrader, gold, text, variant="flexible-extract").outcome == flexible


@pytest.mark.parametrize("variant", ["flowrl", "lm-eval"])
@pytest.mark.parametrize(
    ("gold", "text", "outcome"),
    [
        ("34", r"so \boxed{34}", "correct"),
        ("34", r"so \boxed{35}", "incorrect"),
        (r"\frac{1}{4}", "the answer is 0.25", "correct"),
        ("34", r"<think>\boxed{34}", "correct"),
        ("4.5e33", r"\boxed{4.5 \times 10^{33}}", "incorrect"),
    ],
)
def test_legacy_math_verify_keeps_its_faults(gold, text, outcome, variant):
    assert verdict(LegacyMathVerifyGrader, typed_reference(gold), text, variant=variant).outcome == outcome


def test_legacy_math_verify_is_stopped_and_not_scored():
    found = verdict(LegacyMathVerifyGrader, "5", r"\boxed{9^{9^{9^9}}}", timeout_s=0.5)
    assert found.outcome == "ungraded" and found.reason in ("limit", "worker died")
