"""Answers and outputs made to cost the judge time, memory or its process."""

from __future__ import annotations

import contextlib
import json
import marshal
import math
import os
import signal
import sys
import time
from decimal import Decimal
from pathlib import Path

import pytest
from code_answers import function_of, growth_of, judged
from hypothesis import example, given
from hypothesis import strategies as st

from harness.core.errors import SandboxError
from harness.core.types import Answer, Call, Completion, Execution, Limits, Problem, Program, Tokens
from harness.graders.code import equality, isolated_compare
from harness.graders.code import values as _plain_values
from harness.graders.code.equality import ExpectedAnswer
from harness.graders.code.extraction import official_program_in, program_in
from harness.graders.code.isolated_compare import is_right_answer
from harness.graders.code.judge import Allowance, FunctionTest, judge_function
from harness.graders.code.output_match import first_difference, is_expected, lines_equal, tokens_equal, words_equal
from harness.graders.code.prelude import PRELUDE
from harness.graders.code.reference import EvalPlusReference, HeldTests, ProgramReference, ProgramTest
from harness.graders.published.lcb_official import GRADER as LCB_OFFICIAL
from harness.sandbox import Level, Pool, open_pool, strongest
from harness.sandbox.inside import codec

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is for Linux")

ALLOWED = Allowance(cpu_s=2.0, memory_bytes=256 << 20, retries_timeouts=False)
RULES = ("f", "find_zero", "Diff", "check_str", "are_equivalent", "sum_div", "surface_Area", "digit_distance_nums")


def value(body):
    return Answer("value", body, 0.0)


def calls(n, accepts, answer_bytes=4096, cpu_s=2.0):
    return [
        FunctionTest((place,), cpu_s, answer_bytes, lambda got, p=place: accepts(p, got.body)) for place in range(n)
    ]


# --- answers as they come -----------------------------------------------------------------------------------------


def is_the_place(place, body):
    return json.loads(body) == place


def test_judge_stops_after_a_wrong_answer():
    source = "def f(n):\n    while n > 1: pass\n    return n if n < 1 else -1"
    report = judge_function(open_pool(n_workers=1), Program(source), "f", calls(9, is_the_place), ALLOWED)
    assert [outcome.code for outcome in report.outcomes] == ["AC", "WA"]
    assert report.cpu_s < 1.0


def test_too_large_answer_fails_its_call_alone():
    source = "def f(n):\n    return 'x' * 9999 if n == 1 else n"
    report = judge_function(
        open_pool(n_workers=1),
        Program(source),
        "f",
        calls(4, is_the_place),
        Allowance(2.0, 256 << 20, runs_all_tests=True, retries_timeouts=False),
    )
    assert [outcome.code for outcome in report.outcomes] == ["AC", "WA", "AC", "AC"]


def test_memory_limit_fails_every_call_and_is_reached_once():
    source = "x = bytearray(300 << 20)\ndel x\ndef f(n): return n"
    allowed = Allowance(2.0, 256 << 20, runs_all_tests=True, retries_timeouts=False)
    pool = Counting()
    report = judge_function(pool, Program(source), "f", calls(3, is_the_place), allowed)
    assert [outcome.code for outcome in report.outcomes] == ["MLE"] * 3
    assert pool.n_runs == 1


OUT_OF_MEMORY = {
    "one allocation": "def f(n): return len(bytearray(4 << 30))",
    "many allocations": "def f(n):\n    a = []\n    while True: a.append(bytes(1 << 20))",
    "a value that can't be written": "def f(n): return 'x' * (300 << 20)",
    "numpy": "import numpy\ndef f(n): return len(numpy.zeros(4 << 30))",
    "another error after it": "def f(n):\n    x = bytearray(300 << 20)\n    raise KeyError(n)",
    "a wrong answer after it": "def f(n):\n    x = bytearray(300 << 20)\n    return -1",
    "while loading": "x = bytearray(4 << 30)\ndef f(n): return n",
}


