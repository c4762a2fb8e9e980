"""Losses and gradients through verl's own worker and its FSDP2 engine over gloo, against our Learner."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from training_parts import make_batch

pytest.importorskip("verl")

from training import recipe
from verl_cpu import run_ranks

from harness.core.protocols import ModelSource
from harness.core.seeds import derive
from harness.core.tensors import Batch
from harness.models.loading import load_module, resolve
from harness.trainers.backends.verl.convert import ShardedPolicy
from harness.trainers.backends.verl.fields import ScoredRows, driver_fields, spread
from harness.trainers.backends.verl.run import run_variable
from harness.trainers.backends.verl.scoring import score_rows
from harness.trainers.config import TrainConfig
from harness.trainers.kl import AdaptiveKl
from harness.trainers.learner import Learner, ScoredBatch, make_optimizer
from harness.trainers.policy.model import Policy
from harness.trainers.reference import ReferenceReset
from harness.trainers.step_metrics import StepMetrics

PROMPTS = [7, 7, 7, 7, 5, 5, 5, 5, 9, 9, 9, 9, 6, 6, 6, 6]
COMPLETIONS = [6, 9, 3, 12, 4, 4, 11, 2, 8, 5, 1, 7, 10, 3, 6, 2]
GROUPS = [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
REWARDS = [1, 0, 0, 1, 0, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 0]
TEMPERATURE = 0.8
MAX_TOKENS = 12


def reference_module() -> Any:
    """Another model than the policy, so that the reference matters."""
    module = load_module(ModelSource(resolve("countdown-tiny"), device="cpu"))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return module


class Ours:
    """Our Learner on the same rollouts, with the gradients of every update."""

    def __init__(self, config: TrainConfig) -> None:
        self.policy = Policy(load_module(ModelSource(resolve("countdown-tiny"), device="cpu")), TEMPERATURE)
        self.objective = config.objective.build()
        self.objective.prepare(self.policy.shape, derive(config.seed, "objective"))
        self.optimizer = make_optimizer(self.policy.module, self.objective, config.optimizer)
        self.learner = Learner(
            config=config,
            objective=self.objective,
            policy=self.policy,
            reference=Policy(reference_module(), TEMPERATURE),
            optimizer=self.optimizer,
            max_tokens=MAX_TOKENS,
            engine_logp_is_exact=False,
            largest_mismatch=100.0,
            kl=AdaptiveKl(config.kl),
            resets=ReferenceReset(config.reference),
        )
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.metrics = StepMetrics(1)
        self.optimizer.register_step_pre_hook(self._keep_gradients)

    def _keep_gradients(self, *_: Any) -> None:
        own = [p for group in self.objective.parameters() for p in group.parameters]
        found = {name: p.grad.clone() for name, p in self.policy.module.named_parameters() if p.grad is not None}
        self.gradients.append(found | {f"own.0.{j}": p.grad.clone() for j, p in enumerate(own)})


def job_of(
    config: TrainConfig, scored: ScoredRows, old: Any, n_ranks: int, checkpoint: Path | None = None
) -> dict[str, Any]:
    """Return one step for verl's workers, with the rows in the order in which our trainer sends them."""
    batch, fields = scored.batch, driver_fields(scored)
    lengths = (batch.prompt_lengths + batch.completion_lengths).tolist()
    order = spread(scored.minibatches.tolist(), lengths, n_ranks)
    share = len(order) // n_ranks
    return {
        "run": run_variable(config),
        "model": resolve("countdown-tiny"),
        "temperature": TEMPERATURE,
        "tokens": 60,
        "entropy": config.loop.entropy_bonus != 0,
        "mini_batch_size": len(order) // config.loop.minibatches_per_step,
        "epochs": config.loop.epochs,
        "shares": [verl_rows(batch, old, fields, order[r * share : (r + 1) * share]) for r in range(n_ranks)],
        "order": order,
        "checkpoint": str(checkpoint) if checkpoint is not None else None,
    }


def verl_rows(batch: Batch, old: Any, fields: dict[str, torch.Tensor], rows: list[int]) -> dict[str, Any]:
    """Return rows as verl's agent loop and our trainer put them into its queue."""
    found: dict[str, Any] = {
        name: [] for name in ("prompts", "responses", "input_ids", "position_ids", "response_mask")
    }
    per_token = {"old_log_probs": old.logp, "ref_log_prob": old.logp_reference}
    per_token |= {
        name: tensor for name, tensor in fields.items() if tensor.shape[1:] == batch.completion_mask.shape[1:]
    }
    per_token = {name: tensor for name, tensor in per_token.items() if tensor is not None}
    found |= {name: [] for name in per_token}
    for row in rows:
        p, c = int(batch.prompt_lengths[row]), int(batch.completion_lengths[row])
        ids = batch.sequence_ids[row, : p + c]
        found["prompts"].append(ids[:p])
        found["responses"].append(ids[p:])
        found["input_ids"].append(ids)
        found["position_ids"].append(torch.arange(p + c))
        found["response_mask"].append(batch.completion_mask[row, :c].long())
        for name, tensor in per_token.items():
            found[name].append(tensor[row, :c])
    found["loss_mask"] = found["response_mask"]
    return found | {name: tensor[rows] for name, tensor in fields.items() if name not in per_token}


