"""What a judge does with answers and outputs that are made to cost it: time, memory, or its life."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.core.types import Call, Completion, Limits, Problem, Program, Tokens
from harness.graders import _plain_values
from harness.graders._evalplus_rules import is_right
from harness.graders._judging import Allowance, FunctionTest, judge_function
from harness.graders._output_rules import first_difference, is_expected, lines_equal, tokens_equal, words_equal
from harness.graders._plain_values import accepted, answer_room, close_or_equal, with_lists
from harness.graders._program_reference import EvalPlusReference, HeldTests, ProgramReference, ProgramTest
from harness.graders._program_text import official_program_in, program_in
from harness.graders.code import GRADER
from harness.sandbox import Pool, open_pool, strongest
from harness.sandbox.inside import plain

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is for Linux")

ALLOWED = Allowance(cpu_s=2.0, memory_bytes=256 << 20, retries_timeouts=False)
RULES = ("f", "find_zero", "Diff", "check_str", "are_equivalent", "sum_div", "surface_Area", "digit_distance_nums")


def judged(source, reference, **options):
    grader = GRADER(GRADER.Config(retries_timeouts=False, **options))
    completion = Completion("p", 0, 0, f"```python\n{source}\n```", "stop", Tokens(1, 1))
    return grader.grade(Problem("p", "t", (), reference), completion)


def function_of(*tests):
    return ProgramReference(HeldTests(tuple(ProgramTest(*test, "sample") for test in tests)), "samples", "f")


def calls(n, accepts, answer_bytes=4096):
    return [FunctionTest((place,), 2.0, answer_bytes, lambda body, p=place: accepts(p, body)) for place in range(n)]


# --- answers as they come -----------------------------------------------------------------------------------------


def is_the_place(place, body):
    return json.loads(body) == place


def test_nothing_is_waited_for_after_a_wrong_answer():
    source = "def f(n):\n    while n > 1: pass\n    return n if n < 1 else -1"
    report = judge_function(open_pool(n_workers=1), Program(source), "f", calls(9, is_the_place), ALLOWED)
    assert [finding.code for finding in report.findings] == ["AC", "WA"]
    assert report.cpu_s < 1.0


def test_an_answer_that_is_too_large_is_that_call_s_alone():
    source = "def f(n):\n    return 'x' * 9999 if n == 1 else n"
    report = judge_function(
        open_pool(n_workers=1),
        Program(source),
        "f",
        calls(4, is_the_place),
        Allowance(2.0, 256 << 20, runs_all_tests=True, retries_timeouts=False),
    )
    assert [finding.code for finding in report.findings] == ["AC", "WA", "AC", "AC"]


def test_memory_over_the_limit_is_every_call_s_and_found_once():
    source = "x = bytearray(300 << 20)\ndel x\ndef f(n): return n"
    allowed = Allowance(2.0, 256 << 20, runs_all_tests=True, retries_timeouts=False)
    pool = Counting()
    report = judge_function(pool, Program(source), "f", calls(3, is_the_place), allowed)
    assert [finding.code for finding in report.findings] == ["MLE"] * 3
    assert pool.n_runs == 1


class Counting:
    n_runs, is_crowded = 0, False

    def call(self, *arguments):
        self.n_runs += 1
        return open_pool(n_workers=1).call(*arguments)


def test_answers_are_heard_anew_by_another_worker():
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
def test_no_answer_makes_a_rule_fail(expected, got, rule, dataset, tolerance):
    wanted, body = _plain_values.encode(expected), _plain_values.encode(got)

    def is_right_there(value):
        arguments = _plain_values.decode(_plain_values.encode([3, 4] if rule != "find_zero" else [[3, 4]]))
        return is_right(dataset, rule, arguments, _plain_values.decode(wanted), value, tolerance) or close_or_equal(
            _plain_values.decode(wanted), with_lists(value), tolerance
        )

    assert accepted(body, wanted, is_right_there) in (True, False)


@pytest.mark.parametrize(
    "got", ["10**400", "-10**400", "complex(1.7e308, 1.7e308)", "1e308 + 1", "float('nan')", "None"]
)
@pytest.mark.parametrize("expected", ["1.5", "[1.5]", "(1.5, 2.5)", "[[1.5]]", "complex(-1.7e308, 0)"])
def test_a_number_too_large_for_floats_is_wrong_and_ends_nothing(expected, got):
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
def test_decimals_and_fractions_equal_what_python_says(number, other):
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
def test_other_kinds_of_numbers_are_judged_by_what_they_are(expected, other, right):
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
def test_numbers_that_would_take_long_are_refused(body):
    with pytest.raises(plain.NotPlainError):
        _plain_values.decode(body)


def test_an_answer_deeper_than_any_right_one_is_wrong():
    forged = (
        "import os, struct\nbody = b'[' * 900 + b']' * 900\nos.write(3, struct.pack('<6sI', b'value_', 1800) + body)"
    )
    assert judged(f"{forged}\ndef f(n): return 1", function_of(("1", "1"))).outcome == "incorrect"


def test_a_large_answer_with_far_more_in_it_is_not_looked_at():
    expected = json.dumps(list(range(300_000))).encode()

    def never(_value):
        raise AssertionError("it was looked at")

    room = answer_room(expected)
    for piece in (b"[],", b'{"set":[]},', b'"ab",'):
        body = b"[" + piece * (room // len(piece) - 2) + b"1]"
        assert not accepted(body, expected, never)
    assert not accepted(b'"' + b"x" * (2 << 20) + b"\\ud83d\\ude00" + b'"', expected, never)
    assert not accepted(b'"' + b"x" * (2 << 20) + "\U0001f600".encode() + b'"', expected, never)
    assert accepted(
        plain.encode(tuple(map(float, range(300_000)))).encode(), expected, lambda value: len(value.items) > 9
    )


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
def test_rules_read_a_piece_at_a_time_and_say_what_they_would_of_the_whole(texts, piece):
    output, expected = texts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.graders._output_rules._PIECE_CHARACTERS", piece)
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
def test_no_output_takes_long_to_compare(rule, bomb):
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
def test_ten_megabytes_are_read_in_time_linear_in_them(find, unit):
    seconds = []
    for size in (2_500_000, 10_000_000):
        reply = REPLIES[unit] * (size // len(REPLIES[unit]))
        began = time.process_time()
        find(reply)
        seconds.append(time.process_time() - began)
    assert seconds[1] < 5.0
    assert seconds[1] < 8 * seconds[0] + 0.2  # four times the text; sixteen would be its square


# --- memory -------------------------------------------------------------------------------------------------------

GROWTH = """
import sys
sys.path.insert(0, {folder!r})
from test_judge_bounds import *
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) >> 10
def reset():
    open("/proc/self/clear_refs", "w").write("5")
    return peak()
