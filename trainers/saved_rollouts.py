"""Rollouts in a file: what was sampled and how it was graded, to train on without sampling again.

rollouts.jsonl   one line of facts: task, sampling, engine, tokenizer and weights that it was started with
                 a line that begins a step, with the digest of the weights that sampled it
                 a line a completion: tokens, log-probabilities, verdict
                 a line that ends the step; a step without one is incomplete and is written again

The old log-probs of saved rollouts are the stored ones of the sampler (or a pass of the policy, with `loop.logp_old =
"recompute"`), so that importance ratios are taken to the distribution that was sampled from. Saved rollouts are
on-policy as long as the policy has the weights that sampled them; each step records whether it has.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from harness.core import config as configs
from harness.core.errors import ConfigError, RunError, RunFolderError
from harness.core.progress import Progress
from harness.core.protocols import Objective, Task
from harness.core.types import Completion, Graded, Problem, Sampling, Tokens, Verdict
from harness.runs.jsonl import JsonlFile
from harness.trainers.config import TrainConfig
from harness.trainers.policy.model import Policy
from harness.trainers.rollouts import Rollouts

FILE = "rollouts.jsonl"
FORMAT = 1
OFF_POLICY = "the policy has moved, and these rollouts were sampled from other weights"
REMEDY = "set objective.surrogate = 'clipped', or stop at the step before"
_SAMPLED = ("problem_id", "index", "seed", "text", "finish_reason", "tokens")
"""The fields of a completion that are the same when it is sampled again; the time it took is not."""
_BEGIN, _END = b'{"begin":', b'{"end":'

# --- the source -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class SavedRollouts:
    """Gives each step the rollouts that a file has for it."""

    file: RolloutFile
    objective: Objective
    policy: Policy
    progress: Progress
    is_recomputed: bool
    """Whether the old log-probs are a pass of the policy, and not the stored ones."""
    _has_warned: bool = False

    def start(self, n_problems_drawn: int) -> None:
        """Do nothing: the file is read by step."""

    def draw(self, step: int) -> Rollouts:
        rollouts, weights = self.file.read(step)
        is_on_policy = weights == weights_digest(self.policy.tensors())
        if not is_on_policy:
            self._report_off_policy(step)
        greedy = rollouts.greedy if "greedy_reward" in self.objective.needs else ()
        return dataclasses.replace(rollouts, greedy=greedy, is_on_policy=is_on_policy)

    def _report_off_policy(self, step: int) -> None:
        """Warn once; stop where the objective takes no ratio."""
        if "on_policy" in self.objective.requires:
            raise RunError(f"step {step}: {OFF_POLICY}; this objective takes no ratio: {REMEDY}")
        if not self._has_warned:
            taken_to = "the policy before the step" if self.is_recomputed else "the sampler's stored log-probabilities"
            self.progress.warn(f"step {step}: {OFF_POLICY}. Ratios are taken to {taken_to}")
        self._has_warned = True


# --- the file ---------------------------------------------------------------------------------------------------


class RolloutWriter:
    """Appends to the file of one run folder. A step that is in the file already is not written twice."""

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        path = folder / FILE
        self._journal = JsonlFile(path)
        ends = [json.loads(line) for line in _lines(path, _END)] if path.exists() else []
        self.last_step = ends[-1]["end"] if ends else 0
        self.n_problems_drawn = sum(end["n_problems_drawn"] for end in ends)
        if not path.exists() or next(_lines(path, b"{"), None) is None:
            self._journal.append({"format": FORMAT, "facts": facts})

    def append(self, step: int, rollouts: Rollouts, weights: str) -> None:
        if step <= self.last_step:
            return
        self._journal.append({"begin": step, "weights": weights})
        chosen = {(item.problem.id, item.completion.index) for item in rollouts.chosen}
        for item in rollouts.sampled:
            is_chosen = (item.problem.id, item.completion.index) in chosen
            self._journal.append(_row(item, "chosen" if is_chosen else "left_out"))
        for item in rollouts.greedy:
            self._journal.append(_row(item, "greedy"))
        counts = {"n_problems_drawn": rollouts.n_problems_drawn, "n_rounds": rollouts.n_rounds}
        self._journal.append({"end": step, **counts})
        self.last_step = step

    def close(self) -> None:
        self._journal.close()


class RolloutFile:
    """A file of rollouts open for reading, one step at a time, in order."""

    def __init__(self, name: str) -> None:
        """Open `name`, a run folder or the file itself, and read its facts."""
        self.path = Path(name) / FILE if Path(name).is_dir() else Path(name)
        first = next(_lines(self.path, b"{"), None)
        if first is None:
            raise RunFolderError(f"{self.path} holds no rollouts")
        header = self._parsed(first)
        if header.get("format") != FORMAT:
            raise RunFolderError(f"{self.path} is not a file of rollouts that this version reads")
        self.facts: Mapping[str, Any] = header["facts"]
        self._rest = _lines(self.path, b"{")

    def about(self) -> dict[str, dict[str, str]]:
        """Return the facts for a run record. The fingerprint covers the first line alone, since the file may grow."""
        return {"rollouts": {"name": str(self.path), "fingerprint": configs.digest(self.facts)}}

    def n_steps(self) -> int:
        return max((self._parsed(line)["end"] for line in _lines(self.path, _END)), default=0)

    def read(self, step: int) -> tuple[Rollouts, str]:
        """Return the rollouts of a step and the digest of the weights that sampled them. Steps are read in order."""
        lines: list[bytes] = []
        for line in self._rest:
            if line.startswith(_BEGIN):
                lines = [line] if self._parsed(line)["begin"] == step else []
            elif lines and line.startswith(_END):
                begin, *rows, end = map(self._parsed, [*lines, line])
                return self._rollouts(rows, end), begin["weights"]
            elif lines:
                lines.append(line)
        raise RunFolderError(f"{self.path} has no step {step}")

    def _rollouts(self, rows: list[dict[str, Any]], end: Mapping[str, Any]) -> Rollouts:
        try:
            items = [(row["part"], _item(row)) for row in rows]
            return Rollouts(
                sampled=[item for part, item in items if part != "greedy"],
                chosen=[item for part, item in items if part == "chosen"],
                n_problems_drawn=end["n_problems_drawn"],
                n_rounds=end["n_rounds"],
                greedy=[item for part, item in items if part == "greedy"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RunFolderError(f"{self.path} can't be understood ({type(error).__name__}: {error})") from None

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            row: dict[str, Any] = json.loads(line)
        except ValueError:
            raise RunFolderError(f"{self.path} is not a file of JSON lines") from None
        return row


def _row(item: Graded[Any], part: str) -> dict[str, Any]:
    completion, verdict = dataclasses.asdict(item.completion), dataclasses.asdict(item.verdict)
    sampled = {key: completion[key] for key in _SAMPLED}
    return {"part": part, "task": item.problem.task, "completion": sampled, "verdict": verdict}


def _item(row: Mapping[str, Any]) -> Graded[Any]:
    given = row["completion"]
    completion = Completion(**{**given, "tokens": Tokens(**given["tokens"])})
    return Graded(Problem(completion.problem_id, row["task"], (), None), completion, Verdict(**row["verdict"]))


def _lines(path: Path, beginning: bytes) -> Iterator[bytes]:
    """Yield the complete lines that begin with `beginning`."""
    try:
        with path.open("rb") as file:
            yield from (line for line in file if line.startswith(beginning) and line.endswith(b"\n"))
    except FileNotFoundError:
        raise RunFolderError(f"there are no rollouts in {path}; harness train --rollouts-only writes them") from None
    except OSError as error:
        raise RunFolderError(f"{path} can't be read: {error.strerror}") from None


# --- what rollouts depend on ------------------------------------------------------------------------------------


def weights_digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Return a digest of named weights: of the row and column sums of their bits, taken as integers.

    It is computed on the device of the weights; a hash of all bytes would have to copy them.
    """
    whole = hashlib.sha256()
    for name, tensor in tensors:
        integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
        bits = tensor.detach().contiguous().view(-1, tensor.shape[-1] if tensor.dim() > 1 else 1).view(integers)
        sums = torch.cat([bits.sum(axis, dtype=torch.int64) for axis in (0, 1)])
        whole.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode() + sums.cpu().numpy().tobytes())
    return whole.hexdigest()[:16]


