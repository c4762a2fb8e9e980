"""The strict judge: verdicts, comparison rules, extraction, rewards, and the problems that have a rule of their own."""

from __future__ import annotations

import hashlib
import itertools
import math
import sys
import time

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core import config, registry
from harness.core.errors import ConfigError, DataError, SandboxError
from harness.core.types import Completion, Execution, Problem, Program, Tokens
from harness.graders.code import GRADER, evalplus_judge, judge, values
from harness.graders.code.evalplus_rules import is_right
from harness.graders.code.extraction import official_program_in, program_in
from harness.graders.code.judge import Allowance, ScriptTest, judge_script
from harness.graders.code.output_match import floats_close, is_expected, lines_equal, tokens_equal
from harness.graders.code.reference import EvalPlusReference, HeldTests, ProgramReference, ProgramTest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is for Linux")

SUMS = tuple(ProgramTest(f"{a} {b}\n", f"{a + b}\n", "sample") for a, b in ((1, 2), (30, 40), (5, 5)))
ADD = "a, b = map(int, input().split())\nprint(a + b)"


def grade(source, tests=SUMS, *, function_name=None, fenced=True, finish_reason="stop", grader=None, **more):
    reference = ProgramReference(HeldTests(tuple(tests)), "samples", function_name, **more)
    text = f"```python\n{source}\n```" if fenced else source
    made = grader if grader is not None else GRADER(GRADER.Config(cpu_s=1.0, retries_timeouts=False))
    return made.grade(Problem("p", "t", (), reference), Completion("p", 0, 0, text, finish_reason, Tokens(1, 1)))


@pytest.mark.parametrize(
    ("source", "code", "place"),
    [
        (ADD, "AC", None),
        ("a, b = map(int, input().split())\nprint(a + b if a != 30 else 0)", "WA", 1),
        ("a, b = map(int, input().split())\nprint(a + b)\nassert a != 5", "RE", 2),
        ("print(", "CE", 0),
        ("while True: pass", "TLE", 0),
        ("x = bytearray(2 << 30)", "MLE", 0),
        ("while True: print('x' * 10**6)", "OLE", 0),
        ("import os; os.abort()", "RE", 0),
    ],
)
def test_code_verdict_names_the_first_failing_test(source, code, place):
    verdict = grade(source)
    assert verdict.details["verdict"] == code
    assert verdict.details.get("test") == place
    assert (verdict.outcome, verdict.reward) == (("correct", 1.0) if code == "AC" else ("incorrect", 0.0))
    assert verdict.details["cpu_s"] > 0
    assert verdict.details["memory_bytes"] > 1 << 20


def test_details_of_a_failed_test_are_bounded():
    tests = [ProgramTest("1\n" * 100_000, "2\n" * 100_000, "official")]
    details = grade("print('3\\n' * 90000)", tests).details
    assert (details["verdict"], details["origin"]) == ("WA", "official")
    assert all(len(details[key]) < 400 for key in ("input", "expected", "got"))
    assert details["got"].startswith("3\n3\n")
    assert details["difference"] == "line 1: '2' expected, '3' written"


def behaviours(*sources, **more):
    return [grade(source, **more).details.get("behaviour") for source in sources]


def test_wrong_programs_that_do_the_same_have_one_behaviour():
    read = "a, b = map(int, input().split())\n"
    product, padded = f"{read}print(a * b)", f"{read}print(a * b, ' ')"
    again = "x = input().split()\nprint(int(x[1]) * int(x[0]))"
    found = behaviours(ADD, product, again, padded, f"{read}print(a - b)", f"{read}raise KeyError(object())",
                       f"{read}raise KeyError(1)", f"{read}raise ValueError")  # fmt: skip
    assert found[0] is None
    assert found[1] == found[2] == found[3]
    assert found[5] == found[6]
    assert len(set(found[1:])) == 4
    long, other = (f"print('3 ' * 3000, {end})" for end in (1, 2))
    assert len(set(behaviours(long, other))) == 2, "they differ beyond the piece that is shown"


