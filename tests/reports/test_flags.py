"""Flags on samples: each sign with a text that has it, and near misses that do not."""

import time

import pytest
from synthetic_runs import write_eval

from harness.reports.flags import FLAGS, Sample, flags_of, right_answers
from harness.reports.report import build_tables, read_runs

SENTENCE = "We look at the triangle and see that both angles are equal. "
PROSE = "".join(f"Step {n}: {word} gives the next term of the sum. " for n, word in enumerate("abcdefghijklmnop"))
STATEMENT = "Find the number of ordered pairs of positive integers with sum is twelve and product not a square."


def wrong(text, **known):
    return Sample(text, outcome="incorrect", **known)


@pytest.mark.parametrize(
    ("flag", "sample"),
    [
        ("right answer not extracted", wrong(r"so it is \boxed{42}, or 42.", right_answers=frozenset({"42"}))),
        ("right answer not extracted", wrong("Answer: 7.", extracted="8", right_answers=frozenset({"7"}))),
        ("right answer not extracted", wrong("we get 12345 in the end", right_answers=frozenset({"12345"}))),
        ("right answer not extracted", wrong("x" * 900 + " thus 7", right_answers=frozenset({"7"}))),
        ("graders disagree", wrong(PROSE, others={"exact": "correct"})),
        ("graders disagree", Sample(PROSE, outcome="correct", others={"exact": "incorrect", "a": "correct"})),
        ("token limit", Sample(PROSE, finish_reason="length")),
        ("empty reasoning", wrong("")),
        ("empty reasoning", wrong("  \n ")),
        ("empty reasoning", wrong("<think>\n\n</think> It is 4 because of the sum.", extracted="4")),
        ("empty reasoning", wrong(r"\boxed{42}", extracted="42")),
        ("empty reasoning", wrong("The answer is: 42", extracted="42")),
        ("repeated text", wrong(PROSE + SENTENCE * 5)),
        ("repeated text", wrong(PROSE + "ha" * 200)),
        ("repeated text", wrong(PROSE + (SENTENCE * 6)[:-17])),  # cut off in the loop
        ("repeated text", wrong("\n".join(f"{SENTENCE}\nbut {n}" for n in range(8)) + PROSE)),
        ("answer spray", wrong(" ".join(rf"\boxed{{{n}}}" for n in range(4)))),
        ("answer spray", wrong("\n".join(f"Final answer: {n}" for n in range(4)))),
        ("prompt echoed", wrong(f"Let me see. {STATEMENT}\n So", statement=STATEMENT)),
        ("prompt echoed", wrong(STATEMENT.replace(" ", "\n")[10:], statement=STATEMENT)),
        ("prompt echoed", wrong("It is 4.\nHuman: another one")),
        ("prompt echoed", wrong("It is 4.<|im_start|>user")),
    ],
)
def test_a_sign_is_flagged(flag, sample):
    assert FLAGS[flag](sample)
    assert flag in flags_of(sample)


@pytest.mark.parametrize(
    ("flag", "sample"),
    [
        ("right answer not extracted", Sample("it is 42", outcome="correct", right_answers=frozenset({"42"}))),
        ("right answer not extracted", wrong(r"\boxed{42}", extracted="42", right_answers=frozenset({"42"}))),
        ("right answer not extracted", wrong("we take 7 of them. " + PROSE, right_answers=frozenset({"7"}))),
        ("right answer not extracted", wrong("in the end 123456", right_answers=frozenset({"12345"}))),
        ("right answer not extracted", wrong("in the end 3.75", right_answers=frozenset({"3"}))),
        ("right answer not extracted", wrong(PROSE)),
        ("graders disagree", wrong(PROSE, others={"exact": "incorrect", "judge": "ungraded"})),
        ("graders disagree", Sample(PROSE, outcome="ungraded", others={"exact": "correct"})),
        ("token limit", wrong(PROSE)),
        ("empty reasoning", wrong(PROSE + r"\boxed{42}", extracted="42")),
        ("empty reasoning", wrong("9/3=3;7+3=10", extracted="9/3=3;7+3=10")),
        ("empty reasoning", wrong("<think>It is even.</think> 4", extracted="4")),
        ("repeated text", wrong(PROSE)),
        ("repeated text", wrong(PROSE + SENTENCE * 3)),
        ("repeated text", wrong("ha" * 40)),
        ("answer spray", wrong(r"\boxed{4} and again \boxed{4}, \boxed{ 4 } \boxed{4} or \boxed{5}, \boxed{6}")),
        ("prompt echoed", wrong(PROSE, statement=STATEMENT)),
        ("prompt echoed", wrong(f"The {STATEMENT[5:40]} is four.", statement=STATEMENT)),
        ("prompt echoed", wrong("The user: nobody")),
    ],
)
def test_a_near_miss_is_not_flagged(flag, sample):
    assert not FLAGS[flag](sample)


NESTED, MARKS = "\\boxed{{}" * 50_000, "* " * 10**5
LONG = ("a" * 10**6, "\n" * 10**5, "\\boxed{" * 50_000, NESTED, "the " * 10**5, "answer" * 10**5, MARKS)


@pytest.mark.parametrize("text", ["\ud83d", "\x00\x1b[0m", *LONG], ids=lambda text: ascii(text[:8]))
def test_any_text_is_looked_at_in_bounded_time(text):
    began_s = time.process_time()
    flags_of(wrong(text, right_answers=frozenset({"4", "a" * 50}), statement=STATEMENT, extracted="a"))
    assert time.process_time() - began_s < 5


@pytest.fixture
def run(tmp_path):
    def text(task, problem, index, outcome):
        return {0: "so it is 42, is it", 1: PROSE + SENTENCE * 9, 2: ""}.get(index, PROSE)

    def outcome(task, problem, index):
        return "correct" if index == 3 else "incorrect"

    return read_runs([write_eval(tmp_path / "a", "a", outcome, tasks={"aime24": 5}, n=4, text=text)])[0]


def test_the_table_counts_flags_and_names_the_first_samples(run):
    assert right_answers([run]) == {("aime24", f"p{problem:04d}"): frozenset({"42"}) for problem in range(5)}
    (table,) = build_tables("flags", [run])
    rows = {row[2]: row for row in table.rows}
    assert list(rows) == ["right answer not extracted", "token limit", "empty reasoning", "repeated text"]
    label, task, _, n_samples, share, n_problems, first = rows["empty reasoning"]
    assert (label, task, n_samples, n_problems, first) == ("a", "aime24", 5, 5, "p0000[2], p0001[2], p0002[2]")
    assert (share.value, share.n_completions) == (0.25, 20)
    assert share.low < 0.25 < share.high
    assert rows["right answer not extracted"][3] == 5


def test_an_answer_that_was_right_in_another_run_counts(tmp_path, run):
    other = write_eval(
        tmp_path / "b", "b", lambda *_: "incorrect", tasks={"aime24": 5}, n=1, text=lambda *_: "it is 42"
    )
    (alone,) = build_tables("flags", read_runs([other]))
    assert "right answer not extracted" not in [row[2] for row in alone.rows]
    (table,) = build_tables("flags", [run, *read_runs([other])])
    assert ("b", "aime24", "right answer not extracted", 5) in [row[:4] for row in table.rows]