"""
FORGE = """
import os, struct
def f(n):
    body = @BODY@
    rest = memoryview(struct.pack("<6sI", b"value_", len(body)) + body)
    while rest: rest = rest[os.write(3, rest):]
"""
FORGED = {
    "lists": "b'[' + b'[],' * 2_000_000 + b'1]'",
    "texts": "b'[' + b'\"ab\",' * 1_500_000 + b'1]'",
    "one text": "b'\"\\\\ud83d\\\\ude00' + b'a' * 7_000_000 + b'\"'",
    "numbers": "b'[' + b'12345678901234567890,' * 380_000 + b'1]'",
    "more than there is room for": "b'[' + b'1,' * 60_000_000 + b'1]'",
}


def growth_of(code):
    """Of the peak of a judge in MiB, in a process of its own."""
    script = GROWTH.format(folder=str(Path(__file__).parent)) + code
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize("forged", FORGED)
def test_no_answer_grows_the_judge(forged):
    """Where twelve calls are expected to give 3.3 MB each."""
    code = f"""
expected = json.dumps(list(range(1_000_000, 1_400_000)))
source = {FORGE.replace("@BODY@", FORGED[forged])!r}
reference = function_of(*[(str(n), expected) for n in range(12)])
judged('def f(n): return n', reference)
before = reset()
assert judged(source, reference, reward='fraction').outcome == 'incorrect'
print(peak() - before)
"""
    assert growth_of(code) <= 100


@pytest.mark.parametrize("rule", ["lines", "tokens", "words", "floats"])
@pytest.mark.parametrize("unit", ["10\\n", "10 ", "1", "\\U0001f600"])
def test_no_output_grows_the_judge(rule, unit):
    """Where 7 MB are expected."""
    code = f"""
expected = "12345678\\n" * 780_000
reference = ProgramReference(HeldTests((ProgramTest("", expected, "sample"),)), "samples")
source = "import sys\\nsys.stdout.write({unit!r} * ({2 * 9 * 780_000} // len({unit!r}.encode())))"
judged("print(1)", reference)
before = reset()
assert judged(source, reference, comparison={rule!r}, tolerance=1e-6).outcome == "incorrect"
print(peak() - before)
"""
    assert growth_of(code) <= 100