@pytest.mark.parametrize("name", OUT_OF_MEMORY)
def test_memory_exhaustion_of_a_function_is_mle(name):
    allowed = Allowance(20.0, 256 << 20, retries_timeouts=False)
    tests = calls(2, is_the_place, cpu_s=20.0)  # filling the memory is slow on some machines
    report = judge_function(open_pool(n_workers=1), Program(OUT_OF_MEMORY[name]), "f", tests, allowed)
    assert report.outcomes[-1].code == "MLE", report.outcomes


DEEP = {
    "endless": "def f(n): return f(n)",
    "through C": "def f(n): return sorted([n], key=f)",
    "a method": "class Solution:\n    def f(self, n): return self.f(n)",
    "a higher limit": "import sys\nsys.setrecursionlimit(10**9)\ndef f(n): return sorted([n], key=f)",
    "a representation": "class A:\n    def __repr__(self): return repr(self)\ndef f(n): return repr(A())",
    "while loading": "def g(n): return g(n)\ng(0)\ndef f(n): return n",
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_recursion_of_a_function_is_re(name):
    allowed = Allowance(20.0, 1 << 30, retries_timeouts=False)
    tests = calls(1, is_the_place, cpu_s=20.0)
    report = judge_function(open_pool(n_workers=1), Program(DEEP[name], PRELUDE), "f", tests, allowed)
    expected = ("MLE", "RE") if name == "a higher limit" else ("RE",)  # it may fill the memory first
    assert report.outcomes[-1].code in expected, report.outcomes


SHADOWED = ("count", "product", "sum", "pow", "search", "choice", "mode", "heappush", "reduce", "mean", "dist", "copy")


@pytest.mark.parametrize("name", SHADOWED)
def test_a_method_comes_before_a_name_of_the_prelude(name):
    method = f"class Solution:\n    def {name}(self, n): return n"
    function = f"def {name}(n): return n"
    for source in (method, function, f"{function}\nclass Solution:\n    pass"):
        program = Program(source, PRELUDE)
        report = judge_function(open_pool(n_workers=1), program, name, calls(2, is_the_place), ALLOWED)
        assert [outcome.code for outcome in report.outcomes] == ["AC", "AC"], report.outcomes


class Counting:
    n_runs, is_crowded = 0, False

    def call(self, *arguments):
        self.n_runs += 1
        return open_pool(n_workers=1).call(*arguments)


def test_answers_of_a_killed_worker_are_discarded_and_the_calls_repeated():
    """A worker that dies in the middle is the machine's fault, and what was heard of it does not count."""
    before, pool, heard = children(), Pool(strongest()[0], 1), []

    def look(place, answer):
        heard.append((place, json.loads(answer.body)))
        if len(heard) == 2:
            for pid in children() - before:
                os.kill(pid, signal.SIGKILL)
        return True

    source = "import time\ndef f(n):\n    time.sleep(0.3)\n    return n"
    ended = pool.call(Program(source), "f", [Call((n,), 2.0, 100) for n in range(3)], Limits(9, 9, 1 << 28), look)
    pool.close()
    assert heard == [(0, 0), (1, 1), (0, 0), (1, 1), (2, 2)]
    assert ended.answers == ()


def children():
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


# --- values -------------------------------------------------------------------------------------------------------

numbers = (
    st.integers()
    | st.sampled_from([400, 9999]).map(lambda power: 10**power)
    | st.floats()
    | st.complex_numbers()
    | st.fractions()
    | st.decimals()
    | st.sampled_from([Decimal("1e999999999"), Decimal("-1e-999999999"), Decimal("sNaN"), Decimal("1e4000")])
)
values = st.recursive(
    numbers | st.none() | st.booleans() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.integers(), inner, max_size=2)
    ),
    max_leaves=6,
)


