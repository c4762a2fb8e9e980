"""A recipe trained by TRL's own loop, with its completions and gradients kept, and our loop's gradients for the same.

torchrun --nproc-per-node 2 tests/support/recipe_training.py DDP|FSDP2 FOLDER NAME SETTINGS(JSON)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsdp_on_cpu
import torch
from datasets import Dataset
from training import recipe
from trl import GRPOConfig

from harness.core import config as configs
from harness.core.config import parse_plugin
from harness.core.seeds import derive
from harness.core.types import Completion, Graded, Problem, Tokens, Verdict
from harness.models.chat import prompt_ids
from harness.models.loading import load_tokenizer
from harness.trainers import learner as loop_learner
from harness.trainers.backends.trl import learner as trl_learner
from harness.trainers.backends.trl.grpo_arguments import arguments_of
from harness.trainers.backends.trl.policy import whole
from harness.trainers.backends.trl.recipe_trainer import RecipeTrainer
from harness.trainers.batch import collate
from harness.trainers.checks import reads_reference
from harness.trainers.config import TrainConfig
from harness.trainers.kl import AdaptiveKl
from harness.trainers.policy.model import load_policies
from harness.trainers.reference import ReferenceReset
from harness.trainers.reward_shaping import untruncated_rows
from harness.trainers.step_metrics import StepMetrics

SMALL = {"loop": {"steps": 2}, "sampling": {"max_tokens": 20, "temperature": 3.0}}
EPS = {"eps": 1e-3, "warmup_steps": 0}
"""With AdamW's own eps the first update of a weight is the sign of its gradient, be that a rounding error."""


def small(name: str, **changes: Any) -> TrainConfig:
    return recipe(name, **configs.merge(SMALL, {"optimizer": EPS}, changes))


class Rewards:
    """Rates completions by their tokens, so that groups differ, and keeps them. Some are not rated if `with_gaps`."""

    def __init__(self, *, with_gaps: bool = False) -> None:
        self.__name__ = "rewards"
        self.seen: list[tuple[str, list[int], float | None]] = []
        self._with_gaps = with_gaps

    def __call__(self, completion_ids: list[list[int]], problem_id: list[str], **_: Any) -> list[float | None]:
        rated = [None if self._with_gaps and sum(ids) % 7 == 0 else sum(ids) % 5 / 4 for ids in completion_ids]
        self.seen += zip(problem_id, map(list, completion_ids), rated, strict=True)
        return rated


def problems() -> dict[str, Problem[Any]]:
    task = parse_plugin("tasks", "countdown").build()
    return {problem.id: problem for problem, _ in zip(task.problems("train", 0), range(16), strict=False)}


def dataset() -> Dataset:
    prompts = {name: [{"role": "user", "content": one.messages[0].content}] for name, one in problems().items()}
    return Dataset.from_list([{"prompt": prompt, "problem_id": name} for name, prompt in prompts.items()])


def trainer_of(config: TrainConfig, folder: Path, rewards: Any, named: Any = None, **arguments: Any) -> RecipeTrainer:
    quiet = {"report_to": "none", "disable_tqdm": True, "logging_steps": 1, "save_strategy": "no", "use_cpu": True}
    return type("Trainer", (RecipeTrainer,), {"recipe": config})(
        model=config.model.source(0).path,
        args=GRPOConfig(**arguments_of(config, **{"output_dir": str(folder), **quiet, **arguments})),
        reward_funcs=rewards,
        train_dataset=dataset(),
        **(named if named is not None else {}),
    )


def keep_gradients(module: Any, set_attribute: Callable[[Any, str, Any], None] = setattr) -> list[torch.Tensor]:
    """Return a list to which a module's `clip_gradients` adds the gradient of every update, before it is clipped."""
    found: list[torch.Tensor] = []
    clip = module.clip_gradients

    def kept(optimizer: Any, max_norm: float) -> dict[str, float]:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        found.append(torch.cat([whole(p.grad).flatten().clone() for p in parameters]))
        norms: dict[str, float] = clip(optimizer, max_norm)
        return norms

    set_attribute(module, "clip_gradients", kept)
    return found


def gradients_of_the_loop(
    config: TrainConfig, seen: list[Any], set_attribute: Callable[[Any, str, Any], None] = setattr
) -> list[torch.Tensor]:
    """Train our loop's learner on these completions, a step of them after the other."""
    objective, base = config.objective.build(), config.model.source(0)
    with_reference = reads_reference(config, objective)
    policy, reference = load_policies(config, base, None, config.sampling.temperature, with_reference=with_reference)
    objective.prepare(policy.shape, derive(config.seed, "objective"))
    learner = loop_learner.Learner(
        config=config,
        objective=objective,
        policy=policy,
        reference=reference,
        optimizer=loop_learner.make_optimizer(policy.module, objective, config.optimizer),
        max_tokens=config.sampling.max_tokens,
        engine_logp_is_exact=False,
        largest_mismatch=1.0,
        kl=AdaptiveKl(config.kl),
        resets=ReferenceReset(config.reference),
    )
    found = keep_gradients(loop_learner, set_attribute)
    n_each = config.loop.prompts_per_step * config.loop.samples_per_prompt
    for step in range(1, config.loop.steps + 1):
        graded = _graded(load_tokenizer(base), seen[(step - 1) * n_each : step * n_each])
        metrics = StepMetrics(step)
        scored = learner.score(step, collate(graded, "cpu", needs=objective.needs), metrics)
        masked = config.overlong.mask_truncated
        learner.update(step, scored, untruncated_rows(graded) if masked else None, metrics)
    return found


def _graded(tokenizer: Any, seen: list[Any]) -> list[Graded[Any]]:
    found, by_id = [], problems()
    for i, (name, ids, reward) in enumerate(seen):
        prompt = prompt_ids(tokenizer, by_id[name].messages)
        reason: Any = "stop" if ids[-1] == tokenizer.eos_token_id else "length"
        if reward is not None:
            completion = Completion(name, i, 0, "", reason, Tokens(len(prompt), len(ids), prompt, ids))
            found.append(Graded(Problem(name, "t", (), None), completion, Verdict("correct", reward)))
    return found


if __name__ == "__main__":
    strategy, folder, name, settings = sys.argv[1], Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
    torch.set_num_threads(1)
    if strategy == "FSDP2":
        fsdp_on_cpu.allow()
        torch.distributed.init_process_group("gloo")
    rewards, gradients = Rewards(), keep_gradients(trl_learner)
    trainer = trainer_of(small(name, **settings), folder, rewards)
    trainer.train()
    torch.save({"seen": rewards.seen, "gradients": gradients}, folder / f"{trainer.accelerator.process_index}.pt")