@given(st.lists(st.sampled_from([b"a", b"bc", b"   ", b" ", b"\n"]), max_size=12), st.integers(1, 5))
def test_digest_of_an_output_depends_on_its_words_alone(parts, size):
    output = b"".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "_PIECE_BYTES", size)
        assert judge._digest_of_words(output) == hashlib.sha256(b" ".join(output.split())).hexdigest()[:16]


def test_behaviour_covers_the_tests_that_were_run():
    """Both are wrong on the first test alike, and one is right on the second."""
    sources = ["a, b = map(int, input().split())\nprint(a + b if a != 1 else 0)", "print(0)"]
    assert len(set(behaviours(*sources))) == 1
    grader = GRADER(GRADER.Config(cpu_s=1.0, retries_timeouts=False, reward="fraction"))
    assert len(set(behaviours(*sources, grader=grader))) == 2


def test_functions_have_behaviours():
    tests = [ProgramTest("[1, 2]", "3", "sample")]
    sources = ["def f(x): return 4", "def f(y):\n  return 2 + 2", "def f(x): return [4]", "def f(x): return {4}"]
    found = behaviours(*sources, tests=tests, function_name="f")
    assert found[0] == found[1]
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    ("written", "difference"),
    [
        ("'1\\n' * 500 + '2'", "line 501: '1' expected, '2' written"),
        ("'1\\n' * 999", "1000 lines expected, 999 written"),
        ("'1\\n' * 500 + 'x' * 9999", f"line 501: '1' expected, '{'x' * 100} ...' written"),
        ("'1' * 9999", f"line 1: '1' expected, '{'1' * 100} ...' written"),
    ],
)
def test_first_difference_of_outputs_is_located(written, difference):
    tests = [ProgramTest("", "1\n" * 1000, "official")]
    assert grade(f"print({written})", tests).details["difference"] == difference
    late = [ProgramTest("", "1" * 600, "official")]
    told = f"line 1: '... {'1' * 100} ...' expected, '... {'1' * 50}2' written"
    assert grade("print('1' * 500 + '2')", late).details["difference"] == told


def test_cpu_and_wall_limits_have_different_verdicts():
    grader = GRADER(GRADER.Config(cpu_s=0.2, retries_timeouts=False))
    assert grade("while True: pass", grader=grader).details["cause"] == "cpu"
    assert grade("import time; time.sleep(60)", grader=grader).details["cause"] == "wall"


def test_limits_of_a_problem_override_the_config():
    loop = "import time\nwhile time.process_time() < 0.5: pass\n" + ADD
    assert grade(loop, time_limit_s=0.2).details["verdict"] == "TLE"
    assert grade(loop, time_limit_s=3.0).outcome == "correct"
    large = "x = bytearray(200 << 20)\n" + ADD
    assert grade(large, memory_limit_bytes=100 << 20).details["verdict"] == "MLE"
    assert grade(large, memory_limit_bytes=400 << 20).outcome == "correct"


class ScriptedPool:
    """A pool that says what each run took, and notes under which limit it was asked, so that no clock is needed."""

    def __init__(self, *runs, is_crowded):
        self._runs, self.is_crowded, self.asked = list(runs), is_crowded, []

    def _next(self, how, limits):
        self.asked.append((how, limits.cpu_s))
        status, cpu_s, wall_s = self._runs.pop(0)
        return Execution(status, 0, b"3\n", b"", cpu_s, wall_s, 1 << 20)

    def run(self, program, stdin, limits):
        return self._next("together", limits)

    def run_alone(self, program, stdin, limits):
        return self._next("alone", limits)


TEST = ScriptTest(b"1 2\n", b"3\n", lambda output: output == b"3\n")