@given(values, values, st.sampled_from(RULES), st.sampled_from(["humaneval", "mbpp"]), st.sampled_from([0.0, 1e-6]))
def test_comparison_rules_accept_any_answer_without_raising(expected, got, rule, dataset, tolerance):
    wanted, given = ExpectedAnswer(_plain_values.encode(expected)), value(_plain_values.encode(got))
    arguments = [3, 4] if rule != "find_zero" else [[3, 4]]
    assert is_right_answer(("evalplus", dataset, rule, arguments, tolerance), wanted, given) in (True, False)
    assert is_right_answer(("plain", tolerance), wanted, given) in (True, False)
    for kind in ("official_output", "official_value"):
        pair = ExpectedAnswer(_plain_values.encode(["value", "1"]))
        assert is_right_answer((kind,), pair, given) is (got == ["value", "1"])


@pytest.mark.parametrize(
    "got", ["10**400", "-10**400", "complex(1.7e308, 1.7e308)", "1e308 + 1", "float('nan')", "None"]
)
@pytest.mark.parametrize("expected", ["1.5", "[1.5]", "(1.5, 2.5)", "[[1.5]]", "complex(-1.7e308, 0)"])
def test_number_too_large_for_floats_is_wrong_without_an_error(expected, got):
    source = f"def f(n): return {expected.replace('1.5', got)}"
    for tolerance in (0.0, 1e-4):
        reference = EvalPlusReference("f", "def f(n):\n", f"    return {expected}\n", [[1]], [], tolerance, "mbpp")
        assert (judged(source, reference).outcome == "incorrect") is ("1.5" in expected)
    if "complex" not in expected:
        value = expected.replace("(", "[").replace(")", "]")
        reference = function_of(("1", value))
        assert judged(source, reference, comparison="floats", tolerance=1e-4).outcome == "incorrect"


exact = st.integers(-9, 9) | st.sampled_from([0.5, 0.25, -1.75, 0.1, 1e300, math.inf, 1 + 0j, 1.5 + 1j])


@given(
    exact,
    st.fractions(-9, 9, max_denominator=4) | st.decimals(-9, 9, places=2) | st.sampled_from([Decimal("Infinity")]),
)
def test_decimals_and_fractions_compare_as_in_python(number, other):
    ours = [_plain_values.decode(_plain_values.encode(value)) for value in (number, other)]
    assert _plain_values.equal(*ours) == _plain_values.equal(*ours[::-1]) == (number == other)
    if number == other:
        assert _plain_values.canonical(ours[0]) == _plain_values.canonical(ours[1])


@pytest.mark.parametrize(("expected", "other", "right"), [
    ("0.5", "Fraction(1, 2)", True),
    ("[7, 0.5]", "[Decimal(7), Decimal('0.5')]", True),
    ("0.1", "Decimal('0.1')", False),  # nor has Python it so
    ("7", "Decimal('7.000001')", False),
    ("0.5", "type('L', (Fraction,), {'__eq__': lambda *_: True})(1, 3)", False),
    ("0.5", "type('L', (Decimal,), {'__eq__': lambda *_: True})('0.3')", False),
])  # fmt: skip
def test_other_number_types_are_compared_by_value(expected, other, right):
    source = f"from decimal import Decimal\nfrom fractions import Fraction\ndef f(n): return {other}"
    solution = f"    return {expected}\n"
    reference = EvalPlusReference("f", "def f(n):\n", solution, [[1]], [[2]], 0.0, "humaneval")
    assert (judged(source, reference).outcome == "correct") is right
    assert (judged(source, function_of(("1", expected))).outcome == "correct") is right


@pytest.mark.parametrize("body", [
    b'{"decimal":"1e999999999999"}', b'{"decimal":"' + b"9" * 5000 + b'"}', b'{"decimal":"x"}', b'{"decimal":1}',
    b'{"fraction":[1,0]}', b'{"fraction":[1]}', b'{"fraction":[1.0,2]}', b'{"fraction":[1,true]}',
    b'{"fraction":[1,{"int":"0x' + b"f" * 5000 + b'"}]}',
])  # fmt: skip
def test_numbers_slow_to_compare_are_refused(body):
    with pytest.raises(codec.NotPlainError):
        _plain_values.decode(body)


