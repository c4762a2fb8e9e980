"""Log-probabilities before a step that its one update gives: the same gradients, without a pass for them."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from training import assert_same_run, figures, recipe, run, weights
from training_parts import detached, make_batch, make_outputs

from harness.core.errors import ConfigError, EngineError
from harness.core.tensors import Advantages, ModelShape
from harness.engines.hf import HuggingFaceEngine
from harness.trainers.learner import old_logprob_source, pending_old_logprobs, resolve_old_logprobs
from harness.trainers.policy.model import Policy

# One micro-batch of the same rows in the pass and in the update, so that the two sources of log-probabilities can
# agree to the bit.
ONE = {"steps": 2, "minibatches_per_step": 1, "tokens_per_microbatch": 10**6}
BATCH = make_batch([4, 4, 4, 2, 2, 2], [3, 5, 1, 4, 2, 5], [0, 0, 0, 1, 1, 1])


def objective_of(config: Any) -> Any:
    objective = config.objective.build()
    objective.prepare(ModelShape(hidden_size=8, device="cpu"), seed=0)
    return objective


def has_nan(advantages: Advantages) -> bool:
    return any(bool(tensor.isnan().any()) for tensor in (advantages.values, *advantages.extra.values()))


@pytest.mark.parametrize("path", sorted(Path("trainers/recipes").glob("countdown-*.toml")), ids=lambda path: path.stem)
def test_an_objective_whose_advantages_read_old_log_probs_needs_them(path: Path) -> None:
    objective = objective_of(recipe(path.stem))
    old = detached(make_outputs(BATCH))
    old = dataclasses.replace(old, logp=torch.full_like(old.logp, torch.nan))
    batch = dataclasses.replace(BATCH, classes=torch.zeros_like(BATCH.group_ids))
    assert has_nan(objective.advantages(batch, old)) == ("logp_old" in objective.needs)


def test_reading_pending_old_log_probs_fails() -> None:
    objective = objective_of(recipe("countdown-flowrl_no_log_z", objective={"anchor": "old"}))
    with pytest.raises(RuntimeError, match="meta"):
        objective.advantages(BATCH, pending_old_logprobs(BATCH))


def test_pending_old_log_probs_become_the_current_ones_without_gradient() -> None:
    current, known = make_outputs(BATCH), detached(make_outputs(BATCH, seed=4))
    found = resolve_old_logprobs(pending_old_logprobs(BATCH), current).logp
    assert torch.equal(found, current.logp) and not found.requires_grad
    assert resolve_old_logprobs(known, current) is known


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "name", ["countdown-grpo", "countdown-cispo", "countdown-gspo", "countdown-gmpo", "countdown-kimi"]
)
def test_old_log_probs_of_the_update_train_as_those_of_a_pass_to_the_bit(
    name: str, precision: str, tmp_path: Path
) -> None:
    for choice in ("recompute", "live"):
        run(recipe(name, loop={**ONE, "precision": precision, "logp_old": choice}), tmp_path / choice)
    assert_same_run(tmp_path / "recompute", tmp_path / "live")


def test_old_log_probs_of_the_update_in_micro_batches_train_as_those_of_a_pass_to_rounding(tmp_path: Path) -> None:
    for choice in ("recompute", "live"):
        loop = {**ONE, "steps": 1, "tokens_per_microbatch": 150, "logp_old": choice}
        # AdamW divides by the gradient's size: without an eps far above it, rounding of a zero would become a step
        run(recipe("countdown-grpo", loop=loop, optimizer={"eps": 1e-2}), tmp_path / choice)
    for name, tensor in weights(tmp_path / "recompute").items():
        torch.testing.assert_close(weights(tmp_path / "live")[name], tensor, rtol=0, atol=1e-7)


def test_old_log_probs_of_the_update_give_ratios_of_one_and_a_mismatch(tmp_path: Path) -> None:
    loop = {"steps": 2, "minibatches_per_step": 1, "precision": "bfloat16"}
    for row in figures(run(recipe("countdown-grpo", loop=loop), tmp_path / "run").folder):
        assert row["ratio_p01"] == row["ratio_max"] == 1
        assert row["clip_fraction"] == 0
        assert 0 < row["logp_gap"] < 1e-3, "the engine samples as the policy is trained"


def test_old_log_probs_of_the_update_need_no_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gradient = []
    forward = Policy.forward

    def counted(self: Any, *arguments: Any) -> Any:
        with_gradient.append(torch.is_grad_enabled())
        return forward(self, *arguments)

    monkeypatch.setattr(Policy, "forward", counted)
    run(recipe("countdown-grpo", loop={**ONE, "precision": "bfloat16"}), tmp_path / "run")
    assert with_gradient == [True, True], "one a step"


def test_a_mismatch_above_the_bound_stops_before_the_policy_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = HuggingFaceEngine.open

    def open_a_copy(self: Any, source: Any) -> None:
        original(self, source)
        self.module = copy.deepcopy(self.module)

    monkeypatch.setattr(HuggingFaceEngine, "open", open_a_copy)
    with pytest.raises(EngineError, match=r"step 2: .*samples from other weights"):
        run(recipe("countdown-grpo", loop={**ONE, "logp_old": "live"}), tmp_path / "run")
    assert len(figures(tmp_path / "run")) == 1, "the first step was sampled with the right ones"


def test_update_log_probs_run_resumed_after_two_steps_equals_four_steps(tmp_path: Path) -> None:
    loop = {"minibatches_per_step": 1, "precision": "bfloat16"}
    run(recipe("countdown-grpo", loop=loop), tmp_path / "unbroken")
    run(recipe("countdown-grpo", loop={**loop, "steps": 2}), tmp_path / "broken")
    run(recipe("countdown-grpo", loop=loop), tmp_path / "broken")
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")


SINGLE = {"minibatches_per_step": 1}
KL: dict[str, Any] = {"kl": {"place": "loss", "estimator": "k2"}}
WEIGHED: dict[str, Any] = {"engine_correction": {"level": "token"}, "loop": {**SINGLE, "logp_old": "recompute"}}


@pytest.mark.parametrize(
    ("name", "changes", "is_exact", "expected"),
    [
        ("countdown-grpo", {"loop": SINGLE}, True, "engine"),
        ("countdown-grpo", {"loop": SINGLE}, False, "live"),
        ("countdown-base", {"loop": SINGLE}, False, "live"),
        ("countdown-grpo", {}, False, "recompute"),
        ("countdown-grpo", {"loop": {**SINGLE, "epochs": 2}}, False, "recompute"),
        ("countdown-grpo", {"loop": SINGLE, **KL}, False, "recompute"),
        ("countdown-grpo", {"loop": SINGLE, "objective": {"kl_beta": 0.04}}, False, "recompute"),
        ("countdown-grpo", WEIGHED, False, "recompute"),
        ("countdown-flowrl_no_log_z", {"loop": SINGLE, "objective": {"anchor": "none"}}, False, "recompute"),
        ("countdown-ppo", {"loop": SINGLE}, False, "recompute"),
    ],
)
def test_auto_chooses_the_cheapest_exact_old_log_probs(
    name: str, changes: Mapping[str, Any], is_exact: bool, expected: str
) -> None:
    config = recipe(name, **changes)
    batch = dataclasses.replace(BATCH, logp_behaviour=make_outputs(BATCH).logp.detach())
    objective = objective_of(config)
    assert old_logprob_source(config, objective, batch, engine_is_exact=is_exact) == expected
    if is_exact:
        assert old_logprob_source(config, objective, BATCH, engine_is_exact=True) == "live", "the engine gave none"


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("countdown-grpo", {}, "several updates"),
        ("countdown-flowrl", SINGLE, "makes its credit of a pass before it"),
        ("countdown-ppo", SINGLE, "makes its credit of a pass before it"),
    ],
)
def test_live_old_log_probs_are_refused_where_something_reads_them_before_the_update(
    name: str, changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"{told}.*: set loop.logp_old = 'recompute'"):
        run(recipe(name, loop={**changes, "logp_old": "live"}), tmp_path / "run")
