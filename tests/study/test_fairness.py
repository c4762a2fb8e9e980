"""Arms differ in no more than they declare, or are refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.core.errors import ConfigError
from harness.study.fairness import Difference, check_fairness, differences, fairness_table
from harness.study.resources import first_trainings
from harness.study.study import open_study

TOP = """
name = "s"
base = "countdown-tiny"
steps = 4
controls = { grpo_kl = 0, evaluation = false }
[arms.grpo]
recipe = "countdown-grpo"
"""


def found(tmp_path: Path, text: str) -> list[Difference]:
    (tmp_path / "s.toml").write_text(TOP + text)
    study = open_study(tmp_path / "s.toml", tmp_path / "out")
    return differences(study.arms, first_trainings(study))


def test_what_arms_set_or_sweep_is_declared_and_a_recipe_s_own_settings_are_printed(tmp_path: Path) -> None:
    text = """
[arms.flowrl]
recipe = "countdown-flowrl"
set = { "optimizer.lr" = 1e-3 }

[arms.trpo]
recipe = "countdown-trpo"

[arms.reinforce_pp]
recipe = "countdown-reinforce_pp"
"""
    seen = found(tmp_path, text)
    assert {(d.arm, d.key, d.value, d.usual, d.is_declared) for d in seen} == {
        ("flowrl", "optimizer.lr", 1e-3, 2e-4, True),
        ("reinforce_pp", "kl.place", "reward", "off", False),
    }
    check_fairness(seen)
    rows = fairness_table(seen).rows
    assert rows[0] == ("reinforce_pp", "kl.place", "reward", "off", "NOT DECLARED")


@pytest.mark.parametrize(
    ("arm", "declared", "message"),
    [
        (
            "recipe = 'countdown-dapo'",
            "differs = ['dynamic_sampling', 'overlong']",
            "dynamic_sampling.max_extra_rounds = 3",
        ),
        ("recipe = 'countdown-mara'", "differs = ['mara']", "mara.beta = 0.05, and the others 0"),
        ("recipe = 'other.toml'", "set = { 'loop.samples_per_prompt' = 8 }", "loop.samples_per_prompt = 8"),
        ("recipe = 'other.toml'", "differs = ['loop.samples_per_prompt']", "the same samples"),
    ],
)
def test_an_undeclared_difference_of_what_is_shared_is_refused(arm, declared, message, tmp_path) -> None:
    (tmp_path / "other.toml").write_text('extends = "countdown-grpo"\nloop.samples_per_prompt = 8\n')
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_fairness(found(tmp_path, f"[arms.other]\n{arm}\n"))
    check_fairness(found(tmp_path, f"[arms.other]\n{arm}\n{declared}\n"))


def test_a_difference_from_most_arms_is_that_of_the_one_arm(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text('extends = "countdown-grpo"\ntask.min_solutions = 3\n')
    text = "[arms.a]\nrecipe = 'other.toml'\n[arms.b]\nrecipe = 'other.toml'\n"
    assert [(d.arm, d.key, d.changes) for d in found(tmp_path, text)] == [("grpo", "task.min_solutions", "prompts")]
