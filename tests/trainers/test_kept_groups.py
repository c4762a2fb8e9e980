"""Groups that a training keeps by default: of which completions, with which numbers, and after a kill."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from training import assert_same_run, recipe, run

from harness.core import config as configs
from harness.core.tensors import Advantages
from harness.core.types import KeptGroup
from harness.runs.folder import RunReader
from harness.trainers.learner import ScoredBatch
from harness.trainers.step_metrics import StepRecorder

TWO = {"steps": 2}


def groups_of(folder: Path) -> list[KeptGroup]:
    return list(RunReader.read(folder).groups())


def test_the_first_groups_of_each_step_are_kept_with_what_was_trained_on(tmp_path: Path) -> None:
    """The same run with all rollouts saved has the same completions, and the numbers follow from them."""
    overlong = {"buffer_tokens": 5, "penalty": 0.5}
    run(recipe("countdown-grpo", loop=TWO, overlong=overlong, rollouts={"groups_per_step": 3}), tmp_path / "kept")
    run(recipe("countdown-grpo", loop=TWO, overlong=overlong, rollouts={"save": True}), tmp_path / "saved")
    assert not (tmp_path / "saved" / "groups.jsonl").exists()
    lines = [json.loads(line) for line in (tmp_path / "saved" / "rollouts.jsonl").read_text().splitlines()]
    rows = [line for line in lines if "part" in line]
    groups = groups_of(tmp_path / "kept")
    assert [group.step for group in groups] == [1, 1, 1, 2, 2, 2]
    expected = [rows[4 * place : 4 * place + 4] for place in (0, 1, 2, 4, 5, 6)]  # of 4 groups of 4 completions a step
    for group, members in zip(groups, expected, strict=True):
        rewards = torch.tensor([shaped(row) for row in members], dtype=torch.float64)
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
        assert group.prompt.replace(" ", "") == group.problem_id.replace("-", "") + ":"
        for sample, row, reward, advantage in zip(group.samples, members, rewards, advantages, strict=True):
            completion, verdict = row["completion"], row["verdict"]
            assert (group.problem_id, sample.index, sample.text) == tuple(
                completion[key] for key in ("problem_id", "index", "text")
            )
            assert (sample.outcome, sample.reward) == (verdict["outcome"], verdict["reward"])
            assert list(sample.token_ids or ()) == completion["tokens"]["completion_ids"]
            assert sample.logp == pytest.approx(completion["tokens"]["logp_behaviour"], abs=6e-5)
            assert sample.is_trained and sample.shaped_reward == pytest.approx(float(reward), abs=1e-5)
            assert sample.advantage == pytest.approx(float(advantage), abs=1e-4)
    assert any(sample.reward != sample.shaped_reward for group in groups for sample in group.samples)


def shaped(row: dict[str, Any]) -> float:
    """DAPO, eq. 13, with the limit of 14 tokens that the task has."""
    into_buffer = row["completion"]["tokens"]["n_completion"] - (14 - 5)
    return float(row["verdict"]["reward"] - 0.5 * min(max(into_buffer / 5, 0), 1))


def test_a_killed_and_resumed_run_keeps_the_groups_of_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: Any = {"loop": {"steps": 6}, "checkpoint": {"every_steps": 2}, "rollouts": {"groups_mb": 0.012}}
    run(recipe("countdown-flowrl", **settings), tmp_path / "unbroken")
    record = StepRecorder.record

    def killed(self: StepRecorder, row: dict[str, float]) -> None:
        if row["step"] == 5:
            raise KeyboardInterrupt
        record(self, row)

    monkeypatch.setattr(StepRecorder, "record", killed)
    with pytest.raises(KeyboardInterrupt):
        run(recipe("countdown-flowrl", **settings), tmp_path / "broken")
    monkeypatch.setattr(StepRecorder, "record", record)
    assert max(group.step for group in groups_of(tmp_path / "broken")) == 5
    run(recipe("countdown-flowrl", **settings), tmp_path / "broken")
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")
    one, other = ((tmp_path / name / "groups.jsonl").read_bytes() for name in ("unbroken", "broken"))
    assert one == other
    assert {group.step for group in groups_of(tmp_path / "broken")} == {1, 2, 3, 4, 5, 6}
    assert len(groups_of(tmp_path / "broken")) < 4 * 6 and len(one) <= 12_000


def test_groups_change_nothing_in_the_training_and_may_change_on_resuming(tmp_path: Path) -> None:
    off = recipe("countdown-flowrl", loop=TWO, rollouts={"groups_per_step": 0})
    run(off, tmp_path / "without")
    run(recipe("countdown-flowrl", loop=TWO), tmp_path / "with")
    assert_same_run(tmp_path / "without", tmp_path / "with")
    assert not (tmp_path / "without" / "groups.jsonl").exists()
    identities = [configs.to_tree(config, identity_only=True) for config in (off, recipe("countdown-flowrl", loop=TWO))]
    assert identities[0] == identities[1] and "groups" not in json.dumps(identities[0])
    run(recipe("countdown-flowrl", loop={"steps": 3}), tmp_path / "without")
    assert {group.step for group in groups_of(tmp_path / "without")} == {3}


def test_demonstrations_are_kept_without_log_probabilities(tmp_path: Path) -> None:
    run(recipe("countdown-base", loop=TWO), tmp_path / "run")
    samples = [sample for group in groups_of(tmp_path / "run") for sample in group.samples]
    assert samples and all(sample.token_ids and sample.logp is None and sample.reward is not None for sample in samples)


def test_a_run_on_saved_rollouts_keeps_groups_with_its_own_advantages(tmp_path: Path) -> None:
    run(recipe("countdown-grpo", loop=TWO, rollouts={"only": True}), tmp_path / "rollouts")
    assert not (tmp_path / "rollouts" / "groups.jsonl").exists()
    for name in ("grpo", "flowrl"):
        config = recipe(f"countdown-{name}", loop=TWO, rollouts={"source": str(tmp_path / "rollouts")})
        run(config, tmp_path / name)
    grpo, flowrl = (groups_of(tmp_path / name) for name in ("grpo", "flowrl"))
    texts = [[sample.text for group in groups for sample in group.samples] for groups in (grpo, flowrl)]
    advantages = [[sample.advantage for group in groups for sample in group.samples] for groups in (grpo, flowrl)]
    assert texts[0] == texts[1] and advantages[0] != advantages[1]
    assert all(group.prompt for group in grpo)


def test_groups_that_dynamic_sampling_drops_are_kept_too(tmp_path: Path) -> None:
    dynamic = {"dynamic_sampling": {"max_extra_rounds": 2}, "rollouts": {"groups_per_step": 12}}
    run(recipe("countdown-grpo", loop={"steps": 1}, seed=1, **dynamic), tmp_path / "run")
    groups = groups_of(tmp_path / "run")
    dropped = [group for group in groups if not any(sample.is_trained for sample in group.samples)]
    assert 0 < len(dropped) < len(groups)
    for group in groups:
        is_mixed = len({sample.reward for sample in group.samples}) > 1
        assert all(sample.is_trained == is_mixed for sample in group.samples)
        assert all((sample.advantage is None) != sample.is_trained for sample in group.samples)


def test_the_advantage_of_a_completion_is_the_mean_of_those_of_its_tokens(tmp_path: Path) -> None:
    run(recipe("countdown-ppo", loop={"steps": 1}), tmp_path / "run")
    assert all(sample.advantage is not None for group in groups_of(tmp_path / "run") for sample in group.samples)
    batch: Any = dataclasses.make_dataclass("B", ["rewards", "completion_mask"])(
        torch.tensor([1.0, 0.0]), torch.tensor([[True, True, False], [True, True, True]])
    )
    values = torch.tensor([[1.0, 3.0, 9.0], [0.0, 3.0, 6.0]])
    scored: Any = ScoredBatch(batch, None, Advantages(values, {}), None)  # type: ignore[arg-type]
    assert scored.rewards_and_advantages() == [(1.0, 2.0), (0.0, 3.0)]