@pytest.mark.parametrize(
    ("runs", "code"),
    [
        ([("exited", 1.5, 1.5), ("exited", 0.8, 0.8)], "AC"),  # late, and only because of the others
        ([("exited", 1.5, 1.5), ("cpu_limit", 1.0, 1.0)], "TLE"),  # late by itself
        ([("exited", 0.5, 3.5), ("exited", 0.5, 0.6)], "AC"),  # it waited for a processor
        ([("wall_limit", 0.1, 4.0), ("wall_limit", 0.1, 3.0)], "TLE"),  # it sleeps
        ([("cpu_limit", 2.0, 2.0)], "TLE"),  # far over: no second try
        ([("exited", 0.9, 1.0)], "AC"),
    ],
)
def test_a_program_near_its_time_on_a_crowded_machine_is_run_again_alone_once(runs, code):
    pool = ScriptedPool(*runs, is_crowded=True)
    report = judge_script(pool, Program("..."), [TEST], Allowance(cpu_s=1.0, memory_bytes=1 << 30))
    assert (report.outcomes[0].code, report.n_retried) == (code, len(runs) - 1)
    assert pool.asked == [("together", 2.0), ("alone", 1.0)][: len(runs)]


def test_on_a_quiet_machine_or_without_retries_the_limit_is_the_limit():
    for is_crowded, retries in ((False, True), (True, False)):
        pool = ScriptedPool(("cpu_limit", 1.0, 1.0), is_crowded=is_crowded)
        allowed = Allowance(cpu_s=1.0, memory_bytes=1 << 30, retries_timeouts=retries)
        outcome = judge_script(pool, Program("..."), [TEST], allowed).outcomes[0]
        assert (outcome.code, outcome.cause, pool.asked) == ("TLE", "cpu", [("together", 1.0)])


def test_a_function_over_its_time_on_a_crowded_machine_is_called_again_alone(monkeypatch):
    grader = GRADER(GRADER.Config(cpu_s=0.2))
    monkeypatch.setattr(type(grader._pool), "is_crowded", property(lambda _: True))
    tests = [ProgramTest("1", "1", "sample")]
    details = grade("def f(n):\n    while True: pass", tests, function_name="f", grader=grader).details
    assert (details["verdict"], details["n_retried"]) == ("TLE", 1)


def test_sleeping_counts_towards_the_total():
    for runs_all in (False, True):
        pool = ScriptedPool(*[("exited", 0.1, 5.0)] * 9, is_crowded=False)
        allowed = Allowance(3.0, 1 << 30, total_cpu_s=6.0, runs_all_tests=runs_all, retries_timeouts=False)
        report = judge_script(pool, Program("..."), [TEST] * 9, allowed)
        assert [(f.code, f.cause) for f in report.outcomes] == [("AC", ""), ("AC", ""), ("TLE", "total")]


def test_excluded_problems_have_no_verdict():
    verdict = grade(ADD, excluded_because="interactive")
    assert (verdict.outcome, verdict.reward, verdict.reason) == ("ungraded", None, "excluded: interactive")


CHECKER = """
import sys
question, answer, output = (open(name).read() for name in sys.argv[1:])
print(1 if sum(map(int, output.split())) == int(answer) and len(output.split()) == 2 else 0)
"""


def test_a_checker_decides_where_the_data_has_one():
    tests = [ProgramTest("", "10\n", "official")]
    assert grade("print(3, 7)", tests, checker=CHECKER).outcome == "correct"
    assert grade("print(1, 9)", tests, checker=CHECKER).outcome == "correct"
    assert grade("print(1, 8)", tests, checker=CHECKER).details["verdict"] == "WA"
    broken = grade("print(1, 9)", tests, checker="1 / 0")
    assert (broken.outcome, "checker failed" in broken.reason) == ("ungraded", True)


def test_an_output_that_breaks_the_checker_is_wrong_and_not_ungraded():
    """Else a program could have its losing samples taken out."""
    tests = [ProgramTest("", "10\n", "official")]
    for source in ("print('ten')", "print('9' * 5000)", "import os; os.write(1, bytes(range(256)))"):
        verdict = grade(source, tests, checker=CHECKER)
        assert (verdict.outcome, verdict.details.get("verdict")) == ("incorrect", "WA")
    hangs_on_some = CHECKER + "while output.split()[0] == '2': pass\n"
    verdict = grade("print(2, 8)", tests, checker=hangs_on_some)
    assert (verdict.outcome, verdict.details.get("verdict")) == ("incorrect", "WA")


