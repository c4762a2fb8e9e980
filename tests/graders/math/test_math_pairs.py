"""The golden table: pairs of a gold and an answer, judged by hand, each with where its gold is from and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.core.types import Completion, Problem, Tokens
from harness.graders.math import MathGrader
from harness.graders.math.algebra import POOL
from harness.graders.math.reference import typed_reference
from harness.graders.published.legacy_hendrycks import LegacyHendrycksGrader

GOLDEN = Path(__file__).parent / "golden"
PAIRS = [json.loads(line) for line in (GOLDEN / "math_pairs.jsonl").read_text().splitlines()]
# Pairs for the faults that an outside verification found; with `text`, a whole reply in place of a boxed answer.
VERIFICATION = [json.loads(line) for line in (GOLDEN / "verification_pairs.jsonl").read_text().splitlines()]
GRADER = MathGrader(MathGrader.Config())


def grade(pair):
    options = {key: pair[key] for key in ("unit", "absolute_tolerance", "relative_tolerance") if key in pair}
    reference = typed_reference(pair["gold"], is_multiple=pair.get("multiple", False), **options)
    text = pair["text"] if "text" in pair else f"We compute.\n\nThe final answer is $\\boxed{{{pair['answer']}}}$."
    return GRADER.grade(Problem("p", "golden", (), reference), Completion("p", 0, 0, text, "stop", Tokens(1, 1)))


def test_math_pairs_are_many_and_cover_every_type():
    assert len(PAIRS) >= 300
    assert {pair["kind"] for pair in PAIRS} >= {
        "integer",
        "decimal",
        "scientific",
        "set",
        "tuple",
        "interval",
        "expression",
        "text",
    }
    assert len({(pair["gold"], pair["answer"], pair.get("unit"), pair.get("multiple")) for pair in PAIRS}) >= 300


@pytest.mark.parametrize("pair", PAIRS, ids=[f"{pair['gold'][:40]} ~ {pair['answer'][:40]}" for pair in PAIRS])
def test_math_pair_has_the_recorded_outcome(pair):
    verdict = grade(pair)
    assert verdict.outcome == pair["outcome"], (pair["why"], verdict)


@pytest.mark.parametrize(
    "pair",
    VERIFICATION,
    ids=[f"{pair['gold'][:40]} ~ {pair.get('answer', pair.get('text'))[:40]}" for pair in VERIFICATION],
)
def test_pair_of_the_verification(pair):
    verdict = grade(pair)
    assert verdict.outcome == pair["outcome"], (pair["why"], verdict)


def test_every_class_of_the_verification_has_ten_pairs_right_and_wrong():
    for kind in {pair["kind"] for pair in VERIFICATION}:
        outcomes = [pair["outcome"] for pair in VERIFICATION if pair["kind"] == kind]
        assert len(outcomes) >= 10
        assert set(outcomes) == {"correct", "incorrect"}


def known_disagreements(name):
    rows = map(json.loads, (Path(__file__).parent / "golden" / name).read_text().splitlines())
    return {(row["gold"], row["answer"]): row["class"] for row in rows}


@pytest.mark.parametrize("reading", ["flowrl", "lm-eval"])
def test_every_disagreement_with_math_verify_is_known_and_classified(reading):
    """math-verify 0.9.0 over the same table; another version may move rows of the file, which then says why."""
    pytest.importorskip("math_verify")
    known = known_disagreements("math_verify_disagreements.jsonl")
    found = set()
    for pair in PAIRS:
        if pair["outcome"] == "ungraded":  # what is never computed
            continue
        sides = [f"\\boxed{{{pair['gold']}}}", f"The final answer is $\\boxed{{{pair['answer']}}}$."]
        if POOL.equal(*sides, 15.0, reading) != (pair["outcome"] == "correct"):
            found.add((pair["gold"], pair["answer"]))
    assert found == set(known)
    assert all(known.values())


def test_every_disagreement_with_lm_evals_string_match_is_a_refusal_or_classified():
    """Of lm-eval 0.4.13; test_lm_eval.py shows that the legacy grader is the same where lm-eval is installed."""
    grader, accepted = LegacyHendrycksGrader(LegacyHendrycksGrader.Config(variant="lm-eval-aime")), set()
    for pair in PAIRS:
        text = f"The final answer is $\\boxed{{{pair['answer']}}}$."
        problem = Problem("p", "golden", (), pair["gold"])
        verdict = grader.grade(problem, Completion("p", 0, 0, text, "stop", Tokens(1, 1)))
        if verdict.outcome == "correct" and pair["outcome"] == "incorrect":
            accepted.add((pair["gold"], pair["answer"]))
    known = known_disagreements("string_match_disagreements.jsonl")
    assert accepted == set(known)
    assert all(known.values())
