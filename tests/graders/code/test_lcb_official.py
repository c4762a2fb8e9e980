"""The official judge of LiveCodeBench against the list of what that checker is known to accept and reject."""

from __future__ import annotations

import sys

import pytest

from harness.core.types import Completion, Problem, Tokens
from harness.graders.code import CodeGrader
from harness.graders.code.reference import HeldTests, ProgramReference, ProgramTest
from harness.graders.published.lcb_official import GRADER

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is for Linux")

GRADERS = GRADER(GRADER.Config(timeout_s=1)), CodeGrader(CodeGrader.Config(cpu_s=1.0))


def verdicts(source, tests, function_name=None):
    """(official, strict)"""
    reference = ProgramReference(
        HeldTests(tuple(ProgramTest(*test, "sample") for test in tests)), "samples", function_name
    )
    reply = Completion("p", 0, 0, f"```python\n{source}\n```", "stop", Tokens(1, 1))
    return tuple(grader.grade(Problem("p", "t", (), reference), reply).details.get("verdict") for grader in GRADERS)


SUM = [("1 2\n3 4\n", "10\n")]
# source, what official says, what strict says; the official column is the table of what the checker does.
STDIN = {
    "input": ("print(sum(map(int, (input() + ' ' + input()).split())))", "AC", "AC"),
    "readline": ("import sys\nr = sys.stdin.readline\nprint(sum(map(int, (r() + ' ' + r()).split())))", "AC", "AC"),
    "line ends": ("import sys\nr = sys.stdin.readline\nprint(sum(map(int, (r() + r()).split())))", "WA", "AC"),
    "read": ("import sys\nprint(sum(map(int, sys.stdin.read().split())))", "AC", "AC"),
    "exit": ("import sys\nprint(10)\nsys.exit()", "AC", "AC"),
    "thread": ("import threading\nt = threading.Thread(target=lambda: print(10))\nt.start()\nt.join()", "AC", "AC"),
    "guard last": ("def main():\n    print(10)\nif __name__ == '__main__':\n    main()", "AC", "AC"),
    "guard not last": ("def main():\n    print(10)\nif __name__ == '__main__':\n    main()\nx = 1", "WA", "AC"),
    "buffer readline": (
        "import sys\nr = sys.stdin.buffer.readline\nprint(sum(map(int, (r() + r()).split())))",
        "WA",
        "AC",
    ),
    "for line": ("import sys\nprint(sum(int(x) for line in sys.stdin for x in line.split()))", "RE", "AC"),
    "os read": ("import os\nprint(sum(map(int, os.read(0, 99).split())))", "WA", "AC"),
    "stdout buffer": ("import sys\nsys.stdout.buffer.write(b'10')", "RE", "AC"),
    "global": ("x = 0\ndef f():\n    global x\n    x += 10\nf()\nprint(x)", "RE", "AC"),
    "swallowed alarm": ("while True:\n    try:\n        while True: pass\n    except Exception: pass", "TLE", "TLE"),
    "alarm": ("while True: pass", "TLE", "TLE"),
    "syntax": ("print(", "RE", "CE"),
    "decimal": ("print('1e1')", "AC", "AC"),
    "close": ("print('10.0000001')", "WA", "WA"),
    "extra line": ("print(10)\nprint()\nprint(1)", "WA", "WA"),
    "resource": ("import resource\nprint(10)", "RE", "AC"),
}


@pytest.mark.parametrize("name", STDIN)
def test_lcb_official_judges_programs_that_read_stdin(name):
    source, *expected = STDIN[name]
    assert verdicts(source, SUM) == tuple(expected)


