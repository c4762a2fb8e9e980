"""Every objective and every setting of the loop in a run: recipes parse, resume is exact, bad settings are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training import assert_same_run, figures, recipe, run

from harness.core.config import parse_plugin
from harness.core.errors import ConfigError, RunError
from harness.core.registry import entries

RECIPES = sorted(path.stem for path in (Path(__file__).parents[2] / "trainers" / "recipes").glob("countdown-*.toml"))
ELSEWHERE = {"countdown-grpo", "countdown-flowrl", "countdown-base"}
"""Resumed in test_training.py."""

SETTINGS: dict[str, dict[str, Any]] = {
    "dynamic_sampling": {"dynamic_sampling": {"max_extra_rounds": 2}, "loop": {"samples_per_prompt": 2}},
    "overlong": {"overlong": {"buffer_tokens": 4, "mask_truncated": True}, "sampling": {"max_tokens": 12}},
    "kl_in_the_reward": {"kl": {"place": "reward", "coefficient": 0.1}},
    "kl_in_the_loss": {"kl": {"place": "loss", "coefficient": 0.1, "estimator": "k3_plus"}},
    "entropy_bonus": {"loop": {"entropy_bonus": 0.01}},
    "reset": {
        "kl": {"place": "loss", "coefficient": 0.1, "estimator": "k2"},
        "reference": {"reset_every_steps": 1, "reset_optimizer": True},
        "optimizer": {"warmup_steps": 0},
    },
    "stall": {
        "kl": {"place": "loss", "coefficient": 0.1, "estimator": "k2"},
        "reference": {"reset_on_stall_steps": 2, "stall_margin": 1.0},
        "optimizer": {"warmup_steps": 0},
    },
    "adaptive_kl": {"kl": {"place": "reward", "coefficient": 1.0, "target": 1e-3, "horizon": 16}},
    "engine_correction": {"engine_correction": {"level": "sequence"}, "loop": {"logp_old": "recompute"}},
    "schedule": {"optimizer": {"schedule": "linear", "decay_steps": 6}},
    "skip": {"optimizer": {"on_non_finite": "skip"}},
    "gradient_checkpointing": {"loop": {"gradient_checkpointing": True}},
    "epochs": {"loop": {"epochs": 2}},
}


WITHOUT_RECIPE = sorted(set(entries("objectives")) - {recipe(name).objective.id for name in RECIPES})


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in ELSEWHERE])
def test_run_resumed_after_two_steps_equals_four_steps_with_every_recipe(name: str, tmp_path: Path) -> None:
    assert_resumes(tmp_path, name, {"optimizer": {"lr": 2e-3}})


@pytest.mark.parametrize("objective_id", WITHOUT_RECIPE)
def test_run_resumed_after_two_steps_equals_four_steps_with_other_objectives(objective_id: str, tmp_path: Path) -> None:
    needs = parse_plugin("objectives", objective_id).build("objectives").needs
    loop = {"minibatches_per_step": 1} if "on_policy" in needs else {}
    changes = {"objective": {"id": objective_id}, "optimizer": {"lr": 2e-3}, "loop": loop}
    assert_resumes(tmp_path, "countdown-grpo", changes)


@pytest.mark.parametrize("setting", SETTINGS)
def test_run_resumed_after_two_steps_equals_four_steps_with_every_setting(setting: str, tmp_path: Path) -> None:
    assert_resumes(tmp_path, "countdown-grpo", SETTINGS[setting])


def assert_resumes(folder: Path, name: str, changes: dict[str, Any]) -> None:
    shorter = {**changes, "loop": {**changes.get("loop", {}), "steps": 2}}
    parts = {"unbroken": [changes], "broken": [shorter, changes]}
    for number, (part, settings) in enumerate((part, some) for part, several in parts.items() for some in several):
        torch.manual_seed(number)  # another process finds its own random stream anywhere
        run(recipe(name, **settings), folder / part)
    assert_same_run(folder / "unbroken", folder / "broken")
    assert len(figures(folder / "broken")) == 4


QUIET = {"skip", "gradient_checkpointing", "engine_correction", "overlong", "schedule"}
"""They guard, save memory, or make up for an engine that is not exact; answers of this task all have one length, and
the first steps are a warm-up. test_loop_settings.py has what they do."""


@pytest.mark.parametrize("setting", sorted(set(SETTINGS) - QUIET))
def test_every_setting_changes_the_run(setting: str, tmp_path: Path) -> None:
    changes = {**SETTINGS[setting], "optimizer": {"lr": 2e-3, **SETTINGS[setting].get("optimizer", {})}}
    run(recipe("countdown-grpo", optimizer={"lr": 2e-3}), tmp_path / "plain")
    run(recipe("countdown-grpo", **changes), tmp_path / "set")
    losses = [[row["loss"] for row in figures(tmp_path / name)] for name in ("plain", "set")]
    assert losses[0] != losses[1]


def test_the_reference_is_the_policy_after_a_reset(tmp_path: Path) -> None:
    setting = {"kl": {"place": "loss", "coefficient": 0.1, "estimator": "k2"}, "optimizer": {"lr": 2e-3}}
    loop = {"steps": 4, "minibatches_per_step": 1}
    kept = figures(run(recipe("countdown-grpo", loop=loop, **setting), tmp_path / "kept").folder)
    reset = {"reset_every_steps": 2}
    changed = figures(run(recipe("countdown-grpo", loop=loop, reference=reset, **setting), tmp_path / "reset").folder)
    assert [row["kl_loss"] for row in changed[:2]] == [row["kl_loss"] for row in kept[:2]]
    assert kept[2]["kl_loss"] > 0
    # float32, and the reference reads in larger micro-batches
    assert changed[2]["kl_loss"] == pytest.approx(0, abs=1e-9)
    assert changed[3]["kl_loss"] > 1e-9


def test_an_update_that_is_not_finite_is_skipped_or_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.trainers import learner

    clip, calls = learner.clip_gradients, []

    def once_infinite(*arguments: Any) -> dict[str, float]:
        calls.append(clip(*arguments))
        return {"grad_norm": float("nan")} if len(calls) == 2 else calls[-1]

    monkeypatch.setattr(learner, "clip_gradients", once_infinite)
    rows = figures(run(recipe("countdown-grpo", optimizer={"on_non_finite": "skip"}), tmp_path / "skip").folder)
    assert [row["updates_skipped"] for row in rows] == [0.5, 0, 0, 0]
    calls.clear()
    with pytest.raises(RunError, match=r"--set optimizer\.on_non_finite=skip"):
        run(recipe("countdown-grpo"), tmp_path / "stop")
    monkeypatch.setattr(learner, "clip_gradients", lambda *_: {"grad_norm": float("inf")})
    with pytest.raises(RunError, match="no gradient was finite"):
        run(recipe("countdown-grpo", optimizer={"on_non_finite": "skip"}), tmp_path / "never")


def test_engine_weights_are_one_where_the_engine_is_exact(tmp_path: Path) -> None:
    changes = SETTINGS["engine_correction"]
    rows = figures(run(recipe("countdown-grpo", **changes), tmp_path / "run").folder)
    assert all(row["engine_weight"] == pytest.approx(1, abs=1e-4) for row in rows)


@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        ("countdown-grpo", {"loop": {"samples_per_prompt": 1}}, "samples_per_prompt to 2"),
        ("countdown-trpo", {"loop": {"minibatches_per_step": 1}}, "only one"),
        ("countdown-rloo", {"objective": {"surrogate": "score"}}, "the first would be biased"),
        ("countdown-reinforce", {"objective": {"surrogate": "score"}}, "the first would be biased"),
        ("countdown-remax", {"objective": {"surrogate": "score"}}, "the first would be biased"),
        ("countdown-grpo", {"reference": {"reset_every_steps": 3}}, "nothing reads a reference"),
        ("countdown-grpo", {"reference": {"reset_on_stall_steps": 3}}, "nothing reads a reference"),
        (
            "countdown-reinforce",
            {"loop": {"samples_per_prompt": 1}, "dynamic_sampling": {"max_extra_rounds": 1}},
            "one completion is always",
        ),
        ("countdown-grpo", {"overlong": {"buffer_tokens": 15}}, "more than the 14 tokens"),
        ("countdown-base", {"kl": {"place": "reward"}}, "kl.place = 'reward' would do nothing"),
        ("countdown-base", {"overlong": {"buffer_tokens": 4}}, "overlong.buffer_tokens would do"),
        (
            "countdown-base",
            {"loop": {"samples_per_prompt": 2}, "dynamic_sampling": {"max_extra_rounds": 1}},
            "dynamic_sampling would do nothing",
        ),
        (
            "countdown-base",
            {"loop": {"logp_old": "recompute"}, "engine_correction": {"level": "token"}},
            "engine_correction would do nothing",
        ),
        ("countdown-base", {"loop": {"logp_old": "engine"}}, "logp_old = 'engine' would do"),
    ],
)
def test_settings_that_an_objective_cannot_use_are_refused(
    name: str, changes: Any, complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        run(recipe(name, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_checkpoints_hold_the_reference_only_once_it_has_changed(tmp_path: Path) -> None:
    changes = {**SETTINGS["reset"], "reference": {"reset_every_steps": 3}, "checkpoint": {"keep": 9}}
    folder = run(recipe("countdown-grpo", **changes), tmp_path / "run").folder / "checkpoints"
    assert [(folder / f"step-00000{i}" / "reference.pt").exists() for i in (1, 2, 3, 4)] == [False, False, True, True]
    stored = torch.load(folder / "step-000004" / "reference.pt", weights_only=True)
    assert all(isinstance(tensor, torch.Tensor) for tensor in stored.values())


def test_an_update_without_a_gradient_is_made_and_counted(tmp_path: Path) -> None:
    """One token is never a right answer, so all rewards are equal: GRPO has nothing to learn from."""
    view = run(recipe("countdown-grpo", loop={"steps": 2}, sampling={"max_tokens": 1}), tmp_path / "run")
    assert [row["updates_without_gradient"] for row in view.steps()] == [1, 1]
    state = torch.load(view.folder / "checkpoints" / "step-000002" / "training_state.pt", weights_only=True)
    assert {int(some["step"]) for some in state["optimizer"]["state"].values()} == {4}
    plain = run(recipe("countdown-grpo", loop={"steps": 1}), tmp_path / "plain")
    assert plain.steps()[0]["updates_without_gradient"] == 0


def test_the_kl_coefficient_of_a_step_follows_the_kl_of_the_step_before(tmp_path: Path) -> None:
    rows = run(recipe("countdown-grpo", **SETTINGS["adaptive_kl"], optimizer={"lr": 2e-3}), tmp_path / "run").steps()
    coefficient = 1.0
    for row in rows:
        assert row["kl_coefficient"] == pytest.approx(coefficient)
        coefficient *= 1 + min(0.2, max(-0.2, row["kl_to_reference"] / 1e-3 - 1)) * 16 / 16
    assert len({row["kl_coefficient"] for row in rows}) == 4
