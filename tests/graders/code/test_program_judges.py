"""Where our judges of programs differ from evalplus and from LiveCodeBench's checker, class by class, and why.

docs/explanations/grading.md counts how often, over programs of bench/judge_differential.py. The columns of the peers
are checked where evalplus is installed (the extra `code`), and where a checkout of LiveCodeBench is on the path.
"""

from __future__ import annotations

import json
import sys

import pytest

from harness.core.types import Completion, Problem, Tokens
from harness.graders.code import CodeGrader
from harness.graders.code.reference import EvalPlusReference, HeldTests, ProgramReference, ProgramTest
from harness.graders.published.lcb_official import LcbOfficialGrader
from harness.graders.published.legacy_evalplus import LegacyEvalPlusGrader

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is for Linux")

AGREED = [("[3, 1]", "(3, 1)", False), ("(3, 1)", "[3, 1]", False), ("0.5", "0.5 + 1e-7", True), ("7", "7.0", True)]
# What the reference returns, what the program does, ours, evalplus', and why ours is as it is.
EVALPLUS = {
    **{f"agreed {n}": (expected, got, right, right) for n, (expected, got, right) in enumerate(AGREED)},
    "always equal": ("[3, 1]", "type('E', (), {'__eq__': lambda *_: True})()", False, True),  # forged
    "another number type": ("0.5", "__import__('fractions').Fraction(1, 2)", True, True),
    "an array of one": ("[7]", "__import__('numpy').array([7])", False, True),  # no plain data
    "another shape": ("[7]", "[[7]]", False, True),  # numpy's broadcasting, where the task has a tolerance
    "nan": ("float('nan')", "float('nan')", True, False),  # not even the reference passes there
}


def reply(source):
    return Completion("p", 0, 0, f"```python\n{source}\n```", "stop", Tokens(1, 1))


def evalplus_problem(name):
    source = f"    return {EVALPLUS[name][0]}\n"
    tolerance = 1e-4 if name == "another shape" else 0.0
    reference = EvalPlusReference("f", "def f(x):\n", source, [[1]], [[2]], tolerance, "humaneval")
    return Problem("p", "humaneval", (), reference)


@pytest.mark.parametrize("name", EVALPLUS)
def test_code_grader_has_the_recorded_verdicts_of_evalplus_cases(name):
    _, got, ours, _ = EVALPLUS[name]
    grader = CodeGrader(CodeGrader.Config())
    verdict = grader.grade(evalplus_problem(name), reply(f"def f(x):\n    return {got}"))
    assert (verdict.outcome == "correct") == ours


@pytest.mark.parametrize("name", EVALPLUS)
def test_evalplus_has_the_recorded_verdicts(name):
    pytest.importorskip("evalplus", reason="the extra `code` is not installed")
    _, got, _, theirs = EVALPLUS[name]
    grader = LegacyEvalPlusGrader(LegacyEvalPlusGrader.Config(runs_untrusted_programs=True))
    verdict = grader.grade(evalplus_problem(name), reply(f"def f(x):\n    return {got}"))
    assert (verdict.outcome == "correct") == theirs


# Program, accepted by `code`, accepted by the official checker. It reads 1 2 and 3 4, and the answer is 10.
READ = "print(sum(map(int, (input() + ' ' + input()).split())))"
LCB = {
    "plain": (READ, True, True),
    "iterated": ("import sys\nprint(sum(int(x) for line in sys.stdin for x in line.split()))", True, False),
    "open(0)": ("print(sum(map(int, open(0).read().split())))", True, False),
    "global": (f"n = 0\ndef f():\n    global n\n    n += 1\nf()\n{READ}", True, False),
    "builtin redefined": (f"_p = print\ndef print(*a):\n    _p(*a)\n{READ}", True, False),
    "exit 1 after the answer": (f"{READ}\nimport sys\nsys.exit(1)", False, True),
    "exit 0 after the answer": (f"{READ}\nexit(0)", True, True),
    "buffer": ("import sys\nr = sys.stdin.buffer.readline\nprint(sum(map(int, (r() + r()).split())))", True, False),
    "guard in the middle": (f"if __name__ == '__main__':\n    {READ}\nx = 1", True, False),
    "trailing blanks": ("print('10 ')", True, True),
    "a float": ("print(10.0)", True, True),
    "two lines": ("print('10\\n')", True, True),
    "wrong": ("print(11)", False, False),
}


@pytest.fixture(params=LCB)
def lcb_case(request):
    return LCB[request.param]


def test_code_and_lcb_official_graders_have_the_recorded_verdicts(lcb_case):
    source, strict, official = lcb_case
    reference = ProgramReference(HeldTests((ProgramTest("1 2\n3 4\n", "10\n", "sample"),)), "samples")
    graders = CodeGrader(CodeGrader.Config()), LcbOfficialGrader(LcbOfficialGrader.Config())
    outcomes = [grader.grade(Problem("p", "t", (), reference), reply(source)).outcome for grader in graders]
    assert [outcome == "correct" for outcome in outcomes] == [strict, official]


def test_livecodebench_checker_has_the_recorded_verdicts(lcb_case):
    module = pytest.importorskip(
        "lcb_runner.evaluation.compute_code_generation_metrics", reason="no checkout of LiveCodeBench is on the path"
    )
    source, _, official = lcb_case
    sample = {"input_output": json.dumps({"inputs": ["1 2\n3 4\n"], "outputs": ["10\n"]})}
    results, _ = module.check_correctness(sample, source, timeout=6, debug=False)
    assert (results == [True]) == official
