"""Training on rollouts from a file: the same samples under any loss, and no engine.

Log-probabilities before the step are the stored ones of the sampler (or, with `loop.logp_old = "recompute"`, a pass of
the policy), so importance ratios are taken to what was really sampled from. They are on-policy as long as the policy
has the weights that sampled them; each step says whether it has.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from harness.core import config as configs
from harness.core.errors import ConfigError, RunError
from harness.core.progress import Progress
from harness.core.protocols import ModelSource, Objective, Task
from harness.core.types import Completion, Problem, Request, Sampling
from harness.data.dataset_facts import grader_name, task_facts
from harness.trainers.config import TrainConfig
from harness.trainers.policy.model import Policy
from harness.trainers.rollout_file import RolloutFile
from harness.trainers.rollouts import Rollouts


def weights_digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """A digest of weights with their names: of the sums, by rows and by columns, of the integers that their bits are.

    Two passes on their own device, where a hash of all bytes would have to fetch them.
    """
    whole = hashlib.sha256()
    for name, tensor in tensors:
        integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
        bits = tensor.detach().contiguous().view(-1, tensor.shape[-1] if tensor.dim() > 1 else 1).view(integers)
        sums = torch.cat([bits.sum(axis, dtype=torch.int64) for axis in (0, 1)])
        whole.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode() + sums.cpu().numpy().tobytes())
    return whole.hexdigest()[:16]


def tokenizer_digest(tokenizer: Any) -> str:
    """Of what makes the same text the same ids."""
    probe = tokenizer("3 + 5 = 8, so x^2 \\le 64.\n\nAnswer: (8)  é", add_special_tokens=False)["input_ids"]
    facts = {
        "vocabulary": tokenizer.get_vocab(),
        "template": tokenizer.chat_template,
        "end": tokenizer.eos_token_id,
        "probe": list(probe),
    }
    return configs.digest(facts)


def data_facts(config: TrainConfig, task: Task[Any], progress: Progress) -> dict[str, Any]:
    """What the run record keeps of the task and its grader. Data that are not those on record are told, or refused."""
    grader = grader_name(task, config.grader)
    return task_facts(task, "train", grader=grader, is_strict=config.strict_data, warn=progress.warn)


def rollout_facts(
    config: TrainConfig,
    task: Task[Any],
    data: Mapping[str, Any],
    tokenizer: Any,
    tensors: Iterable[tuple[str, torch.Tensor]],
) -> Any:
    """What rollouts depend on, for the head of their file."""
    sampling = asdict(config.sampling.over(task.sampling))
    must_agree = {
        "task": configs.to_tree(config.task),
        "data": {key: data[key] for key in ("fingerprint", "grader") if key in data},
        "sampling": {**sampling, "stop": list(sampling["stop"])},
        "loop": {name: getattr(config.loop, name) for name in ("prompts_per_step", "samples_per_prompt")},
        "dynamic_sampling": configs.to_tree(config.dynamic_sampling),
        "tokenizer": tokenizer_digest(tokenizer),
        "weights": weights_digest(tensors),
    }
    told = {
        "model": configs.to_tree(config.model),
        "engine": configs.to_tree(config.engine),
        "objective": configs.to_tree(config.objective),
        "seed": config.seed,
        "policy": "fixed" if config.rollouts.only else "in training",
    }
    return {"must_agree": must_agree, "told": told}


class NoEngine:
    """Stands where an engine would where nothing is sampled: there are no weights to sync."""

    logp_is_exact = True
    n_at_once = None
    version = 0

    def open(self, source: ModelSource) -> None:
        pass

    def close(self) -> None:
        pass

    def load_weights(self, tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        pass

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:  # noqa: ARG002
        raise AssertionError("rollouts come from a file")


@dataclass(slots=True)
class Replay:
    """Gives each step the rollouts that the file has for it, in the place of a sampler."""

    file: RolloutFile
    objective: Objective
    policy: Policy
    progress: Progress
    is_recomputed: bool
    """Whether the log-probabilities before a step are a pass of the policy, and not the stored ones."""
    has_said_so: bool = False

    def problems(self, n_drawn: int) -> Iterator[Problem[Any]]:  # noqa: ARG002  # the file has them
        return iter(())

    def draw(self, step: int, stream: Iterator[Problem[Any]]) -> Rollouts:  # noqa: ARG002
        rollouts, weights = self.file.read(step)
        is_on_policy = weights == weights_digest(self.policy.tensors())
        if not is_on_policy:
            self._tell(step)
        greedy = rollouts.greedy if "greedy_reward" in self.objective.needs else ()
        return dataclasses.replace(rollouts, greedy=greedy, is_on_policy=is_on_policy)

    def _tell(self, step: int) -> None:
        if "on_policy" in self.objective.needs:
            raise RunError(f"step {step}: {OFF_POLICY}; this objective takes no ratio: {REMEDY}")
        if not self.has_said_so:
            taken_to = "the policy before the step" if self.is_recomputed else "the sampler's stored log-probabilities"
            self.progress.warn(f"step {step}: {OFF_POLICY}. Ratios are taken to {taken_to}")
        self.has_said_so = True


OFF_POLICY = "the policy has moved, and these rollouts were sampled from other weights"
REMEDY = "set objective.surrogate = 'clipped', or stop at the step before"


def open_rollouts(config: TrainConfig, objective: Objective) -> RolloutFile:
    """The file that a config names, refused where it can be seen that it won't do."""
    assert config.rollouts.source is not None
    file = RolloutFile(config.rollouts.source)
    n_steps = file.n_steps()
    if n_steps < config.loop.steps:
        raise ConfigError(
            f"{file.path} holds {n_steps} steps, fewer than loop.steps = {config.loop.steps}; set it lower"
        )
    rollouts, _ = RolloutFile(config.rollouts.source).read(1)
    if any(item.completion.tokens.logp_behaviour is None for item in rollouts.chosen):
        raise ConfigError(f"{file.path} has no log-probabilities of the sampler, to which ratios would be taken")
    if "greedy_reward" in objective.needs and not rollouts.greedy:
        raise ConfigError(
            f"the objective {config.objective.id!r} compares with a greedy completion of each prompt, and {file.path} "
            "has none; write it with a recipe of this objective"
        )
    if "on_policy" in objective.needs and file.facts["told"]["policy"] == "fixed" and config.loop.steps > 1:
        raise ConfigError(
            f"from step 2 on the policy has moved and the rollouts of {file.path} come from the first weights; the "
            f"objective {config.objective.id!r} takes no ratio: {REMEDY}"
        )
    return file


def refuse_other_rollouts(file: RolloutFile, facts: Mapping[str, Any], *, is_begun: bool) -> None:
    """Rollouts of another model, tokenizer or task, or sampled otherwise. `is_begun`: the weights have moved since."""
    theirs, ours = (dict(some["must_agree"]) for some in (file.facts, facts))
    if is_begun:
        theirs.pop("weights"), ours.pop("weights")
    # A file from before a sampling option existed was sampled with its default.
    theirs["sampling"] = asdict(Sampling(max_tokens=0)) | theirs["sampling"]
    changes = configs.differences(theirs, ours)
    if changes:
        raise ConfigError(
            f"the rollouts of {file.path} are not those of this model, tokenizer and task, sampled as this config "
            "has it: " + "; ".join(changes)
        )