UNCLIPPED = {"optimizer": {"grad_clip": 0.0}}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "flowrl": ("countdown-flowrl", UNCLIPPED),
    "vargrad_tb": ("countdown-vargrad_tb", UNCLIPPED),
    "grpo": ("countdown-grpo", UNCLIPPED),
    "maxrl": ("countdown-maxrl", UNCLIPPED),
    "log Z's gradient in the policy, one clip": ("countdown-flowrl_recipe", {"objective": {"log_z_dropout": 0.0}}),
    "own clip of log Z": ("countdown-flowrl", {}),
    "critic": ("countdown-ppo", UNCLIPPED),
    "two epochs": ("countdown-grpo", {"loop": {"epochs": 2}, **UNCLIPPED}),
    "KL in the loss, entropy": (
        "countdown-grpo",
        {"kl": {"place": "loss", "estimator": "k2", "coefficient": 0.1}, "loop": {"entropy_bonus": 0.01}, **UNCLIPPED},
    ),
    "KL in the reward, overlong": (
        "countdown-grpo",
        {"kl": {"place": "reward", "coefficient": 0.1}, "overlong": {"buffer_tokens": 6, "penalty": 0.5}, **UNCLIPPED},
    ),
    "weights between engine and policy": (
        "countdown-grpo",
        {"engine_correction": {"level": "token"}, "loop": {"logp_old": "recompute"}, **UNCLIPPED},
    ),
    "prompt mean": ("countdown-grpo", {"objective": {"reduction": "prompt_mean"}, **UNCLIPPED}),
}


def rollouts() -> Batch:
    batch = make_batch(PROMPTS, COMPLETIONS, GROUPS, [float(r) for r in REWARDS])
    generator = torch.Generator().manual_seed(7)
    behaviour = -torch.rand(batch.completion_mask.shape, generator=generator) * 6 * batch.completion_mask
    return dataclasses.replace(batch, logp_behaviour=behaviour)


def relative(theirs: Any, ours: Any) -> float:
    """Return the largest difference over tensors, relative to the largest value of ours."""
    assert theirs.keys() == ours.keys()
    largest = max(float(tensor.abs().max()) for tensor in ours.values())
    return max(float((theirs[name] - ours[name]).abs().max()) for name in ours) / largest


@pytest.mark.parametrize("n_ranks", [1, 2])
def test_a_step_of_verl_is_a_step_of_our_loop(n_ranks: int, tmp_path: Path) -> None:
    batch, jobs, steps = rollouts(), [], []
    for name, (path, changes) in CASES.items():
        config = recipe(path, **changes)
        ours = Ours(config)
        mine = ours.learner.score(1, batch, ours.metrics)
        scored = score_rows(
            config,
            config.objective.build(),
            batch,
            mine.old,
            step=1,
            max_tokens=MAX_TOKENS,
            minibatches=batch.group_ids // 2,
        )
        checkpoint = tmp_path / "checkpoint" if name == "own clip of log Z" else None
        jobs.append(job_of(config, scored, mine.old, n_ranks, checkpoint))
        ours.learner.update(1, mine, None, ours.metrics)
        steps.append((ours, mine))
    found = run_ranks(jobs, tmp_path, n_ranks)
    for name, job, (ours, mine), ranks in zip(CASES, jobs, steps, found, strict=True):
        first, row = ranks[0], ours.metrics.row()
        assert [rank["world"] for rank in ranks] == [n_ranks] * n_ranks
        loss = statistics.fmean(first["metrics"]["loss"])
        off_loss = abs(loss - row["loss"]) / abs(row["loss"])
        off = [relative(*pair) for pair in zip(first["gradients"], ours.gradients, strict=True)]
        off_weights = relative(first["weights"], dict(ours.policy.tensors()))
        print(f"{name} on {n_ranks}: loss {off_loss:.1e}, gradients {max(off):.1e}, weights {off_weights:.1e}")
        assert max(off_loss, off[0]) < 2e-5, name
        # Adam turns rounding at gradients near zero into whole steps, from which the next gradient is computed.
        assert max(*off, off_weights) < 1e-3, name
        if job["checkpoint"] is not None:
            assert relative(first["restored"], first["weights"]) == 0
            assert relative(first["restored_own"], first["own"]) == 0
            assert first["restored_optimizer"] == len(ours.optimizer.state)
            assert_converted(Path(job["checkpoint"]), tmp_path / "converted", first)
        assert relative(first["own"], dict(ours.objective.state_dict())) < 1e-3 if first["own"] else True
        if name in ("grpo", "critic"):
            assert_old_outputs(job, mine, ranks)


def assert_converted(checkpoint: Path, folder: Path, first: dict[str, Any]) -> None:
    """Load verl's sharded checkpoint as a Hugging Face folder."""
    folder.mkdir()
    policy = ShardedPolicy(ModelSource(resolve("countdown-tiny")), checkpoint)
    policy.save_pretrained(folder)
    loaded = load_module(ModelSource(str(folder), dtype="auto", device="cpu")).state_dict()
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}
    assert relative(first["weights"], loaded) == 0
    assert relative(first["own"], policy.objective_state()) == 0


def assert_old_outputs(job: dict[str, Any], mine: ScoredBatch, ranks: list[dict[str, Any]]) -> None:
    """Compare the pass before the updates: log-probs, and the values of a critic, of each completion token."""
    rows = [row for rank in range(len(ranks)) for row in job["shares"][rank]["responses"]]
    share = len(job["order"]) // len(ranks)
    for place, row in enumerate(job["order"]):
        rank, index = divmod(place, share)
        c = len(rows[place])
        for key, own in (("logp", mine.old.logp), ("values", mine.old.values)):
            if own is not None:
                theirs = ranks[rank][key][index][-c - 1 : -1]
                torch.testing.assert_close(theirs, own[row, :c], rtol=1e-4, atol=1e-4)