def test_an_answer_deeper_than_any_right_one_is_wrong():
    forged = (
        "import os, struct\nbody = b'[' * 900 + b']' * 900\nos.write(3, struct.pack('<6sI', b'value_', 1800) + body)"
    )
    assert judged(f"{forged}\ndef f(n): return 1", function_of(("1", "1"))).outcome == "incorrect"


LARGE = {
    "what is expected": ("list(range(300_000))", True),
    "other numbers of the same value": ("list(map(float, range(300_000)))", True),
    "another container": ("tuple(range(300_000))", True),
    "one that is off": ("[*range(299_999), 0]", False),
    "no list at all": ("'[' * 600_000", False),
}


@pytest.mark.parametrize("answer", LARGE)
def test_large_answers_are_judged_as_small_ones_are(answer):
    source, is_right = LARGE[answer]
    reference = function_of(("1", json.dumps(list(range(300_000)))))
    assert (judged(f"def f(n): return {source}", reference).outcome == "correct") is is_right


@pytest.mark.parametrize("comparison", ["lines", "tokens", "words", "floats"])
def test_large_outputs_are_judged_as_small_ones_are(comparison):
    reference = ProgramReference(HeldTests((ProgramTest("", "1.5\n" * 300_000, "sample"),)), "samples")
    options = {"comparison": comparison, "tolerance": 1e-6}
    assert judged("for _ in range(300_000): print('1.5 ')", reference, **options).outcome == "correct"
    wrong = judged("for n in range(300_000): print('1.5' if n != 7777 else '2')", reference, **options)
    assert (wrong.outcome, wrong.details["difference"]) == ("incorrect", "line 7778: '1.5' expected, '2' written")


@pytest.mark.parametrize("values", [
    list(range(30_000)), ["a\ud83d", "", 1.5, None, True, -0.0, 10**40] * 5000,
    tuple("ab" * 10_000), "xyz\U0001f600" * 9000,
], ids=["numbers", "all kinds", "tuple", "text"])  # fmt: skip
def test_packed_answers_are_judged_like_plain_ones(values):
    """Each kind of answer twice: as the program packs it, and as it would say it."""
    text = _plain_values.encode(values)
    expected, packed = ExpectedAnswer(text), codec.packed(values)
    assert packed == expected.packed is not None
    nearly = values[:-1] + ("?" if type(values) is str else type(values)([0.25]))
    as_other = list(values) if type(values) is tuple else tuple(values)
    for each in (values, nearly, as_other, list(map(str, values))):
        said, sent = value(_plain_values.encode(each)), Answer("packed", codec.packed(each), 0.0)
        for rule in (("plain", 0.0), ("evalplus", "mbpp", "Diff", [1], 0.0), ("evalplus", "humaneval", "f", [1], 1e-6)):
            assert is_right_answer(rule, expected, sent) is is_right_answer(rule, expected, said)
    assert is_right_answer(("plain", 0.0), expected, Answer("packed", packed, 0.0))
    assert not is_right_answer(("plain", 0.0), expected, Answer("packed", codec.packed(nearly), 0.0))


@pytest.mark.parametrize("other", [{1: 2}, [[1]] * 30_000, [1] * 100, 5, None, b"x" * 99_999, "x" * (17 << 20), {"a"}])
def test_values_of_mixed_types_are_not_packed(other):
    assert codec.packed(other) is None


