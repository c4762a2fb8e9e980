"""evalplus' own judge: refused unless asked for, and the same verdicts where both judges are right."""

from __future__ import annotations

import pytest

from harness.core.types import Completion, Problem, Tokens
from harness.graders.code.reference import EvalPlusReference
from harness.graders.published.legacy_evalplus import GRADER

DOUBLE = EvalPlusReference("double", "def double(x):\n", "    return [2 * x]\n", [[1]], [[2], [3]], 0.0, "humaneval")


def grade(source, **options):
    completion = Completion("p", 0, 0, f"```python\n{source}\n```", "stop", Tokens(1, 1))
    return GRADER(GRADER.Config(**options)).grade(Problem("p", "humaneval", (), DOUBLE), completion)


def test_legacy_evalplus_runs_nothing_unless_enabled():
    verdict = grade("raise SystemExit")
    assert (verdict.outcome, "runs_untrusted_programs" in verdict.reason) == ("ungraded", True)
    assert GRADER(GRADER.Config()).facts() == {"sandbox": "limits"}  # reports warn of that


def test_legacy_evalplus_verdicts_have_base_and_plus():
    pytest.importorskip("evalplus", reason="the extra `code` is not installed")
    assert grade("def double(x): return [x + x]", runs_untrusted_programs=True).outcome == "correct"
    only_base = grade("def double(x): return [2]", runs_untrusted_programs=True)
    assert (only_base.outcome, only_base.details) == ("incorrect", {"base": "pass", "plus": "fail"})
    forged = "class E:\n    def __eq__(self, other): return True\ndef double(x): return E()"
    assert grade(forged, runs_untrusted_programs=True).outcome == "correct"  # which is why it is only legacy
