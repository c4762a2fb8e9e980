"""Every recipe parses, multiplies to whole batches, and says where its lines come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core import config as configs
from harness.core.discovery import entries
from harness.core.task_facts import judged_by
from harness.core.types import Completion, Problem, Tokens
from harness.graders._math_reference import typed_reference
from harness.trainers.settings import TrainConfig

RECIPES = sorted((Path(__file__).parents[2] / "trainers" / "recipes").glob("*.toml"))
PUBLISHED = [path for path in RECIPES if not path.stem.startswith("countdown-")]
FLOWRL = [path for path in RECIPES if configs.read_toml(path)["objective"]["id"] == "flowrl"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_parses(path: Path) -> None:
    tree = configs.read_toml(path)
    if tree["task"]["id"] not in entries("tasks"):  # everything else can be looked at without it
        tree["task"] = {"id": "countdown"}
    config = configs.parse(TrainConfig, tree)
    config.objective.build("objectives")
    assert config.loop.prompts_per_step % config.loop.minibatches_per_step == 0


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_every_line_of_a_published_run_cites_its_source(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if "=" in line and not line.startswith("#")]
    silent = [line for line in lines if " # " not in line and not line.startswith("id = ")]
    assert silent == []


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_an_overlong_penalty_is_half_of_what_a_right_answer_is_worth(path: Path) -> None:
    """DAPO's, whose rewards are -1 and 1 and whose penalty is 1, whatever the rewards of the task are."""
    config = configs.parse(TrainConfig, configs.read_toml(path))
    if config.overlong.buffer_tokens > 0:
        problem = Problem("p", config.task.id, (), typed_reference("7"))
        grader = judged_by(config.task.build("tasks"), config.grader).grader
        right, wrong = (grader.grade(problem, answer(text)).reward for text in ("Answer: 7", "Answer: 8"))
        assert config.overlong.penalty == (right - wrong) / 2


def answer(text: str) -> Completion:
    return Completion("p", 0, 0, text, "stop", Tokens(1, 1))


@pytest.mark.parametrize("path", FLOWRL, ids=lambda path: path.stem)
def test_a_variant_of_flowrl_is_its_own_with_every_recipe(path: Path) -> None:
    tree = configs.merge(configs.read_toml(path), {"objective": {"variant": "release"}})
    options = configs.parse(TrainConfig, tree).objective.options
    own = ("importance_weight", "loss_scale", "log_z_pooling", "log_z_detach", "log_z_dropout")
    assert [getattr(options, name) for name in own] == ["unclipped", "release", "prompt_but_last", False, 0.1]


def test_the_papers_runs_and_their_baselines_are_there() -> None:
    names = {path.stem for path in PUBLISHED}
    assert {"flowrl-math-7b", "flowrl-math-32b", "flowrl-code-7b"} <= names
    assert {"grpo-math-7b", "ppo-math-7b", "reinforce_pp-math-7b"} <= names
