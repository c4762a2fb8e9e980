"""The gap between the engine and the trainer: its figures, its bound, and the faults that it reveals."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from golden_losses import CASES, golden_batch, golden_outputs, tensor
from training import figures, make_learner, recipe, run
from training_parts import detached, make_batch, make_outputs

from harness.core.errors import ConfigError, EngineError
from harness.core.tensors import Batch, PolicyOutputs
from harness.engines.hf import HuggingFaceEngine
from harness.trainers.config import (
    EngineCorrectionConfig,
)
from harness.trainers.engine_mismatch import engine_weights, largest_mismatch, weigh_gradient
from harness.trainers.objectives.grpo import Grpo
from harness.trainers.objectives.trpo import Trpo
from harness.trainers.step_metrics import EngineMismatch, StepMetrics

ENGINE = torch.tensor([[-1.0, -2.0], [-0.5, 9.0]])
POLICY = torch.tensor([[-1.25, -1.5], [-0.5, 0.0]])
PART = dataclasses.replace(make_batch([2, 2], [2, 1], [0, 0]), logp_behaviour=ENGINE)
NONE = dataclasses.replace(PART, logp_behaviour=None)


def collected(logp: torch.Tensor = POLICY) -> EngineMismatch:
    mismatch = EngineMismatch()
    mismatch.add(PART, logp)
    return mismatch


def test_mismatch_figures_are_those_of_the_completion_tokens() -> None:
    apart = [-0.25, 0.5, 0.0]  # policy - engine
    assert collected().figures() == pytest.approx(
        {
            "logp_gap": 0.75 / 3,
            "logp_gap_max": 0.5,
            "logp_gap_kl": sum(math.exp(d) - 1 - d for d in apart) / 3,
        }
    )


def test_the_mismatch_of_micro_batches_adds_up() -> None:
    lengths = [3, 5, 1, 4, 2, 5]
    batch = make_batch([4, 4, 4, 2, 2, 2], lengths, [0, 0, 0, 1, 1, 1])
    current, behaviour = make_outputs(batch), make_outputs(batch, seed=4).logp.detach()
    batch = dataclasses.replace(batch, logp_behaviour=behaviour)
    metrics = StepMetrics(1)
    for rows in (slice(0, 2), slice(2, 6)):
        part: Any = SimpleNamespace(
            logp_behaviour=batch.logp_behaviour[rows], completion_mask=batch.completion_mask[rows]
        )
        metrics.mismatch.add(part, current.logp[rows])
    gaps = [float((current.logp - behaviour)[row, t].detach()) for row, n in enumerate(lengths) for t in range(n)]
    row = metrics.row()
    assert row["logp_gap"] == pytest.approx(sum(map(abs, gaps)) / len(gaps))
    assert row["logp_gap_max"] == pytest.approx(max(map(abs, gaps)))
    assert row["logp_gap_kl"] == pytest.approx(sum(math.exp(gap) - 1 - gap for gap in gaps) / len(gaps))


def test_the_mismatch_ignores_passes_after_the_policy_changes() -> None:
    mismatch = collected()
    mismatch.close()
    before = mismatch.figures()
    mismatch.add(PART, POLICY + 5)
    assert mismatch.figures() == before


@pytest.mark.parametrize(("off", "told"), [(0.0, r"0\.25 .* on average .*0\.5"), (math.nan, "nan from the policy's")])
def test_a_mismatch_above_the_bound_is_an_error_with_a_remedy(off: float, told: str) -> None:
    check(collected(), largest=0.26)
    with pytest.raises(EngineError, match=rf"step 3: .*{told}.*engine_correction\.max_gap"):
        check(collected(POLICY + off), largest=0.24)


def check(mismatch: EngineMismatch, largest: float = 1e-9) -> None:
    """Check a mismatch as the learner does before its first update."""
    metrics, anything = StepMetrics(3), SimpleNamespace()
    metrics.mismatch = mismatch
    make_learner(anything, anything, anything, largest=largest)._check_mismatch(3, metrics)  # type: ignore[arg-type]


def test_mismatch_is_absent_without_log_probabilities() -> None:
    mismatch = EngineMismatch()
    mismatch.add(NONE, POLICY)
    check(mismatch)
    assert mismatch.figures() == {}


def test_mismatch_is_absent_after_the_policy_changes() -> None:
    mismatch = EngineMismatch()
    mismatch.close()
    mismatch.add(PART, POLICY)
    check(mismatch)
    assert mismatch.figures() == {}


@pytest.mark.parametrize(
    ("changes", "computes_alike", "expected"),
    [
        ({}, True, 1e-4),
        ({}, False, 1e-3),
        ({"loop": {"precision": "bfloat16"}}, False, 0.1),
        ({"model": {"dtype": "bfloat16"}}, False, 0.1),
        ({"engine_correction": {"max_gap": 0.5}}, True, 0.5),
    ],
)
def test_the_mismatch_bound_is_set_or_follows_from_the_precision(
    changes: dict[str, Any], computes_alike: bool, expected: float
) -> None:
    assert largest_mismatch(recipe("countdown-grpo", **changes), computes_alike=computes_alike) == expected


def test_a_mismatch_bound_is_above_zero() -> None:
    with pytest.raises(ConfigError, match="max_gap' must be above 0"):
        recipe("countdown-grpo", engine_correction={"max_gap": 0.0})


LOOPS = {"first minibatch": {}, "frozen pass": {"logp_old": "recompute"}}


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("name", ["countdown-grpo", "countdown-ppo"])
def test_every_step_records_its_mismatch_and_weights_version(name: str, loop: dict[str, Any], tmp_path: Path) -> None:
    rows = figures(run(recipe(name, loop=loop), tmp_path / "run").folder)
    assert [row["weights_version"] for row in rows] == [0, 1, 2, 3]
    for row in rows:
        # float32, another order of adding; logits are of size 16
        assert 0 < row["logp_gap"] < row["logp_gap_max"] < 1e-5


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_an_engine_with_stale_weights_stops_the_run(
    loop: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = HuggingFaceEngine.open

    def open_a_copy(self: Any, source: Any) -> None:
        """Which `load_weights` passes by: it takes the module for the policy's own."""
        original(self, source)
        self.module = copy.deepcopy(self.module)

    monkeypatch.setattr(HuggingFaceEngine, "open", open_a_copy)
    with pytest.raises(EngineError, match="samples from other weights"):
        run(recipe("countdown-grpo", loop=loop), tmp_path / "run")
    assert len(figures(tmp_path / "run")) == 1, "the first step was sampled with the right ones"


