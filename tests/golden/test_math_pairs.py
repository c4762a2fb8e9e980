"""The golden table: pairs of a gold and an answer, judged by hand, each with where its gold is from and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.core.types import Completion, Problem, Tokens
from harness.graders._math_reference import typed_reference
from harness.graders.math import MathGrader

PAIRS = [json.loads(line) for line in (Path(__file__).parent / "math_pairs.jsonl").read_text().splitlines()]
GRADER = MathGrader(MathGrader.Config())


def grade(pair):
    options = {key: pair[key] for key in ("unit", "absolute_tolerance", "relative_tolerance") if key in pair}
    reference = typed_reference(pair["gold"], is_multiple=pair.get("multiple", False), **options)
    text = f"We compute.\n\nThe final answer is $\\boxed{{{pair['answer']}}}$."
    return GRADER.grade(Problem("p", "golden", (), reference), Completion("p", 0, 0, text, "stop", Tokens(1, 1)))


def test_the_table_is_large_and_covers_every_type():
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
def test_pair(pair):
    verdict = grade(pair)
    assert verdict.outcome == pair["outcome"], (pair["why"], verdict)
