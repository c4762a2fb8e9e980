"""`harness validate`: its exit codes, and its list of failures."""

import pytest
from command_output import output, tables
from official_shapes import write

pytestmark = pytest.mark.usefixtures("mirror")


def test_validate_succeeds_when_every_verdict_is_as_known(capsys):
    (found,) = tables(capsys, "validate", "aime24")
    assert {row["specimen"] for row in found["rows"]} > {"the reference", "an empty reply", "one more"}
    assert all(row["graded"] == row["as known"] == 2 for row in found["rows"])


def test_validate_fails_and_lists_unexpected_verdicts(capsys, monkeypatch):
    from harness.core.types import GoldenCompletion
    from harness.tasks._base import maths

    truth = maths.golden_completions
    monkeypatch.setattr(
        maths,
        "golden_completions",
        lambda reference: [*truth(reference), GoldenCompletion("a lie", "Answer: 3", "correct")],
    )
    _, surprises = tables(capsys, "validate", "aime24", code=1)
    assert {row["problem"] for row in surprises["rows"]} == {"2024-I-1", "2024-I-2"}
    assert {(row["specimen"], row["verdict"]) for row in surprises["rows"]} == {("a lie", "incorrect")}


def test_validate_ends_with_code_3_when_something_can_not_be_graded(mirror, capsys):
    write(mirror / "simpleqa/simple_qa_test_set.csv", [{"metadata": "{}", "problem": "Who?", "answer": "Ada"}])
    _, surprises = tables(capsys, "validate", "simpleqa", code=3)
    assert {row["verdict"] for row in surprises["rows"]} == {"ungraded"}


def test_validate_of_a_limited_training_split(mirror, capsys):
    write(mirror / "gsm8k/openai_train.jsonl", [{"question": f"q{i}", "answer": f"#### {i}"} for i in range(9)])
    (found,) = tables(capsys, "validate", "gsm8k", "--split", "train", "--limit", "4")
    assert {row["graded"] for row in found["rows"] if row["specimen"] == "the reference"} == {4}
    assert "set a limit" in output(capsys, "validate", "gsm8k", "--split", "train", code=2).err
