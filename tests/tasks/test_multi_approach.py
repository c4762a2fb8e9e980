"""The task of problems with several approaches, on rows of our own in the published form."""

from __future__ import annotations

import json

import pytest
from command_output import output

from harness.core.config import parse_plugin
from harness.core.errors import DataError

ROWS = [
    {
        "index": 0,
        "problem": "What is $1+2+\\dots+10$?",
        "answer": "55",
        "response": {
            "problem_brief": "a sum",
            "approaches": [
                {"name": name, "core_idea": "...", "plan": ["..."], "uniqueness_signature": "..."}
                for name in ("pair the ends", "a formula", "by hand")
            ],
            "num_approaches": 3,
        },
        "judge_result": "...",
        "num_unique_approaches": 3,
        "explanation": "...",
        "clusters": None,
    },
    {
        "index": 1,
        "problem": "Find all $(m, n)$ with $m^2 = n$ and $n < 5$.",
        "answer": "(1,1), (2,4)",
        "response": {"approaches": [{"name": str(i), "core_idea": "", "plan": []} for i in range(4)]},
        "num_unique_approaches": 4,
    },
]


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path))

    def write(rows):
        path = tmp_path / "multi_approach/eval.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    write(ROWS)
    return write


def problems():
    return list(parse_plugin("tasks", "multi_approach").build().problems("test", seed=0))


def test_problems_have_typed_references_and_their_approaches_as_tags(mirror):
    found = {problem.tags["n_approaches"]: problem for problem in problems()}
    assert found.keys() == {"3", "4"}
    assert found["3"].reference.value == 55
    assert found["3"].tags["approaches"] == "pair the ends; a formula; by hand"
    assert "What is" in found["3"].messages[-1].content


def test_the_empty_fingerprint_is_reported(mirror, capsys):
    task = parse_plugin("tasks", "multi_approach").build()
    loaded = task.loaded("test")
    assert (loaded.n_rows, loaded.expected, task.card.fingerprint) == (2, "", "")
    shown = output(capsys, "show", "multi_approach").out
    assert "no fingerprint is recorded" in " ".join(shown.split()) and "several approaches" in shown


def test_the_references_are_accepted_by_the_grader(mirror, capsys):
    assert "as known" in output(capsys, "validate", "multi_approach", "--quiet").out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_unique_approaches": 1}, "1 approaches, and every problem has 3"),
        ({"response": {}}, "unexpected form"),
        ({"num_unique_approaches": "many"}, "unexpected form"),
    ],
)
def test_rows_of_another_form_are_refused(mirror, change, message):
    mirror([{**ROWS[0], **change}])
    with pytest.raises(DataError, match=message):
        problems()