def test_a_checker_may_see_more_output_than_was_expected():
    long = "import sys\nprint(int(len(open(sys.argv[3]).read()) > 2_999_999))"
    tests = [ProgramTest("", "1" * 1_000_000, "official")]
    assert grade("print('1' * 3_000_000)", tests, checker=long).outcome == "correct"
    assert grade("print('1' * 3_000_000)", tests).details["verdict"] == "WA"


def test_comparison_of_a_problem_is_its_own_unless_configured():
    tests = [ProgramTest("", "Maybe 0.5\n", "sample")]
    found = {
        rule: [grade(f"print({text!r})", tests, comparison=rule, tolerance=1e-6).outcome == "correct" for text in texts]
        for texts in [("maybe   0.5", "MAYBE 0.5000001", "Maybe 0.5000001", "Maybe\t0.5")]
        for rule in ("lines", "tokens", "words", "floats")
    }
    assert found == {
        "lines": [False, False, False, False],
        "tokens": [False, False, False, True],
        "words": [True, False, False, True],
        "floats": [False, False, True, True],
    }
    forced = GRADER(GRADER.Config(comparison="words"))
    assert grade("print('MAYBE 0.5')", tests, checker="print(0)", grader=forced).outcome == "correct"


class Unreadable:
    def read(self):
        raise DataError("the file of tests is gone")


def test_unavailable_tests_give_no_verdict():
    for tests, reason in ((Unreadable(), "gone"), (HeldTests(()), "no tests")):
        problem = Problem("p", "t", (), ProgramReference(tests, "samples"))
        verdict = GRADER(GRADER.Config()).grade(problem, Completion("p", 0, 0, ADD, "stop", Tokens(1, 1)))
        assert verdict.outcome == "ungraded"
        assert reason in verdict.reason
    assert grade("def f(): pass", [ProgramTest("{", "1", "sample")], function_name="f").outcome == "ungraded"


def test_broken_sandbox_gives_no_verdict(monkeypatch):
    def fail(*_):
        raise SandboxError("no worker")

    grader = GRADER(GRADER.Config())
    monkeypatch.setattr(type(grader._pool), "run", fail)
    assert grade(ADD, grader=grader).outcome == "ungraded"


def test_code_rewards_follow_the_configured_rule():
    half = "a, b = map(int, input().split())\nprint(a + b if a > 1 else 0)"
    share = grade(half, grader=GRADER(GRADER.Config(reward="fraction")))
    assert (share.outcome, share.reward, share.details["n_passed"]) == ("incorrect", 2 / 3, 2)
    longest = GRADER(GRADER.Config(tests="longest", n_tests=1))  # that is 30 40
    assert grade(half, grader=longest).reward == 1.0
    assert grade("print(70)", grader=longest).reward == 1.0
    assert grade("print(3)", grader=longest).reward == 0.0


@pytest.mark.parametrize("options", [{"reward": "fraction"}, {"reward": "all"}, {"tests": "longest", "n_tests": 2}])
def test_code_reward_does_not_depend_on_the_order_of_tests(options):
    """Neither on that of the tests, where their lengths differ, nor on that of the replies, nor on other programs."""
    tests = [ProgramTest("1" * n, str(n), "sample") for n in (3, 1, 4, 2, 5)]
    sources = [f"n = len(input())\nprint(n if n {rule} else 0)" for rule in ("> 0", "> 1", "> 3", "% 2", "> 9")]
    grader = GRADER(GRADER.Config(n_workers=3, **options))
    found = []
    for some, asked in ((tests, sources), (tests[::-1], sources), (tests, sources[::-1]), (tests, sources[:1])):
        problem = Problem("p", "t", (), ProgramReference(HeldTests(tuple(some)), "samples"))
        items = [(problem, Completion("p", 0, 0, f"```\n{s}\n```", "stop", Tokens(1, 1))) for s in asked]
        found.append(dict(zip(asked, [v.reward for v in grader.grade_many(items)], strict=True)))
    assert found[0] == found[1] == found[2]
    assert found[3] == {sources[0]: found[0][sources[0]]} == {sources[0]: 1.0}
    expected = {"fraction": [1, 0.8, 0.4, 0.6, 0], "all": [1, 0, 0, 0, 0]}.get(options.get("reward"), [1, 1, 1, 0, 0])
    assert list(found[0].values()) == expected