FUNCTIONS = {
    "list": ("class Solution:\n    def f(self, a): return a", "AC", "AC"),
    "tuple": ("class Solution:\n    def f(self, a): return tuple(a)", "AC", "AC"),
    "nested tuples": ("class Solution:\n    def f(self, a): return [tuple(x) for x in a]", "WA", "AC"),
    "ints for floats": ("def f(a): return [[float(y) for y in x] for x in a]", "AC", "AC"),
    "wrong": ("def f(a): return a[::-1]", "WA", "WA"),
    "raises": ("def f(a): return a[9]", "RE", "RE"),
    "always equal": ("class E:\n    __eq__ = lambda *_: True\ndef f(a): return E()", "WA", "WA"),
    "typing names": ("class Solution:\n    def f(self, a: List[int]) -> Optional[int]: return a", "AC", "AC"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_lcb_official_judges_functions(name):
    source, *expected = FUNCTIONS[name]
    assert verdicts(source, [("[[1, 2], [3]]", "[[1, 2], [3]]")], "f") == tuple(expected)


def test_lcb_official_uses_one_instance_for_all_tests():
    source = "class Solution:\n    n = 0\n    def f(self, a):\n        self.n += 1\n        return self.n"
    assert verdicts(source, [("5", "1"), ("5", "2")], "f") == ("AC", "AC")


def test_numpy_loads_with_the_official_functions_removed():
    assert verdicts("import numpy as np\nprint(np.arange(5).sum())", [("", "10")]) == ("AC", "AC")


def test_lcb_official_accepts_true_for_one():
    assert verdicts("def f(a): return 1", [("5", "true")], "f") == ("AC", "AC")


def test_lcb_official_allows_longer_representations_of_long_answers():
    ones = str([1] * 150_000)
    assert verdicts("def f(a): return [True] * a", [("150000", ones)], "f") == ("AC", "AC")


@pytest.mark.parametrize(
    "test", [("[1", "1"), ("1", "[" * 70 + "]" * 70), ("[" * 99_999, "1")], ids=["cut", "deep", "endless"]
)
def test_lcb_official_tests_that_are_not_plain_values_give_no_verdict(test):
    assert verdicts("def f(a): return a", [test], "f") == (None, None)


def test_lcb_official_takes_the_program_between_the_last_fences():
    reply = "```python\nprint(1)\n```\nand\n```\nprint(10)\n```"
    reference = ProgramReference(HeldTests((ProgramTest("", "10", "sample"),)), "samples")
    problem = Problem("p", "t", (), reference)
    graded = GRADERS[0].grade(problem, Completion("p", 0, 0, reply, "stop", Tokens(1, 1)))
    assert (graded.outcome, graded.extracted) == ("correct", "print(10)")
    assert GRADERS[0].grade(problem, Completion("p", 0, 0, "print(10)", "stop", Tokens(1, 1))).outcome == "incorrect"


# Expected, printed, what official says, what strict says where the statement tolerates 1e-6.
TOLERATED = {
    "the same": ("0.333333333333", "0.333333333333", "AC", "AC"),
    "late digits": ("0.333333333333", "0.333333333", "WA", "AC"),
    "relative": ("3000000.0", "3000000.5", "WA", "AC"),
    "several": ("0.5 1.25\n2.0", "0.5000001 1.25\n2", "WA", "AC"),
    "an integer as a float": ("1", "0.99999999", "WA", "AC"),
    "a float as an integer": ("2.0", "2", "AC", "AC"),
    "too far": ("0.333333333333", "0.33333", "WA", "WA"),
    "another integer": ("30000000", "30000001", "WA", "WA"),
    "one is missing": ("0.5 1.25", "0.5", "WA", "WA"),
    "nan": ("0.5", "nan", "WA", "WA"),
    "infinite": ("0.5", "1e999", "WA", "WA"),
    "words": ("0.5 yes", "0.5 no", "WA", "WA"),
}


@pytest.mark.parametrize("name", TOLERATED)
def test_the_strict_judge_alone_uses_the_tolerance_of_the_statement(name):
    expected, printed, official, strict = TOLERATED[name]
    tests = HeldTests((ProgramTest("", expected, "sample"),))
    reference = ProgramReference(tests, "samples", comparison="close_lines", tolerance=1e-6)
    reply = Completion("p", 0, 0, f"```python\nprint({printed!r})\n```", "stop", Tokens(1, 1))
    found = [grader.grade(Problem("p", "t", (), reference), reply).details for grader in GRADERS]
    assert [details["verdict"] for details in found] == [official, strict]
    assert found[1].get("verdict_without_tolerance") == ("WA" if official != strict else None)


@pytest.mark.parametrize("function", [None, "f"], ids=["printed", "returned"])
@pytest.mark.parametrize(
    ("kind", "accepted"),
    [("either", ("far", "near 0", "same")), ("absolute", ("near 0", "same")), ("relative", ("far", "same"))],
)
def test_only_the_kind_of_error_that_the_statement_names_is_tolerated(kind, accepted, function):
    """The first differs by a relative error of 2e-7 and the second by an absolute one of 5e-7."""
    for name, (expected, found) in {
        "far": ("3000000.0", "3000000.5"),
        "near 0": ("0.000001", "0.0000015"),
        "same": ("0.000001", "0.000001000"),
        "neither": ("3000000.0", "3000030.0"),
    }.items():
        tests = HeldTests((ProgramTest("1", expected, "sample"),))
        reference = ProgramReference(
            tests, "samples", function, comparison="close_lines", tolerance=1e-6, tolerance_kind=kind
        )
        source = f"print({found!r})" if function is None else f"def f(n): return {found}"
        reply = Completion("p", 0, 0, f"```python\n{source}\n```", "stop", Tokens(1, 1))
        verdict = GRADERS[1].grade(Problem("p", "t", (), reference), reply)
        assert (verdict.outcome == "correct") is (name in accepted), name


@pytest.mark.parametrize(
    ("expected", "returned", "official", "strict"),
    [
        ("14.0", "14.000004", "WA", "AC"),
        ("14.0", "14.0", "AC", "AC"),
        ("1000000.0", "1000001.0", "WA", "WA"),  # the tolerance is absolute
        ("[1.5, 2.5]", "[1.500001, 2.5]", "WA", "AC"),
        ("14", "15", "WA", "WA"),
    ],
)
def test_a_function_has_the_tolerance_of_its_statement(expected, returned, official, strict):
    tests = HeldTests((ProgramTest("1", expected, "sample"),))
    reference = ProgramReference(tests, "samples", "f", "", tolerance=1e-5, tolerance_kind="absolute")
    source = f"class Solution:\n    def f(self, n): return {returned}"
    reply = Completion("p", 0, 0, f"```python\n{source}\n```", "stop", Tokens(1, 1))
    found = [grader.grade(Problem("p", "t", (), reference), reply).details["verdict"] for grader in GRADERS]
    assert found == [official, strict]
