"""The maths grader: where the answer is found, which failures it distinguishes, which faults its workers survive."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest
from algebra_child import ANSWER, GOLD, asked_in_child
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.types import Completion, Problem, Tokens
from harness.graders.math import MathGrader, algebra
from harness.graders.math.reference import typed_reference

GRADER = MathGrader(MathGrader.Config())
NEEDS_ALGEBRA = (GOLD, ANSWER)


def grade(gold, text, finish_reason="stop", grader=GRADER):
    reference = typed_reference(gold) if isinstance(gold, str) else gold
    problem = Problem("p", "t", (), reference)
    return grader.grade(problem, Completion("p", 0, 0, text, finish_reason, Tokens(1, 1)))


def told(gold, text, **options):
    verdict = grade(gold, text, **options)
    return verdict.outcome, verdict.reason


RIGHT, WRONG = ("correct", ""), ("incorrect", "wrong")
NO_ANSWER, TRUNCATED = ("incorrect", "no answer"), ("incorrect", "truncated")
SEVERAL = ("incorrect", "several answers")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"So \boxed{33}.", RIGHT),
        (r"\boxed{34}. Wait, \boxed{33}", RIGHT),
        (r"\boxed{33}. Wait, \boxed{34}", WRONG),
        (r"\boxed{33} and \boxed{34}", SEVERAL),
        (r"\boxed{33}, \boxed{34}", SEVERAL),
        (r"\boxed{33} \boxed{33}", RIGHT),
        ("\n".join(rf"\boxed{{{n}}}" for n in range(1000)), SEVERAL),
        (r"\boxed{\boxed{33}}", RIGHT),
        (r"\boxed 33 is it", RIGHT),
        (r"\fbox{33}", RIGHT),
        ("Answer: 33", RIGHT),
        ("**Answer:** 33", RIGHT),
        ("**Final Answer: 33**", RIGHT),
        ("The final answer is $33$. I hope it is correct.", RIGHT),
        ("Therefore the answer is 33.", RIGHT),
        ("#### 33", RIGHT),
        ("Answer: 33\nAnswer: 34", WRONG),
        (r"\boxed{34}" + "\n\nAnswer: 33", RIGHT),
        ("Answer: 34\n\n" + r"\boxed{33}", RIGHT),
        (r"\boxed{33}. The answer is thus what we expected.", RIGHT),
        (r"\boxed{34}" + "\n**Final Answer:** $33$", RIGHT),
        ("The number 33 is nice.", NO_ANSWER),
        ("33", RIGHT),
        ("", NO_ANSWER),
        (r"\boxed{}", NO_ANSWER),
        (r"\boxed{...}", NO_ANSWER),
        (r"\boxed{33", NO_ANSWER),
        (r"\boxed{a=}", WRONG),
        (r"\boxed{33 \approx x}", WRONG),
        (r"\boxed{\frac3e8}", WRONG),
        (r"\boxed{\frac3.}", WRONG),
        ("Put the answer in \\boxed{ANSWER}.", WRONG),
        ("Answer: $Answer", WRONG),
        ("<think></think>", NO_ANSWER),
        ("<think>33</think>", NO_ANSWER),
        (r"<think>\boxed{33}</think> I give up.", NO_ANSWER),
        (r"<think>\boxed{34}</think> \boxed{33}", RIGHT),
        (r"\boxed{34}</think> \boxed{33}", RIGHT),
        (r"<think>perhaps \boxed{33}", TRUNCATED),
        (r"<think>a</think>\boxed{33}<think>again", TRUNCATED),
        (r"\boxed{\text{33}}", RIGHT),
        (r"\boxed{зз}", WRONG),
        ("\\boxed{\uff13\uff13}", RIGHT),
    ],
)
def test_math_answer_is_extracted_from_its_place(text, expected):
    assert told("33", text) == expected


def test_truncated_reply_is_graded_if_it_contains_the_answer():
    assert told("33", "and so we", finish_reason="length") == TRUNCATED
    assert told("33", r"so \boxed{3", finish_reason="length") == TRUNCATED
    assert told("33", r"so \boxed{33}, and to check", finish_reason="length") == RIGHT


def test_reasoning_opened_by_the_prompt_is_a_config_option():
    grader = MathGrader(MathGrader.Config(starts_in_reasoning=True))
    assert told("33", r"so \boxed{33}", grader=grader) == TRUNCATED
    assert told("33", r"hm</think>\boxed{33}", grader=grader) == RIGHT


def test_boxes_in_a_row_are_the_answers_of_a_list():
    assert told("1,-2", r"$\boxed{-2}$ and $\boxed{1}$") == RIGHT
    assert told("1,-2", r"$\boxed{1}$, then $\boxed{-2}$") == WRONG
    assert told("100,-2", r"\boxed{100}, \boxed{-2}") == RIGHT


@pytest.mark.parametrize("reference", [None, 7, "", "(" * 100])
def test_a_reference_that_can_not_be_read_grades_nothing(reference):
    verdict = GRADER.grade(Problem("p", "t", (), reference), Completion("p", 0, 0, r"\boxed{1}", "stop", Tokens(1, 1)))
    assert (verdict.outcome, verdict.reason) == ("ungraded", "reference unreadable")


def test_verdict_names_the_deciding_comparison():
    rungs = [grade(*pair).details["rung"] for pair in (("5", r"\boxed{5}"), ("5", r"\boxed{\sqrt{25}}"))]
    assert rungs == ["exact", "numeric"]
    assert grade(NEEDS_ALGEBRA[0], rf"\boxed{{{NEEDS_ALGEBRA[1]}}}").details["rung"] == "symbolic"


SPRAYS = [
    r"5 \text{ maybe } 6",
    r"5 \text{, or 6}",
    r"5 \text{ (not }6)",
    r"5 6",
    r"5 \to 6",
    r"5 \mid 6",
    r"5 : 6",
    r"5 \vee 6",
    r"5 \ne 6",
    r"5 < 6",
    r"5 \& 6",
    r"\{5,6\}",
    r"5 \\ 6",
    r"5 \cup 6",
    r"[5,6]",
    r"\underset{5}{6}",
    r"\overset{6}{5}",
    r"5 \implies 6",
    r"5 ? 6",
    r"\begin{cases}5\\6\end{cases}",
    r"\begin{pmatrix}5\\6\end{pmatrix}",
    r"x=5, x=6",
    r"5 | 6",
    r"x = 5 \lor x = 6",
    r"\phantom{5}6",
    r"6\hspace{1em}5",
    r"5;6",
    r"5 to 6",
    r"5-6",
    r"5 \approx 6",
    r"5...6",
    r"5 = 6",
    r"\text{5 or 6}",
    r"\text{5} \text{6}",
    r"5 \text{ cm } 6",
    r"5 \pm 1",
    r"5 \leq x \leq 6",
    r"5 \ \text{or} \ 6",
    r"5 \operatorname{or} 6",
    r"5\textbf{or}6",
    r"5 \text{ is wrong, it is six}",
    r"5 units 6",
    r"5 \% 6 \%",
    r"6=5",
    r"a=6=5",
]


@pytest.mark.parametrize("spray", SPRAYS)
def test_answer_with_two_values_matches_neither(spray):
    assert "correct" not in {grade(gold, f"\\boxed{{{spray}}}").outcome for gold in ("5", "6")}


# --- workers -------------------------------------------------------------------------------------------------------


def symbolic_question():
    return told(NEEDS_ALGEBRA[0], rf"\boxed{{{NEEDS_ALGEBRA[1]}}}")


def test_killed_math_worker_fails_its_own_item_and_is_replaced():
    assert symbolic_question() == RIGHT
    for pid in algebra.POOL.pids():
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    outcomes = [symbolic_question() for _ in range(5)]
    assert set(outcomes) == {RIGHT, ("ungraded", "worker died")}
    assert outcomes[-1] == RIGHT


def test_algebra_that_takes_too_long_is_a_limit_and_the_next_answer_is_graded():
    slow = r"\boxed{\int_0^{999} x^{x^x} \Gamma(x) dx}"
    grader = MathGrader(MathGrader.Config(symbolic_timeout_s=0.5))
    assert symbolic_question() == RIGHT
    assert told(r"\int_0^7 x dx", slow, grader=grader) == ("ungraded", "limit")
    assert symbolic_question() == RIGHT


def test_expression_that_needs_gigabytes_fails_its_own_item_alone():
    """Its MemoryError is caught inside math-verify, which then says that the two differ."""
    pool = algebra.AlgebraPool(n_workers=1, memory_bytes=1024**3)
    try:
        assert pool.equal("x+1", "1+x", 60.0)
        limits = Path(f"/proc/{pool.pids()[0]}/limits").read_text()
        assert re.search(rf"Max address space +{1024**3} +{1024**3} ", limits)
        with pytest.raises(algebra.WorkerDiedError):
            pool.equal("5", "1+" * 15_000_000 + "1", 60.0)
        assert pool.pids() == []
        assert pool.equal("x+1", "1+x", 60.0) and not pool.equal("x+1", "2+x", 60.0)
    finally:
        pool.close()


def test_math_worker_pool_can_be_closed_and_used_again():
    assert symbolic_question() == RIGHT
    pids = algebra.POOL.pids()
    algebra.POOL.close()
    assert algebra.POOL.pids() == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert symbolic_question() == RIGHT


def test_math_grader_works_in_threads():
    found = []
    threads = [threading.Thread(target=lambda: found.append(symbolic_question())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [RIGHT] * 6


def test_many_answers_are_graded_in_order():
    problem = Problem("p", "t", (), typed_reference("3"))
    pairs = [(problem, Completion("p", n, 0, rf"\boxed{{{n}}}", "stop", Tokens(1, 1))) for n in range(10)]
    assert [verdict.reward for verdict in GRADER.grade_many(pairs)] == [float(n == 3) for n in range(10)]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_math_grader_works_in_forked_processes_and_keeps_the_parents_workers(method):
    assert symbolic_question() == RIGHT
    pids = algebra.POOL.pids()
    context = multiprocessing.get_context(method)
    results = context.Queue()
    child = context.Process(target=asked_in_child, args=(results,))
    child.start()
    verdict, childs_pids = results.get(timeout=60)
    assert verdict == RIGHT and childs_pids and not set(childs_pids) & set(pids)
    child.join(timeout=60)
    assert algebra.POOL.pids() == pids
    assert symbolic_question() == RIGHT


# --- any text ------------------------------------------------------------------------------------------------------

WORDS = r"\frac \sqrt \pi \infty \pm \cup \le \text{ \{ \} \boxed{ \begin{pmatrix} \end{pmatrix} \\ & \sin \log_ \binom"
MORE_WORDS = r"\approx \overline{3} \dots \langle \circ} \text{base inf million ¢ ₈ ⅓ \lfloor \left( or and ° ９"
PIECES = st.sampled_from([*"0123456789()[]{}|+-*/^_=<>,;:.!%$ abinxe", *WORDS.split(), *MORE_WORDS.split()])
ANSWERS = st.lists(PIECES, max_size=25).map("".join)
REASONS = {"", "wrong", "no answer", "truncated", "several answers", "limit", "worker died"}


class _NoAlgebra(MathGrader):
    """Algebra aside, which the fuzzing would spend its time in."""

    def _algebra(self, gold, answer):
        return False


@settings(max_examples=600, deadline=None)
@given(
    answer=ANSWERS, gold=st.sampled_from(["5", "\\sqrt{2}", "1,2", "(1,2)", "[0,1)", "x^2+1", "4.5e33", "\\text{no}"])
)
def test_any_answer_has_a_verdict(answer, gold):
    verdict = grade(gold, f"\\boxed{{{answer}}}", grader=_NoAlgebra(MathGrader.Config()))
    assert verdict.reason in REASONS


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=300))
def test_any_text_has_a_verdict(text):
    assert grade("5", text, grader=_NoAlgebra(MathGrader.Config())).reason in REASONS


@settings(max_examples=300, deadline=None)
@given(
    left=st.sampled_from(
        ["1/2", "0.5", "\\frac{2}{4}", "\\sqrt{2}", "2^{1/2}", "(1,2)", "1,2", "2,1", "[0,1)", "x+1", "1+x"]
    ),
    right=ANSWERS,
)
def test_equality_is_symmetric_without_tolerance(left, right):
    """Where both can be a reference. Decimals written out are accepted for a value without a finite decimal only."""
    try:
        typed_reference(right)
    except Exception:
        return
    forth, back = (
        grade(typed_reference(a), f"\\boxed{{{b}}}", grader=_NoAlgebra(MathGrader.Config()))
        for a, b in ((left, right), (right, left))
    )
    if "ungraded" not in (forth.outcome, back.outcome) and forth.extracted == right and "boxed" not in right:
        assert forth.outcome == back.outcome


def test_math_limits_are_checked_before_computing():
    """Each of these hangs or fills the memory of a computer algebra system."""
    answers = [
        "10^{10^{10}}",
        "9^{9^9}",
        "(10^9)!",
        r"\binom{10^9}{5\cdot10^8}",
        "(" * 2000 + "1" + ")" * 2000,
        "2^{10^9}+1",
    ]
    assert {told("5", rf"\boxed{{{answer}}}") for answer in answers} == {("ungraded", "limit")}
    assert told("5", r"\boxed{" + "{" * 100_000) == ("ungraded", "limit")
    assert told("5", "$" * 20_000) == NO_ANSWER
    assert told("5", r"\boxed{" * 100_000) == NO_ANSWER


# --- real golds ----------------------------------------------------------------------------------------------------


def data(name):
    folder = os.environ.get("HARNESS_DATA_DIR")
    if folder is None:
        pytest.skip("HARNESS_DATA_DIR is not set")
    return [json.loads(line) for line in (Path(folder) / name).read_text(encoding="utf-8").splitlines()]


def real_golds():
    for row in data("minerva_math/limo_minerva_test.jsonl"):
        yield typed_reference(row["answer"])
    for row in data("math500/simplerl_math500_test.jsonl"):
        yield typed_reference(row["answer"])
    for row in data("olympiadbench/qwen25math_olympiadbench_test.jsonl"):
        yield typed_reference(
            row["final_answer"][0],
            is_multiple=row["is_multiple_answer"],
            unit=row["unit"] if row["unit"] is not None else "",
        )


def test_every_real_reference_equals_itself():
    golds = list(real_golds())
    assert len(golds) == 272 + 500 + 675
    assert [gold.text for gold in golds if told(gold, f"\\boxed{{{gold.text}}}") != RIGHT] == []


def test_every_reference_in_e_notation_equals_its_power_of_ten():
    golds = [row["answer"] for row in data("minerva_math/limo_minerva_test.jsonl") if "e" in row["answer"]]
    pairs = [(gold, gold.split("e")) for gold in golds if typed_reference(gold).kind == "scientific"]
    assert len(pairs) == 58
    for gold, (mantissa, exponent) in pairs:
        assert told(gold, rf"\boxed{{{mantissa} \times 10^{{{exponent}}}}}") == RIGHT
        assert told(gold, rf"\boxed{{{mantissa} \times 10^{{{int(exponent) + 2}}}}}") == WRONG
        assert told(gold, rf"\boxed{{{mantissa}}}") == WRONG


@pytest.mark.parametrize(
    ("options", "gold", "answer", "usually", "then"),
    [
        ({"percent": "hundredth"}, "0.625", "62.5\\%", WRONG, RIGHT),
        ({"percent": "hundredth"}, "62.5", "62.5\\%", RIGHT, WRONG),
        ({"percent": "hundredth"}, "62.5\\%", "62.5", RIGHT, WRONG),
        ({"percent": "hundredth"}, "62.5\\%", "\\frac58", WRONG, RIGHT),
        ({"percent": "either"}, "0.625", "62.5\\%", WRONG, RIGHT),
        ({"percent": "either"}, "62.5", "62.5\\%", RIGHT, RIGHT),
        ({"percent": "either"}, "62.5", "0.625\\%", WRONG, WRONG),
        ({"percent": "either"}, "62.5", "0.625", WRONG, WRONG),
        ({"decimal_digits": 3}, "\\frac13", "0.333", WRONG, RIGHT),
        ({"decimal_digits": 3}, "\\frac13", "0.33", WRONG, WRONG),
        ({"decimal_digits": 3}, "0.3331", "0.333", WRONG, WRONG),
        ({"decimal_digits": 10}, "\\frac13", "0.3333333", RIGHT, WRONG),
        ({"decimal_commas": True}, "3.14", "3,14", SEVERAL, RIGHT),
        ({"decimal_commas": True}, "3.14", "3{,}14", SEVERAL, RIGHT),
        ({"decimal_commas": True}, "1234", "1,234", RIGHT, WRONG),
        ({"decimal_commas": True}, "(1.5, 2)", "(1,5; 2)", WRONG, RIGHT),
        ({"base_may_be_missing": True}, "2516_8", "2516", WRONG, RIGHT),
        ({"base_may_be_missing": True}, "2516_8", "2516_7", WRONG, WRONG),
    ],
)
def test_a_policy_can_be_overridden(options, gold, answer, usually, then):
    text = rf"\boxed{{{answer}}}"
    assert told(gold, text) == usually
    assert told(gold, text, grader=MathGrader(MathGrader.Config(**options))) == then


def test_policies_are_checked():
    with pytest.raises(ValueError, match="from 1 to 12"):
        MathGrader.Config(decimal_digits=0)