def test_a_share_of_calls_goes_on_after_one_that_ended_the_process():
    tests = [ProgramTest(str(n), str(n), "sample") for n in range(5)]
    source = "import os\ndef f(n):\n    if n == 1: os._exit(0)\n    if n == 3: return 9\n    return n"
    verdict = grade(source, tests, function_name="f", grader=GRADER(GRADER.Config(reward="fraction")))
    assert (verdict.reward, verdict.details["n_tests"]) == (0.6, 5)
    assert (verdict.details["verdict"], verdict.details["test"]) == ("RE", 1)


def test_the_total_limit_ends_a_program_that_keeps_each_limit():
    slow = "import time\nwhile time.process_time() < 0.3: pass\n" + ADD
    verdict = grade(slow, grader=GRADER(GRADER.Config(cpu_s=2.0, total_cpu_s=0.45)))
    assert (verdict.details["verdict"], verdict.details["cause"], verdict.details["test"]) == ("TLE", "total", 1)


def test_many_programs_are_graded_in_order_by_any_number_of_workers():
    sources = [ADD, "print(3)", "print(", "1/0", ADD + "\n# again"] * 6
    problem = Problem("p", "t", (), ProgramReference(HeldTests(SUMS), "samples"))
    items = [(problem, Completion("p", i, 0, f"```\n{s}\n```", "stop", Tokens(1, 1))) for i, s in enumerate(sources)]
    by_workers = [[v.details["verdict"] for v in GRADER(GRADER.Config(n_workers=n)).grade_many(items)] for n in (1, 3)]
    assert by_workers[0] == by_workers[1] == ["AC", "WA", "CE", "RE", "AC"] * 6


def test_code_grader_options_are_validated():
    for option, message in (("comparison='floats'", "tolerance"), ("n_tests=0", "n_tests"), ("cpu_s=0.0", "above 0")):
        key, _, value = option.partition("=")
        with pytest.raises(ConfigError, match=message):
            config.parse_plugin("graders", {"id": "code", key: eval(value)})
    assert registry.load("graders", "code") is GRADER


# --- where the program is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "program"),
    [
        ("```python\na\n```", "a"),
        ("first\n```python\na\n```\nthen\n```python\nb\nc\n```\nend", "b\nc"),
        ("```python\na\n```\nIt prints\n```text\n5\n```", "a"),
        ("```\na\n```\nIt prints\n```output\n5\n```", "a"),
        ("```cpp\nint x;\n```", "int x;"),
        ("~~~py\na\n~~~", "a"),
        ('```Python 3.11 title="a.py"\na\n```\nRun it:\n```sh\npython a.py\n```', "a"),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''"),
        ("1. like this\n   ```python\n   if a:\n       b\n   ```", "if a:\n    b"),
        ("<think>```python\nno\n```</think>\n```python\nyes\n```", "yes"),
        ("<think>```python\nno\n```", None),
        ("```python\nnever closed", None),
        ("print(1)", "print(1)"),
        ("", None),
        ("```python\n```", ""),
    ],
)
def test_program_is_extracted_from_a_reply(reply, program):
    assert program_in(reply) == program


def test_official_rule_of_program_extraction():
    assert official_program_in("```python\na\n```\ntext ```x``` y\n") == ""
    assert official_program_in("```\na\n```\n```\nb\n```") == "b"
    assert official_program_in("```\na") == ""


