"""Exact metrics of a policy on a task whose every right answer is known, without sampling.

The atoms of a problem are its right texts, and one for everything else. The policy's and the reference's probability
of each comes from teacher forcing. The target is the distribution at which the loss has no gradient,

    target(y) = reference(y) exp(pull(y)) / Z

where the pull is that of the loss as it is computed, and not the beta of its config:

- FlowRL divides log-probs by the length |y| and normalises rewards within a group of G. At its fixed point
  log policy(y) = log reference(y) + |y| (beta E[r_hat | y] - log Z). The mean of r_hat over groups that hold y follows
  from the policy's own success rate: the other G - 1 completions are binomial.
- Trajectory balance has sums over tokens and the plain reward: pull = beta r.
- GRPO with a KL coefficient: pull = E[r_hat | y] / kl_beta. Its loss takes the KL of each token given the tokens
  before, so this is the optimum of whole completions that it approximates.
- Without a pull to a reference there is no such target.

"Everything else" has one length, the mean of the right texts' under the reference; for equal lengths that is exact.
KL over these atoms is at most the KL over all texts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness.core.errors import ConfigError
from harness.core.protocols import ModelSource, Task
from harness.core.types import Completion, Graded, Problem, Tokens, Verdict
from harness.models.chat import prompt_ids
from harness.models.loading import load_module, load_tokenizer, resolve
from harness.trainers.batch import collate
from harness.trainers.config import TrainConfig
from harness.trainers.policy.model import Policy

Floats = NDArray[np.float64]

TEXTS_AT_ONCE = 2048
STD_EPS = 1e-6
"""That of the losses that normalise rewards."""
LEAST_REST = 1e-12
"""Least probability of everything else: a sum of float32 probabilities may exceed 1 by rounding."""


# --- the pull of a loss -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pull:
    """How many nats a unit of (normalised) reward is worth against the reference."""

    strength: float
    per_token: bool
    """Whether it is multiplied by the length of the completion, as log Z is."""
    normalised: bool
    """Whether rewards are normalised within their group."""


def pull_of(config: TrainConfig) -> Pull | None:
    """Return the pull of an objective; None where no reference holds it, or where its target is not known here."""
    objective, options = config.objective.id, config.objective.build().config
    if objective in ("flowrl", "flowrl_release", "flowrl_recipe"):
        return Pull(options.beta, per_token=True, normalised=True)
    if objective in ("tb", "vargrad_tb") and options.prior == "reference":
        return Pull(options.beta, per_token=False, normalised=False)
    if objective == "grpo" and options.kl_beta > 0:
        return Pull(1 / options.kl_beta, per_token=False, normalised=True)
    return None


def expected_scores(success_rate: float, group: int) -> tuple[float, float]:
    """Return E[r_hat | right] and E[r_hat | wrong] for rewards of 0 and 1, normalised in groups of this size.

    The other completions of the group are right with the success rate. A group of equal rewards has r_hat = 0.
    """
    right = wrong = 0.0
    for n_right in range(1, group):
        mean = n_right / group
        std = math.sqrt(n_right * (1 - mean) ** 2 + (group - n_right) * mean**2) / math.sqrt(group - 1)
        right += _binomial(n_right - 1, group - 1, success_rate) * (1 - mean) / (std + STD_EPS)
        wrong -= _binomial(n_right, group - 1, success_rate) * mean / (std + STD_EPS)
    return right, wrong


def _binomial(k: int, n: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


def target_logp(reference: Floats, lengths: Floats, pull: Pull, success_rate: float, group: int) -> Floats:
    """Return log target of each right text and, last, of everything else; `reference` has the logs of the same."""
    right, wrong = expected_scores(success_rate, group) if pull.normalised else (1.0, 0.0)
    scores = np.append(np.full(lengths.size, right), wrong) * pull.strength
    if not pull.per_token:
        return normalised(reference + scores)
    shares = np.exp(normalised(reference[:-1]))
    sizes = np.append(lengths, shares @ lengths)

    def at(log_z: float) -> Floats:
        return reference + sizes * (scores - log_z)

    low, high = float(scores.min()) - 1.0, float(scores.max()) + 1.0  # the sum of probabilities is above and below 1
    while high - low > 1e-13 * max(1.0, abs(high)):
        middle = (low + high) / 2
        low, high = (middle, high) if _log_sum(at(middle)) > 0 else (low, middle)
    return normalised(at(high))


def normalised(logs: Floats) -> Floats:
    """Return logs of probabilities of sum 1."""
    return logs - _log_sum(logs)


def _log_sum(logs: Floats) -> float:
    largest = float(logs.max())
    return largest + math.log(float(np.exp(logs - largest).sum()))


# --- metrics ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Exact:
    """The metrics of one problem."""

    success_rate: float
    """The probability of a right text: pass@1 without sampling."""
    kl_reference: float
    """KL(policy, reference) over the atoms, in nats."""
    kl_target: float | None
    """KL(policy, target) over the atoms; None without a target."""
    coverage: float
    """The expected share of all solutions among k samples."""
    effective_solutions: float
    """exp of the entropy of the solution of a right text."""


def exact_metrics(
    policy: Floats, reference: Floats, texts: RightTexts, pull: Pull | None, *, group: int, k: int
) -> Exact:
    """Compute the metrics from the log-probs of the right texts under both models."""
    logs, logs_reference = (with_rest(side) for side in (policy, reference))
    success_rate = float(np.exp(logs[:-1]).sum())
    target = None
    if pull is not None:
        target = target_logp(logs_reference, texts.lengths, pull, min(1.0, success_rate), group)
    chances = np.bincount(texts.solutions, weights=np.exp(policy), minlength=texts.n_solutions)
    shares = chances[chances > 0] / chances.sum()
    return Exact(
        success_rate=min(1.0, success_rate),
        kl_reference=divergence(logs, logs_reference),
        kl_target=divergence(logs, target) if target is not None else None,
        coverage=float((1 - (1 - chances.clip(0, 1)) ** k).mean()),
        effective_solutions=float(np.exp(-(shares * np.log(shares)).sum())),
    )


def with_rest(logs: Floats) -> Floats:
    """Return the log-probs of the right texts and, last, that of everything else."""
    rest = max(LEAST_REST, 1 - float(np.exp(logs).sum()))
    return normalised(np.append(logs, math.log(rest)))


def divergence(first: Floats, second: Floats) -> float:
    """Return KL(first, second) of logs of probabilities, in nats."""
    return max(0.0, float((np.exp(first) * (first - second)).sum()))


# --- texts and their log-probs ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RightTexts:
    """Every right text of a problem as tokens, end-of-sequence included, and the number of its solution."""

    problem: Problem[Any]
    prompt: tuple[int, ...]
    completions: Sequence[tuple[int, ...]]
    solutions: NDArray[np.int64]

    @property
    def lengths(self) -> Floats:
        return np.array([len(ids) for ids in self.completions], dtype=np.float64)

    @property
    def n_solutions(self) -> int:
        return int(self.solutions.max()) + 1


def right_texts(task: Task[Any], problems: Sequence[Problem[Any]], tokenizer: Any) -> list[RightTexts]:
    """Enumerate the right texts of problems. Raise if the task does not know them."""
    found = []
    for problem in problems:
        texts = task.right_texts(problem)
        if not texts:
            raise ConfigError(f"the task {task.plugin_id!r} doesn't enumerate its right answers, so nothing is exact")
        numbers: dict[str, int] = {}
        solutions = [numbers.setdefault(task.canonical(text), len(numbers)) for text in texts]
        ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        completions = [(*row, tokenizer.eos_token_id) for row in ids]
        found.append(
            RightTexts(problem, tuple(prompt_ids(tokenizer, problem.messages)), completions, np.array(solutions))
        )
    return found


def text_logp(policy: Policy, texts: Sequence[RightTexts]) -> list[Floats]:
    """Return the log-prob of each right text of each problem, by teacher forcing."""
    rows = [row for one in texts for row in _rows(one)]
    found: list[float] = []
    with torch.no_grad():
        for start in range(0, len(rows), TEXTS_AT_ONCE):
            batch = collate(rows[start : start + TEXTS_AT_ONCE], policy.shape.device)
            logp = policy.forward(batch, frozenset()).logp  # (B, T), zero where masked
            found += logp.double().sum(dim=1).tolist()
    ends = np.cumsum([len(one.completions) for one in texts])
    return [np.array(part) for part in np.split(np.array(found), ends[:-1])]


def _rows(texts: RightTexts) -> Iterator[Graded[Any]]:
    for index, ids in enumerate(texts.completions):
        tokens = Tokens(len(texts.prompt), len(ids), texts.prompt, ids)
        yield Graded(texts.problem, Completion(texts.problem.id, index, 0, "", "stop", tokens), Verdict("correct", 1.0))


# --- a study's checkpoints --------------------------------------------------------------------------------------


class ExactEvaluator:
    """Evaluates checkpoints on problems whose right texts are enumerated once, against one reference."""

    def __init__(self, task: Task[Any], problems: Sequence[Problem[Any]], base: str, k: int) -> None:
        source = ModelSource(path=resolve(base))
        self.texts = right_texts(task, problems, load_tokenizer(source))
        self.reference = text_logp(Policy(load_module(source), 1.0), self.texts)
        self._k = k

    def evaluate(self, model: str, config: TrainConfig | None) -> list[Exact]:
        """Return the metrics of each problem at temperature 1; `config` is that of the training, None for the base."""
        policy = self.reference
        if config is not None:
            policy = text_logp(Policy(load_module(ModelSource(path=resolve(model))), 1.0), self.texts)
        pull = pull_of(config) if config is not None else None
        group = config.loop.samples_per_prompt if config is not None else 1
        return [
            exact_metrics(mine, theirs, texts, pull, group=group, k=self._k)
            for mine, theirs, texts in zip(policy, self.reference, self.texts, strict=True)
        ]
