"""Cosines between the gradients of all countdown recipes on the same completions, as a page's block of text.

    harness train countdown-remax --rollouts-only --set loop.steps=1 --out runs/rollouts
    python tools/gradient_cosines.py runs/rollouts

Methods whose gradients have a cosine of at least `--merge` with the first of them share a row, and are listed below.
The gradient is that of the policy's weights in the first update of a step over all completions, before any clipping:
the policy is the one that sampled them and the reference, so ratios are 1 and drifts are 0. `countdown-remax` samples
the greedy completions that its own objective needs. `countdown-base` is left out: it learns from demonstrations.
`--policy RUN` takes the weights of a trained run in their place, which have left the reference.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch

from harness.core import config as configs
from harness.core.recipes import OF_ALL_METHODS, recipes
from harness.core.seeds import derive
from harness.models.loading import checkpoint_folders
from harness.trainers.batch import collate, microbatches, minibatches
from harness.trainers.config import TrainConfig
from harness.trainers.kl import AdaptiveKl
from harness.trainers.learner import Learner, make_optimizer
from harness.trainers.policy.model import load_policies
from harness.trainers.reference import ReferenceReset
from harness.trainers.saved_rollouts import RolloutFile
from harness.trainers.setup import build_setup
from harness.trainers.step_metrics import StepMetrics

ONE_UPDATE = {"steps": 1, "minibatches_per_step": 1, "epochs": 1, "logp_old": "recompute"}
NEEDS_TWO_UPDATES = {"countdown-trpo"}


def config_of(recipe: str, rollouts: str) -> TrainConfig:
    loop = {**ONE_UPDATE, "epochs": 2} if recipe in NEEDS_TWO_UPDATES else ONE_UPDATE
    changes = {"loop": loop, "rollouts": {"source": rollouts}, "optimizer": {"warmup_steps": 0}}
    return configs.parse(TrainConfig, configs.merge(configs.read_toml(recipes()[recipe]), changes))


def gradient(recipe: str, rollouts: str, policy_run: Path | None) -> torch.Tensor:
    """Return the gradient of the policy's weights as one vector."""
    config = config_of(recipe, rollouts)
    setup = build_setup(config, Path("no such run"))
    trained = checkpoint_folders(policy_run)[-1] if policy_run is not None else None
    policy, reference = load_policies(
        config, setup.base, trained, setup.temperature, with_reference=setup.with_reference
    )
    setup.objective.prepare(policy.shape, derive(config.seed, "objective"))
    learner = Learner(
        config=config,
        objective=setup.objective,
        policy=policy,
        reference=reference,
        optimizer=make_optimizer(policy.module, setup.objective, config.optimizer),
        max_tokens=setup.max_tokens,
        engine_logp_is_exact=False,
        largest_mismatch=math.inf,
        kl=AdaptiveKl(config.kl),
        resets=ReferenceReset(config.reference),
    )
    chosen, _ = RolloutFile(rollouts).read(1)
    greedy = chosen.greedy_rewards() if "greedy_reward" in setup.objective.needs else None
    metrics = StepMetrics(1)
    scored = learner.score(1, collate(chosen.chosen, "cpu", greedy, setup.objective.needs), metrics)
    for rows, totals in minibatches(scored.batch, 1):
        for piece in microbatches(scored.batch, rows, config.loop.tokens_per_microbatch):
            learner._backward(scored, piece, totals, metrics)
    return torch.cat([p.grad.flatten() for p in policy.module.parameters() if p.grad is not None])


def merged(cosines: torch.Tensor, least: float) -> list[list[int]]:
    """Return the rows in groups: each with those whose cosine with its first is at least `least`, in order."""
    groups: list[list[int]] = []
    for i in range(len(cosines)):
        near = next((group for group in groups if float(cosines[group[0], i]) >= least), None)
        if near is not None:
            near.append(i)
        else:
            groups.append([i])
    return groups


def page(names: list[str], cosines: torch.Tensor, groups: list[list[int]]) -> str:
    """Return the matrix of the groups' first methods as text, and the members of the groups."""
    first = [group[0] for group in groups]
    width = max(len(names[i]) for i in first) + 4
    lines = [" " * width + "".join(f"{i:>6}" for i in range(1, len(groups) + 1))]
    for number, i in enumerate(first, 1):
        row = "".join(f"{value:6.2f}" for value in cosines[i, first].tolist())
        lines.append(f"{number:>2} {names[i]:{width - 3}}{row}")
    lines += ["", *(f"{n:>2} {', '.join(names[i] for i in g)}" for n, g in enumerate(groups, 1) if len(g) > 1)]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rollouts", help="a run folder of --rollouts-only, or its rollouts.jsonl")
    parser.add_argument("--policy", type=Path, help="a run folder: the policy has the weights of its newest checkpoint")
    parser.add_argument("--merge", type=float, default=0.995, help="1.1 merges nothing")
    asked: Any = parser.parse_args()
    torch.manual_seed(0)
    names = [name for name in recipes() if name.startswith(OF_ALL_METHODS) and name != "countdown-base"]
    names.sort(key=lambda name: name != "countdown-grpo")  # first, since it is what the others are compared with
    gradients = torch.stack([gradient(name, asked.rollouts, asked.policy) for name in names])
    unit = gradients / gradients.norm(dim=1, keepdim=True).clamp(min=1e-30)
    cosines = unit @ unit.T
    print(page([name.removeprefix(OF_ALL_METHODS) for name in names], cosines, merged(cosines, asked.merge)))


if __name__ == "__main__":
    main()