@pytest.mark.parametrize("level", [level for level in Level if sys.platform == "linux" and level <= strongest()[0]])
def test_large_answers_are_compared_at_every_level(level, monkeypatch):
    comparers = Pool(level, 1)
    monkeypatch.setattr(isolated_compare, "_comparers", lambda process: comparers)
    expected = ExpectedAnswer(_plain_values.encode(list(range(300_000))))
    for each, right in ((list(map(float, range(300_000))), True), ([0.5] * 300_000, False)):
        assert is_right_answer(("plain", 0.0), expected, value(_plain_values.encode(each))) is right
        assert is_right_answer(("plain", 0.0), expected, Answer("packed", codec.packed(each), 0.0)) is right
    comparers.close()


@pytest.mark.parametrize(
    "fault", ["raise ValueError('ours')", "import nothing_of_the_kind", "x =", "raise SystemExit(3)"]
)
def test_failing_comparison_gives_no_verdict(fault, monkeypatch):
    monkeypatch.setattr(isolated_compare, "_QUESTION", fault)
    source = "def f(n): return list(map(float, range(300_000)))"
    verdict = judged(source, function_of(("1", json.dumps(list(range(300_000))))))
    assert (verdict.outcome, verdict.reward) == ("ungraded", None)
    assert "comparing" in verdict.reason


def test_killed_comparison_gives_no_verdict(monkeypatch):
    """Python can't be killed by a signal of its own in namespaces, so it is done where it can."""
    monkeypatch.setattr(isolated_compare, "_comparers", lambda process: Pool(Level.LIMITS, 1))
    expected = ExpectedAnswer(_plain_values.encode(list(range(300_000))))
    for number, is_verdict in ((signal.SIGKILL, False), (signal.SIGSEGV, True)):
        monkeypatch.setattr(isolated_compare, "_QUESTION", f"import os; os.kill(os.getpid(), {int(number)})")
        with contextlib.nullcontext() if is_verdict else pytest.raises(SandboxError, match="killed by the machine"):
            assert not is_right_answer(("plain", 0.0), expected, Answer("packed", bytes(30_000), 0.0))


def bomb(n_levels):
    """Return a dict whose key is a tuple of tuples that share their parts: its hash takes 2**n_levels steps."""
    tuples = b"".join(b"\xa9\2" for _ in range(n_levels)) + b"\xa9\0"
    shared = b"".join(b"r" + (level + 1).to_bytes(4, "little") for level in reversed(range(n_levels)))
    return b"{" + tuples + shared + b"N0"


def test_forged_packed_answers_cost_the_judge_no_more_than_honest_ones():
    """Of the three, only the second needs a process, which reads its bytes but not its values."""
    begun, expected = isolated_compare.spent_s(), ExpectedAnswer(_plain_values.encode(list(range(30_000))))
    in_a_list = b"[\2\0\0\0u" + (30_000).to_bytes(4, "little") + b"x" * 30_000 + bomb(60)
    for body in (bomb(60), in_a_list, b"["):
        assert not is_right_answer(("plain", 0.0), expected, Answer("packed", body, 0.0))
        assert isolated_compare.start_of(Answer("packed", body, 0.0)) in (b"", b"None")
    assert isolated_compare.spent_s() - begun < 1.0


@given(st.lists(st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters())))
def test_packed_values_are_flat_and_no_others_are(items):
    for body in (marshal.dumps(items, 2), marshal.dumps(tuple(items), 2), marshal.dumps("".join(map(str, items)), 2)):
        assert equality._is_flat(body)
        assert not equality._is_flat(body + b"[")
    for other in ([items], {1: items}, [b""], {1}, 5):
        assert not equality._is_flat(marshal.dumps(other, 2))


def test_time_for_comparing_is_limited_by_the_size_of_what_is_compared(monkeypatch):
    given_s = []

    class Comparers:
        def run(self, program, stdin, limits):
            given_s.append(limits.cpu_s)
            return Execution("cpu_limit", 9, b"", b"", limits.cpu_s, limits.wall_s, 0)

    monkeypatch.setattr(isolated_compare, "_comparers", lambda process: Comparers())
    begun = isolated_compare.spent_s()
    for n_mib in (0, 4, 64):
        body = b"x" * (n_mib << 20)
        isolated_compare._apart(equality.is_right_packed, ("plain", 0.0), b"[]", body)
    assert given_s == pytest.approx([3.0, 11.0, 20.0], abs=0.01)
    assert isolated_compare.spent_s() - begun == pytest.approx(sum(given_s))


