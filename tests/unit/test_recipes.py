"""Every recipe parses, multiplies to whole batches, and says where its lines come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core import config as configs
from harness.core.discovery import entries
from harness.trainers.settings import TrainConfig

RECIPES = sorted((Path(__file__).parents[2] / "trainers" / "recipes").glob("*.toml"))
PUBLISHED = [path for path in RECIPES if not path.stem.startswith("countdown-")]


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


def test_the_papers_runs_and_their_baselines_are_there() -> None:
    names = {path.stem for path in PUBLISHED}
    assert {"flowrl-math-7b", "flowrl-math-32b", "flowrl-code-7b"} <= names
    assert {"grpo-math-7b", "ppo-math-7b", "reinforce_pp-math-7b"} <= names
