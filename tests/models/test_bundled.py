"""The bundled models: their size, their cards, and the rates at which they solve their tasks."""

import re

import pytest

import harness
from harness.core.protocols import ModelSource
from harness.core.registry import load
from harness.models.loading import BUNDLED, bundled_models, load_tokenizer, resolve

TASKS = {"countdown-tiny": "countdown", "steps-tiny": "countdown_steps"}


def test_every_bundled_model_has_a_task_and_a_card():
    assert bundled_models() == sorted(TASKS)
    assert all("pass@1" in (BUNDLED / name / "README.md").read_text() for name in TASKS)


def test_bundled_models_take_less_than_6_megabytes_together():
    assert sum(path.stat().st_size for path in BUNDLED.rglob("*") if path.parent.name in TASKS) < 6e6


@pytest.mark.parametrize("name", TASKS)
def test_a_bundled_model_solves_its_task_at_the_rate_on_its_card(name, tmp_path):
    stated = float(re.search(r"pass@1 (0\.\d+)", (BUNDLED / name / "README.md").read_text())[1])
    run = harness.evaluate(name, TASKS[name], n=16, limit=96, temperature=1.0, seed=1, out=tmp_path / "run", quiet=True)
    solved = run.estimates().query("metric == 'avg@16'").iloc[0]
    # Four standard errors of a mean over problems; 95% intervals are two.
    assert abs(solved["value"] - stated) < (solved["high"] - solved["low"])


def test_a_right_answer_of_n_steps_has_6_n_tokens():
    tokenizer = load_tokenizer(ModelSource(resolve("steps-tiny")))
    task = load("tasks", "countdown_steps")
    task = task(task.Config())
    problem = next(task.problems("test", 0))
    for text in task.right_texts(problem):
        assert len(tokenizer(text + tokenizer.eos_token)["input_ids"]) == 6 * (text.count(";") + 1)