@pytest.mark.parametrize("reward", ["all", "fraction"])
def test_a_program_whose_comparisons_take_too_long_is_stopped(monkeypatch, reward):
    monkeypatch.setattr("harness.graders.code.judge._MOST_COMPARING_S", 0.001)
    tests = [(str(n), json.dumps(list(range(n, n + 30_000)))) for n in range(3)]
    source = "def f(n): return list(map(float, range(n, n + 30_000)))"
    verdict = judged(source, function_of(*tests), reward=reward)
    assert (verdict.outcome, verdict.details["verdict"], verdict.details["cause"]) == ("incorrect", "TLE", "comparing")
    assert (verdict.details["n_passed"], verdict.details["test"]) == (0, 0)
    assert verdict.details["compare_s"] > 0.001
    monkeypatch.undo()
    assert judged(source, function_of(*tests), reward=reward).outcome == "correct"


def test_answer_with_an_integer_too_long_to_show_is_wrong():
    verdict = judged("def f(n): return [10**5000] + [1] * 29_999", function_of(("1", json.dumps([1] * 30_000))))
    assert (verdict.outcome, verdict.details["verdict"]) == ("incorrect", "WA")
    assert "integer of thousands of digits" in verdict.details["got"]


def test_packed_answer_is_not_accepted_as_a_digest():
    assert not is_right_answer(("plain", 0.0), ExpectedAnswer(b'{"digest":"00"}'), Answer("packed", b"i\1\0\0\0", 0.0))


def test_details_show_the_start_of_a_large_wrong_answer():
    verdict = judged("def f(n): return [7.5] * 40_000", function_of(("1", json.dumps([1] * 40_000))))
    assert verdict.details["got"].startswith("[7.5, 7.5, ")


def test_answer_too_expensive_to_compare_is_wrong(monkeypatch):
    short = Limits(cpu_s=0.2, wall_s=60.0, memory_bytes=2 << 30)
    monkeypatch.setattr("harness.graders.code.isolated_compare._LIMITS", short)
    expected = json.dumps(list(range(2_000_000))).encode()
    assert not is_right_answer(("plain", 0.0), ExpectedAnswer(expected), value(expected + b" "))


# --- outputs ------------------------------------------------------------------------------------------------------

blanks = st.sampled_from(["\n\n", "\n \n", "", " ", "\n", "\t", " \n", "\u2003", "\x1c", "\r\n"])
words = st.sampled_from(["1", "1.0", "1e0", "a", "A", "nan", "0.5"])
same = words.map(lambda word: (word, word))
pairs_of_texts = st.lists(st.tuples(same | st.tuples(words, words), blanks, blanks), max_size=6).map(
    lambda parts: tuple("".join(pair[side] + (one, other)[side] for pair, one, other in parts) for side in (0, 1))
)


def official_lines(output, expected):
    """LiveCodeBench's rule, word for word as its checker goes."""
    ours, wanted = output.strip().split("\n"), expected.strip().split("\n")
    if len(ours) != len(wanted):
        return False
    for one, other in zip([line.strip() for line in ours], [line.strip() for line in wanted], strict=True):
        if one == other:
            continue
        try:
            if [Decimal(token) for token in one.split()] != [Decimal(token) for token in other.split()]:
                return False
        except ArithmeticError:
            return False
    return True