# --- the correction ---------------------------------------------------------------------------------------------


BATCH = make_batch([4, 4, 4, 2, 2, 2], [3, 5, 1, 4, 2, 5], [0, 0, 0, 1, 1, 1], [1, 0, 1, 0.5, 0, 1])


def grpo_loss(batch: Batch, current: PolicyOutputs, old: PolicyOutputs, **options: Any) -> Any:
    objective = Grpo(Grpo.Config(reduction="token_mean", kl_beta=0.0, **options))
    return objective.loss(batch, current, old, objective.advantages(batch, old))


def test_truncated_importance_weights_have_verls_gradient() -> None:
    batch, (current, old) = golden_batch(), golden_outputs()
    weighed = dataclasses.replace(current, logp=weigh_gradient(current.logp, tensor("is_weights")))
    assert torch.equal(weighed.logp, current.logp)
    loss = grpo_loss(batch, weighed, old, dual_clip=3.0).loss
    (gradient,) = torch.autograd.grad(loss, current.logp)
    expected = torch.tensor(CASES["verl_grpo_truncated_is"]["gradient"], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("objective", [Grpo(Grpo.Config(kl_beta=0.3)), Trpo(Trpo.Config())], ids=["grpo", "trpo"])
def test_engine_weights_are_for_the_surrogate_and_not_for_the_kl(objective: Any) -> None:
    """Against the formula: each token's surrogate times its weight, and the KL as it is."""
    current, old = make_outputs(BATCH), detached(make_outputs(BATCH, seed=2))
    weights = torch.rand(6, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.5
    weighed = dataclasses.replace(current, logp=weigh_gradient(current.logp, weights), logp_unweighed=current.logp)
    advantages = objective.advantages(BATCH, old)
    (gradient,) = torch.autograd.grad(objective.loss(BATCH, weighed, old, advantages).loss, current.logp)
    expected = torch.zeros_like(gradient)
    for row, n in enumerate([3, 5, 1, 4, 2, 5]):
        for t in range(n):
            advantage = float(advantages.values[row])
            now, before, reference = (float(x[row, t].detach()) for x in (current.logp, old.logp, old.logp_reference))
            ratio = math.exp(now - before)
            if isinstance(objective, Trpo):
                expected[row, t] = (-float(weights[row, t]) * ratio * advantage + (ratio - 1)) / 20
            else:
                is_clipped = (ratio > 1.2 and advantage > 0) or (ratio < 0.8 and advantage < 0)
                pulled = 0.0 if is_clipped else -float(weights[row, t]) * ratio * advantage
                expected[row, t] = (pulled + 0.3 * (1 - math.exp(reference - now))) / (6 * n)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_engine_weights_are_capped_ratios(level: Any) -> None:
    behaviour = make_outputs(BATCH, seed=4).logp.detach()
    old = detached(make_outputs(BATCH))
    batch = dataclasses.replace(BATCH, logp_behaviour=behaviour)
    weights = engine_weights(batch, old.logp, EngineCorrectionConfig(level=level, cap=1.5))
    assert weights is not None
    for row, n in enumerate([3, 5, 1, 4, 2, 5]):
        ratios = [float(old.logp[row, t] - behaviour[row, t]) for t in range(n)]
        if level == "sequence":
            ratios = [sum(ratios)] * n
        expected = [min(2.718281828459045**ratio, 1.5) for ratio in ratios]
        assert weights[row].tolist() == pytest.approx([*expected, *[0.0] * (5 - n)])