def test_program_extraction_takes_linear_time():
    """Twice the text takes about twice as long, not four times."""
    replies = [
        unit * n for unit in ("```python\n", "prose `x` ``` y\n", "<think>", "    x = 1\n") for n in (20_000, 40_000)
    ]
    seconds = []
    for reply in replies:
        began = time.process_time()
        program_in(reply), official_program_in(reply)
        seconds.append(time.process_time() - began)
    assert sum(seconds) < 2.0


def test_truncated_reply_is_reported_unless_it_has_a_program():
    assert grade("x", fenced=False, finish_reason="length").outcome == "incorrect"
    assert grade("```python\n" + ADD, fenced=False, finish_reason="length").reason == "truncated"


@pytest.mark.parametrize("source", ["", "\udcff", "\0", "#" * (300 << 10), "\ufeff" + ADD, "é = 1"])
def test_malformed_programs_get_a_verdict(source):
    assert grade(source).details.get("verdict") in ("WA", "CE", "AC")


# --- when output is right -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "expected", "is_right"),
    [
        ("1\n2\n", "1\n2", True),
        (" 1 \n2", "1\n2\n\n", True),
        ("1.0 2e0", "1 2", True),
        ("1 2", "1\n2", False),
        ("1.0000001", "1", False),
        ("nan", "nan", True),
        ("NaN 1", "nan 1", False),
        ("inf", "Infinity", True),
        ("Yes", "YES", False),
        ("1\u20282", "1\n2", False),
        ("1_000", "1000", True),
        ("1e99999999999", "1", False),
        ("1 " * 200_000, "1.0 " * 200_000, False),
        ("a b", "a  b", False),
    ],
)
def test_outputs_are_compared_by_lines(output, expected, is_right):
    assert lines_equal(output, expected) is is_right


def test_outputs_are_compared_by_tokens_and_floats():
    assert tokens_equal("1\n 2", "1 2\n")
    assert not tokens_equal("1.0", "1")
    assert tokens_equal("Yes no", "YES NO")
    assert not tokens_equal("Yes", "NO")
    assert not tokens_equal("a", "A")
    assert floats_close("0.3000001 x", "0.3 x", 1e-6)
    assert floats_close("3000001", "3000000.0", 1e-6)
    assert not floats_close("0.30001", "0.3", 1e-6)
    assert not floats_close("1.0", "1", 1e-6)
    assert not floats_close("nan", "0.5", 1e-6)
    assert not floats_close("0.5 1", "0.5", 1e-6)
    assert not floats_close("0x1", "1.0", 1.0)


def test_excessive_output_is_not_read():
    assert not is_expected("lines", b"1" + b" " * 100_000, b"1", 0.0)
    assert is_expected("lines", b"1" + b" " * 1000, b"1", 0.0)


# --- values -------------------------------------------------------------------------------------------------------

leaves = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-3, 3).map(round) | st.sampled_from(["", "a", 0.5])
keys = st.recursive(leaves, lambda inner: st.tuples(inner, inner), max_leaves=3)
anything = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(keys, inner, max_size=3)
        | st.sets(keys, max_size=3)
        | st.frozensets(keys, max_size=3)
    ),
    max_leaves=8,
)


@given(anything, anything)
def test_plain_values_are_compared_as_in_python(first, second):
    one, other = (values.decode(values.encode(value)) for value in (first, second))
    assert values.equal(one, other) == (first == second)
    assert values.equal(one, one)


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=4), st.floats(0, 1e-5), st.data())
def test_closeness_of_floats_equals_numpys(expected, absolute, data):
    got = [value + data.draw(st.sampled_from([0, 1e-7, -1e-6, 1e-4])) for value in expected]
    assert values.close(expected, got, absolute, 1e-7) == numpy.allclose(got, expected, rtol=1e-7, atol=absolute)


def rule(dataset, entry_point, arguments, expected, got, tolerance=0.0):
    plain = [values.decode(values.encode(value)) for value in (arguments, expected, got)]
    return is_right(dataset, entry_point, *plain, tolerance)