@example(("1 \n1", "1\n1"), 2)
@given(pairs_of_texts, st.sampled_from([1, 2, 1 << 16]))
def test_output_rules_applied_in_pieces_equal_those_of_the_whole(texts, piece):
    output, expected = texts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.graders.code.output_match._PIECE_CHARACTERS", piece)
        assert lines_equal(output, expected) == official_lines(output, expected)
        assert words_equal(output, expected) == (output.upper().split() == expected.upper().split())
        alike = output.split() == expected.split()
        assert tokens_equal(output, expected) == alike
        assert (first_difference(output.encode(), expected.encode()) == "in blanks alone") == (
            [line.strip() for line in output.strip().split("\n")]
            == [line.strip() for line in expected.strip().split("\n")]
        )


BOMBS = {
    "exponents": b"1e999999999 " * 9000,
    "digits": b"9" * 100_000,
    "nans": b"nan sNaN -Infinity " * 5000,
    "signs": b"+-.eE" * 20_000,
    "other digits": "\u0661\uff11 ".encode() * 10_000,
    "blanks": b" \t" * 50_000,
    "lines": b"\n1" * 50_000,
    "separators": "\u2028\x85".encode() * 20_000,
    "no text": b"\xff\xfe" * 50_000,
    "letters that grow": "\u0390\ufb03".encode() * 20_000,
}


