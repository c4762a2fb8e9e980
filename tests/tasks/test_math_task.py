"""`math_task`: a benchmark with a question column and an answer column in a few lines."""

from __future__ import annotations

import importlib
import json

import pytest

from harness.core.errors import DataError
from harness.tasks._base.dataset import content_id
from harness.tasks._base.maths import math_task
from harness.tasks._base.prompts import MATHS

ROWS = [{"problem": "What is 1+1?", "answer": 2, "n": 7}, {"problem": "What is 2+2?", "answer": "\\frac{8}{2}", "n": 8}]


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path))
    path = tmp_path / "lab/bench/test.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def problems_of(**options):
    task = math_task("lab/bench", title="Bench", file="test.jsonl", **options)
    return {problem.id: problem for problem in task(task.Config()).problems("test", seed=0)}


def test_a_plain_benchmark_has_typed_references_and_the_ids_of_its_column(mirror):
    problems = problems_of(id="n")
    assert problems.keys() == {"7", "8"}
    assert problems["7"].reference.value == 2
    assert "What is 2+2?" in problems["8"].messages[-1].content


def test_ids_are_hashes_of_the_text_without_an_id_column(mirror):
    assert problems_of().keys() == {content_id(row["problem"]) for row in ROWS}


def test_a_file_without_the_column_is_refused(mirror):
    with pytest.raises(DataError, match="question"):
        problems_of(question="question")


@pytest.mark.parametrize("name", ["aime24", "aime25", "amc23", "gsm8k", "math", "math500", "minerva", "olympiadbench"])
def test_maths_benchmarks_spell_out_the_same_default_prompt(name):
    assert importlib.import_module(f"harness.tasks.{name}").TASK.PROMPTS == MATHS