def tokenizer_digest(tokenizer: Any) -> str:
    """Return a digest of everything that decides the ids of a text."""
    probe = tokenizer("3 + 5 = 8, so x^2 \\le 64.\n\nAnswer: (8)  é", add_special_tokens=False)["input_ids"]
    facts = {
        "vocabulary": tokenizer.get_vocab(),
        "template": tokenizer.chat_template,
        "end": tokenizer.eos_token_id,
        "probe": list(probe),
    }
    return configs.digest(facts)


def rollout_facts(
    config: TrainConfig,
    task: Task[Any],
    data: Mapping[str, Any],
    tokenizer: Any,
    tensors: Iterable[tuple[str, torch.Tensor]],
) -> Any:
    """Return what rollouts depend on, for the first line of their file."""
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
    described = {
        "model": configs.to_tree(config.model),
        "engine": configs.to_tree(config.engine),
        "objective": configs.to_tree(config.objective),
        "seed": config.seed,
        "policy": "fixed" if config.rollouts.only else "in training",
    }
    return {"must_agree": must_agree, "told": described}


def open_rollouts(config: TrainConfig, objective: Objective) -> RolloutFile:
    """Open the file that a config names; raise where it can't serve this config."""
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
    if "on_policy" in objective.requires and file.facts["told"]["policy"] == "fixed" and config.loop.steps > 1:
        raise ConfigError(
            f"from step 2 on the policy has moved and the rollouts of {file.path} come from the first weights; the "
            f"objective {config.objective.id!r} takes no ratio: {REMEDY}"
        )
    return file


def refuse_other_rollouts(file: RolloutFile, facts: Mapping[str, Any], *, is_begun: bool) -> None:
    """Raise for rollouts of another model, tokenizer, task or sampling. `is_begun`: the weights have moved since."""
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