@pytest.mark.parametrize("rule", ["lines", "tokens", "words", "floats"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_comparison_time_is_bounded_for_any_output(rule, bomb):
    for expected in (b"1 2.5 3\n", b"1.5 " * 30_000, b"1.5\n" * 30_000, b"8" * 120_000):
        began = time.process_time()
        assert not is_expected(rule, BOMBS[bomb], expected, 1e-6)
        first_difference(BOMBS[bomb], expected)
        assert time.process_time() - began < 2.0


# --- replies ------------------------------------------------------------------------------------------------------

REPLIES = {
    "fences never closed": "```python\n",
    "longer and longer fences": "````\n```\n",
    "fences in prose": "prose `x` ``` y\n",
    "reasoning never ended": "<think>",
    "reasoning ended again and again": "</think>",
    "backticks": "`",
    "indented fences": "   ```py\n  x\n",
    "empty lines": "\n",
}


@pytest.mark.parametrize("find", [program_in, official_program_in])
@pytest.mark.parametrize("unit", REPLIES)
def test_program_extraction_from_ten_megabytes_takes_linear_time(find, unit):
    seconds = []
    for size in (2_500_000, 10_000_000):
        reply = REPLIES[unit] * (size // len(REPLIES[unit]))
        began = time.process_time()
        find(reply)
        seconds.append(time.process_time() - began)
    assert seconds[1] < 5.0
    assert seconds[1] < 8 * seconds[0] + 0.2  # four times the text; sixteen would be its square


# --- memory -------------------------------------------------------------------------------------------------------

FORGE = """
import os, struct
def f(n):
    body = @BODY@
    rest = memoryview(struct.pack("<6sI", b"value_", len(body)) + body)
    while rest: rest = rest[os.write(3, rest):]
"""
FORGED = {
    "lists": "b'[' + b'[],' * (@ROOM@ // 3 - 2) + b'1]'",
    "texts": "b'[' + b'\"ab\",' * (@ROOM@ // 5 - 2) + b'1]'",
    "one text": "b'\"\\\\ud83d\\\\ude00' + b'a' * (@ROOM@ - 20) + b'\"'",
    "numbers": "b'[' + b'12345678901234567890,' * (@ROOM@ // 21 - 2) + b'1]'",
    "more than there is room for": "b'[' + b'1,' * 60_000_000 + b'1]'",
}
MOST_MIB = 100_000_000 >> 20


def forging(forged, expected):
    room = ExpectedAnswer(_plain_values.encode(expected)).room_bytes
    return FORGE.replace("@BODY@", FORGED[forged].replace("@ROOM@", str(room)))


@pytest.mark.parametrize("forged", FORGED)
def test_memory_of_the_judge_is_bounded_for_any_answer(forged):
    """Where twelve calls are expected to give 3.2 MB each."""
    source = forging(forged, list(range(1_000_000, 1_400_000)))
    code = f"""
expected = json.dumps(list(range(1_000_000, 1_400_000)))
reference = function_of(*[(str(n), expected) for n in range(12)])
judged('def f(n): return n', reference)
before = reset()
assert judged({source!r}, reference, reward='fraction').outcome == 'incorrect'
print(peak() - before)
"""
    assert growth_of(code) <= MOST_MIB


@pytest.mark.parametrize("forged", FORGED)
def test_memory_of_the_humaneval_judge_is_bounded_for_any_answer(forged):
    """No problem there asks for more than 11.4 MB."""
    source = forging(forged, list(range(1_000_000, 2_270_000)))
    code = f"""
solution = "    return list(range(1_000_000, 2_270_000))\\n"
reference = EvalPlusReference("f", "def f(n):\\n", solution, [[1]], [[2], [3]], 0.0, "humaneval")
judged('def f(n): return n', reference)
before = reset()
assert judged({source!r}, reference, reward='fraction').outcome == 'incorrect'
print(peak() - before)
"""
    assert growth_of(code) <= MOST_MIB


@pytest.mark.parametrize("forged", ["lists", "one text"])
def test_memory_of_the_official_judge_is_bounded_for_any_answer(forged):
    body = f"b'[\"output\",' + {FORGED[forged].replace('@ROOM@', str(22_000_000))} + b']'"
    source = f"{FORGE.replace('@BODY@', body)}\nf(1)"
    code = f"""
reference = ProgramReference(HeldTests((ProgramTest("", "12345678\\n" * 1_200_000, "sample"),)), "samples")
def official(source):
    completion = Completion("p", 0, 0, f"```python\\n{{source}}\\n```", "stop", Tokens(1, 1))
    return LCB_OFFICIAL(LCB_OFFICIAL.Config()).grade(Problem("p", "t", (), reference), completion)
assert official("print(1)").outcome == "incorrect"
before = reset()
assert official({source!r}).details["verdict"] == "WA"
print(peak() - before)
"""
    assert growth_of(code) <= MOST_MIB


def test_official_judge_survives_an_output_that_is_not_text():
    body = b'["output",5]'
    forged = f"import os, struct\nos.write(3, struct.pack('<6sI', b'value_', {len(body)}) + {body!r})"
    reply = Completion("p", 0, 0, f"```python\n{forged}\n```", "stop", Tokens(1, 1))
    reference = ProgramReference(HeldTests((ProgramTest("", "5", "sample"),)), "samples")
    assert LCB_OFFICIAL(LCB_OFFICIAL.Config()).grade(Problem("p", "t", (), reference), reply).outcome == "incorrect"


@pytest.mark.parametrize("rule", ["lines", "tokens", "words", "floats"])
@pytest.mark.parametrize("unit", ["10\\n", "10 ", "1", "\\U0001f600"])
@pytest.mark.parametrize(
    "n_lines", [pytest.param(780_000, id="7 MB", marks=pytest.mark.slow), pytest.param(1_800_000, id="16 MB")]
)
def test_memory_of_the_judge_is_bounded_for_any_output(rule, unit, n_lines):
    """Where so much is expected. Outputs are held to 16 MiB."""
    n_bytes = min(2 * 9 * n_lines, (16 << 20) - 10)
    code = f"""
expected = "12345678\\n" * {n_lines}
reference = ProgramReference(HeldTests((ProgramTest("", expected, "sample"),)), "samples")
source = "import sys\\nsys.stdout.write({unit!r} * ({n_bytes} // len({unit!r}.encode())))"
judged("print(1)", reference)
before = reset()
assert judged(source, reference, comparison={rule!r}, tolerance=1e-6).details["verdict"] == "WA"
print(peak() - before)
"""
    assert growth_of(code) <= MOST_MIB