@pytest.mark.parametrize(
    ("dataset", "entry_point", "arguments", "expected", "got", "right"),
    [
        ("humaneval", "f", [], 0.3, 0.1 + 0.2, True),
        ("humaneval", "f", [], 1, 1.0, True),
        ("humaneval", "f", [], [1.0, 2.0], [1.0, 2.0000001], True),
        ("humaneval", "f", [], [1.0, 2.0], (1.0, 2.0000001), False),
        ("humaneval", "f", [], [1, 2], [1, 2.0000001], False),
        ("humaneval", "f", [], [1.0], [1.0, 2.0], False),
        ("humaneval", "f", [], 1.0, "1.0", False),
        ("humaneval", "f", [], (1, 2), [1, 2], False),
        ("humaneval", "f", [], math.inf, math.inf, True),
        ("humaneval", "find_zero", [[-6, 11, -6, 1]], 1.0, 3.0, True),
        ("humaneval", "find_zero", [[-6, 11, -6, 1]], 1.0, 2.5, False),
        ("humaneval", "find_zero", [[-6, 11, -6, 1]], 1.0, None, False),
        ("humaneval", "find_zero", [[0, 0, 1e300]], 0.0, 1e200, False),
        ("mbpp", "similar_elements", [], (1, 2), [2, 1, 1], True),
        ("mbpp", "similar_elements", [], (1, 2), [2, 1, 3], False),
        ("mbpp", "similar_elements", [], (1, 2), None, False),
        ("mbpp", "similar_elements", [], (), [[]], False),
        ("mbpp", "check_str", ["a"], True, "found", True),
        ("mbpp", "check_str", ["a"], None, "found", False),
        ("mbpp", "check_str", ["a"], None, False, True),
        ("mbpp", "check_str", ["a"], True, False, False),
        ("mbpp", "are_equivalent", [1, 2], True, False, True),
        ("mbpp", "sum_div", [7], 1, 0, True),
        ("mbpp", "sum_div", [7], 1, 2, False),
        ("mbpp", "digit_distance_nums", [23, 156], 7, 1 + 3 + 3, True),
        ("mbpp", "digit_distance_nums", [1, 23], 6, 4, True),
        ("mbpp", "surface_Area", [3, 4], 33, round(9 + 2 * 3 * math.sqrt(1.5**2 + 16)), True),
        ("mbpp", "surface_Area", [3, 4], 33, 34, False),
    ],
)
def test_answers_are_compared_by_the_evalplus_rules(dataset, entry_point, arguments, expected, got, right):
    assert rule(dataset, entry_point, arguments, expected, got, tolerance=1e-4 * (entry_point == "find_zero")) is right


SPECIAL = [math.inf, -math.inf, math.nan, 1.7e308, -1.7e308, 0.0, 5, 10**400]


@pytest.mark.parametrize("tolerance", [1e-6, 0.5])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x, 1.0], lambda x: [[x]]], ids=["alone", "in a list", "deep"])
def test_infinities_and_nan_equal_only_themselves_whatever_the_tolerance(wrap, tolerance):
    for expected, got in itertools.product(SPECIAL, SPECIAL):
        right = str(expected) == str(got)
        assert values.close_or_equal(wrap(expected), wrap(got), tolerance) is right, (expected, got)
        if type(expected) is float and type(got) is float:
            assert rule("humaneval", "f", [], wrap(expected), wrap(got), tolerance) is right, (expected, got)


def test_infinities_and_nan_in_outputs_equal_only_themselves():
    texts = ["1e999", "-1e999", "inf", "-inf", "nan", "1.7e308", "-1.7e308", "0.0"]
    for expected, got in itertools.product(texts, texts):
        assert floats_close(got, expected, 0.5) is (got == expected), (expected, got)


def test_evalplus_tolerance_is_not_kept_for_later_answers():
    """In evalplus the first float answer makes it tolerant of all that come after, whole numbers too."""
    assert not rule("humaneval", "f", [], 10**9, 10**9 + 1)


# --- HumanEval+ and MBPP+ -----------------------------------------------------------------------------------------

DOUBLE = EvalPlusReference("double", "def double(x):\n", "    return [2 * x]\n", [[1]], [[2], [3]], 0.0, "humaneval")


def evalplus(source, reference=DOUBLE, **options):
    grader = GRADER(GRADER.Config(**{"least_cpu_s": 0.5, "retries_timeouts": False, **options}))
    completion = Completion("p", 0, 0, f"```python\n{source}\n```", "stop", Tokens(1, 1))
    return grader.grade(Problem("p", "humaneval", (), reference), completion)


def test_humaneval_base_and_plus_tests_are_reported_separately():
    assert evalplus("def double(x): return [x + x]").outcome == "correct"
    only_base = evalplus("def double(x): return [2]")
    assert (only_base.outcome, only_base.details["base"], only_base.details["test"]) == ("incorrect", "passed", 1)
    assert only_base.details["expected"] == "[4]"
    assert evalplus("def double(x): return [2]", inputs="base").outcome == "correct"
    assert evalplus("def double(x): return 2").details["base"] == "failed"


def test_a_continuation_is_judged_with_its_prompt():
    assert evalplus("    return [2 * x]").outcome == "correct"


def test_evalplus_time_limit_grows_with_the_time_of_the_reference():
    slow = "    import time\n    while time.process_time() < 0.4: pass\n    return x\n"
    reference = EvalPlusReference("f", "def f(x):\n", slow, [[1]], [], 0.0, "humaneval")
    twice = "def f(x):\n" + slow.replace("0.4", "0.8")
    assert evalplus(twice, reference, least_cpu_s=0.1).outcome == "correct"
    assert evalplus(twice.replace("0.8", "9"), reference, least_cpu_s=0.1).details["verdict"] == "TLE"


def test_failing_reference_solution_gives_no_verdict():
    broken = EvalPlusReference("double", "def double(x):\n", "    return 1 / 0\n", [[1]], [], 0.0, "humaneval")
    verdict = evalplus("def double(x): return 1", broken)
    assert (verdict.outcome, "ZeroDivisionError" in verdict.reason) == ("ungraded", True)


def test_oracles_use_their_own_copy_of_the_arguments():
    """Emptying the coefficients must not make every number a zero of them."""
    reference = EvalPlusReference(
        "find_zero", "def find_zero(xs):\n", "    return 1.0\n", [[[-1, 1]]], [], 1e-4, "humaneval"
    )
    cheat = "def find_zero(xs):\n    xs.clear()\n    return 7.0"
    assert evalplus(cheat, reference).outcome == "incorrect"
    assert evalplus("def find_zero(xs): return 1.0", reference).outcome == "correct"


def test_answers_that_are_not_plain_data_are_compared_by_truth():
    reference = EvalPlusReference(
        "check_str", "import re\ndef check_str(s):\n", "    return re.match('a', s)\n", [["ab"]], [["b"]], 0.0, "mbpp"
    )
    assert evalplus("import re\ndef check_str(s): return re.search('^a', s)", reference).outcome == "correct"
    assert evalplus("def check_str(s): return s[0] == 'a'", reference).outcome == "correct"
    assert evalplus("import re\ndef check_str(s): return re.search('b', s)", reference).outcome == "incorrect"


def test_giant_answers_are_compared_by_digest():
    body = "    return [tuple(range(i, i + 50)) for i in range(n)]\n"
    reference = EvalPlusReference("f", "def f(n):\n", body, [[100_000]], [], 0.0, "mbpp")
    pool = GRADER(GRADER.Config())._pool
    asked = evalplus_judge._Asked("giant", reference)
    assert len(evalplus_judge._expected(pool, asked)[0].body) < 100
    assert evalplus("def f(n):\n" + body, reference, least_cpu_s=9.0).outcome == "correct"
    assert evalplus("def f(n):\n" + body.replace("i + 50", "i + 49"), reference, least_cpu_s=9.0).outcome == "incorrect"
