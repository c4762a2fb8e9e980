"""The metrics of a training step, the warnings that follow from them, and the records of both.

A step's metrics are a flat row of numbers for steps.jsonl, the progress line and the trackers. A warning fires where
training looks like it is collapsing: once, and again only after its condition has cleared. Warnings follow from the
rows alone, so a resumed run gives the same ones as an unbroken one.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from harness.core.progress import Progress
from harness.core.tensors import Batch, LossResult, PolicyOutputs
from harness.core.types import Graded
from harness.runs.folder import RunWriter
from harness.runs.groups import GroupKeeper
from harness.trainers.config import TrainConfig, WarningsConfig
from harness.trainers.rollouts import Rollouts
from harness.trainers.trackers import Tracker

QUANTILES = {"p01": 0.01, "p50": 0.5, "p99": 0.99, "max": 1.0}


class StepMetrics:
    """Collects the metrics of a step. Weighted sums become means, phases become seconds. It never stops a run."""

    def __init__(self, step: int) -> None:
        self._row: dict[str, float] = {"step": step}
        self._sums: dict[str, tuple[float, float]] = {}
        self._ratios: list[Tensor] = []
        self.mismatch = EngineMismatch()
        self._began_s = time.perf_counter()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began_s = time.perf_counter()
        yield
        self._row[f"{name}_s"] = self._row.get(f"{name}_s", 0.0) + time.perf_counter() - began_s

    def set(self, **values: float) -> None:
        self._row.update(values)

    def get(self, name: str) -> float:
        return self._row[name]

    def add(self, sums: Mapping[str, tuple[float, float]]) -> None:
        """Add (sum, weight) pairs; the row has the sum over all weights."""
        for name, (total, weight) in sums.items():
            former_total, former_weight = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = (former_total + total, former_weight + weight)

    def add_ratios(self, ratios: Tensor) -> None:
        """Add the importance ratios of a micro-batch, for their quantiles. (N,)"""
        self._ratios.append(ratios)

    def add_rollouts(self, rollouts: Rollouts, batch: Batch) -> None:
        """Add everything that was sampled, with the rewards before shaping. Ungraded completions are in no mean."""
        usable = [item for item in rollouts.sampled if item.verdict.outcome != "ungraded"]
        lengths = [item.completion.tokens.n_completion for item in usable]
        self.set(
            reward=statistics.fmean(item.verdict.reward for item in usable if item.verdict.reward is not None),
            solve_rate=sum(item.verdict.outcome == "correct" for item in usable) / len(usable),
            groups_with_signal=_share_of_mixed_groups(usable),
            mean_tokens=statistics.fmean(lengths),
            truncated=sum(item.completion.finish_reason == "length" for item in usable) / len(usable),
            n_tokens=sum(lengths) + sum(item.completion.tokens.n_completion for item in rollouts.greedy),
            n_completions=len(rollouts.sampled) + len(rollouts.greedy),
            n_ungraded=len(rollouts.sampled) - len(usable),
            n_completions_left_out=len(usable) - len(rollouts.chosen),
            sampling_rounds=rollouts.n_rounds,
        )
        if (distinct := _distinct_solutions(usable)) is not None:
            self.set(distinct_solutions=distinct)
        if rollouts.weights_version is not None:
            self.set(weights_version=rollouts.weights_version)
        if rollouts.is_on_policy is not None:
            self.set(on_policy=float(rollouts.is_on_policy))
        if rollouts.is_on_policy is False:  # the policy that is trained is not the one that sampled
            self.mismatch.close()
        if batch.logp_behaviour is not None:
            # Minus the mean log-probability of the sampled tokens is an unbiased estimate of the entropy.
            self.set(entropy=-float(batch.logp_behaviour.sum()) / batch.totals.n_tokens)

    def to_cpu(self) -> StepMetrics:
        """Move the tensors to the processor, as a process sends them to another."""
        self._ratios = [ratios.cpu() for ratios in self._ratios]
        return self

    def merge(self, others: Iterable[StepMetrics]) -> None:
        """Add the sums of other processes, which trained on other completions of the same step."""
        for other in others:
            self.add(other._sums)
            self._ratios += other._ratios
            self.mismatch.merge(other.mismatch)

    def row(self) -> dict[str, float]:
        means = {name: total / weight for name, (total, weight) in self._sums.items() if weight}
        wall_s = time.perf_counter() - self._began_s
        n_tokens = self._row.get("n_tokens", 0)
        speeds = {"tokens_per_s": n_tokens / wall_s}
        if "sample_s" in self._row:
            speeds["sampled_tokens_per_s"] = n_tokens / max(self._row["sample_s"], 1e-9)
        figures = {**self.mismatch.figures(), **ratio_quantiles(self._ratios)}
        return {**self._row, **means, **figures, **speeds, "wall_s": wall_s}


class EngineMismatch:
    """The mismatch of one step, summed over passes of the policy that run before any of the step's updates.

    Those are the pass for the old log-probs where there is one, else the passes of the first minibatch.
    """

    def __init__(self) -> None:
        self._n_tokens = 0
        self._total = self._largest = self._kl = 0.0
        self._is_closed = False

    def add(self, part: Batch, logp: Tensor) -> None:
        """Add some of the step's completions: the policy's log-probs against the engine's. (B, T)"""
        if self._is_closed or part.logp_behaviour is None:
            return
        difference = (logp.detach() - part.logp_behaviour)[part.completion_mask].float().cpu()  # (N,)
        if len(difference) == 0:
            return
        self._n_tokens += len(difference)
        self._total += float(difference.abs().sum())
        self._largest = max(self._largest, float(difference.abs().max()))
        self._kl += float((difference.exp() - 1 - difference).sum())  # k3 of KL(engine || policy)

    def merge(self, other: EngineMismatch) -> None:
        """Add the passes of another process."""
        self._n_tokens += other._n_tokens
        self._total += other._total
        self._largest = max(self._largest, other._largest)
        self._kl += other._kl

    def close(self) -> None:
        """Ignore every later pass: the policy changes, or it is not the one that sampled."""
        self._is_closed = True

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def mean(self) -> float:
        return self._total / self._n_tokens if self._n_tokens > 0 else 0.0

    @property
    def largest(self) -> float:
        return self._largest

    def figures(self) -> dict[str, float]:
        """Return the metrics of the step; empty where nothing was compared."""
        if self._n_tokens == 0:
            return {}
        return {"logp_gap": self.mean, "logp_gap_max": self._largest, "logp_gap_kl": self._kl / self._n_tokens}


def ratios_of(part: Batch, current: PolicyOutputs, old: PolicyOutputs, result: LossResult) -> Tensor:
    """Return the importance ratios that the loss took, before any clipping; else those of the tokens. (N,)"""
    if result.ratios is not None:
        return result.ratios.detach().float().cpu()
    return (current.logp.detach() - old.logp)[part.completion_mask].exp().float().cpu()


def ratio_quantiles(ratios: Sequence[Tensor]) -> dict[str, float]:
    """Return the smallest ratio with at least that share of all at or below it, for each of `QUANTILES`."""
    if not ratios:
        return {}
    ordered = torch.cat(list(ratios)).clamp(max=torch.finfo(torch.float32).max).sort().values
    places = {name: math.ceil(share * len(ordered)) - 1 for name, share in QUANTILES.items()}
    return {f"ratio_{name}": float(ordered[place]) for name, place in places.items()}


def _distinct_solutions(items: Sequence[Graded[Any]]) -> float | None:
    """Return the mean number of different right answers of a solved problem.

    None where no problem was solved, or where the grader does not identify solutions.
    """
    solutions: dict[str, set[Any]] = {}
    for item in items:
        if item.verdict.outcome == "correct" and "solution" in item.verdict.details:
            solutions.setdefault(item.problem.id, set()).add(item.verdict.details["solution"])
    return statistics.fmean(map(len, solutions.values())) if solutions else None


def _share_of_mixed_groups(items: Sequence[Graded[Any]]) -> float:
    rewards: dict[str, set[float | None]] = {}
    for item in items:
        rewards.setdefault(item.problem.id, set()).add(item.verdict.reward)
    return sum(len(different) > 1 for different in rewards.values()) / len(rewards)


# --- warnings ----------------------------------------------------------------------------------------------------

StepRow = Mapping[str, float]

FALLEN_ENTROPY = (
    "the {name} has fallen from {before:.3g} in the first {window} steps to {now:.3g}: the policy gives the same "
    "answers over and over, and soon there is nothing left to learn from. A lower learning rate, loop.entropy_bonus or "
    "a KL to the reference (kl.place) keeps it up"
)
FALLEN_DISTINCT = (
    "the {name} of a solved problem have fallen from {before:.3g} in the first {window} steps to {now:.3g}: the policy "
    "has settled on one way to solve each. A KL to the reference (kl.place), loop.entropy_bonus or an objective that "
    "matches a distribution (flowrl, vargrad_tb) keeps more of them"
)
EQUAL_GROUPS = (
    "in the last {window} steps only {now:.1%} of the groups had different rewards: the others teach nothing. The "
    "problems are too easy or too hard; take others, more loop.samples_per_prompt, or dynamic_sampling"
)
TRUNCATED = (
    "in the last {window} steps {now:.0%} of the completions were cut off at the token limit: their answers are lost. "
    "Raise sampling.max_tokens, or set overlong.buffer_tokens or overlong.mask_truncated"
)
CLIPPED = (
    "in the last {window} steps {now:.0%} of the importance weights were at their bound: a step's updates move the "
    "policy further than its samples can support. Lower optimizer.lr, loop.minibatches_per_step or loop.epochs"
)
MAXIMISES_REWARD = (
    "in the last {window} steps the reward of a completion counted {nats:.0f} nats (beta x its tokens) against its "
    "probability under the reference. Above about 50 the reference hardly matters, and the objective is a reward "
    "maximiser with length normalisation; lower objective.beta for a distribution that keeps the reference's variety"
)
ENGINE_CLIPPED = (
    "in the last {window} steps {now:.0%} of the weights between engine and trainer were at engine_correction.cap: the "
    "two disagree on what was sampled; look at logp_gap in steps.jsonl"
)


@dataclass(frozen=True, slots=True)
class TrainingWarning:
    """One warning, with the first step at which its condition held."""

    step: int
    name: str
    text: str


@dataclass(slots=True)
class Diagnostics:
    """Checks the metrics of the steps, given in order, against the thresholds of the config."""

    config: WarningsConfig
    _first: list[StepRow] = field(default_factory=list)
    _last: deque[StepRow] = field(default_factory=deque)
    _active: set[str] = field(default_factory=set)

    def update(self, row: StepRow) -> list[TrainingWarning]:
        """Add the metrics of a step and return the warnings that start with it."""
        window = self.config.window_steps
        if len(self._first) < window:
            self._first.append(row)
        self._last.append(row)
        if len(self._last) > window:
            self._last.popleft()
        if len(self._last) < window:
            return []
        found, step = dict(self._conditions()), int(row["step"])
        new = [TrainingWarning(step, name, text) for name, text in found.items() if name not in self._active]
        self._active = set(found)
        return new

    def _conditions(self) -> Iterable[tuple[str, str]]:
        """Yield the name and text of every condition that holds now."""
        config = self.config
        yield from self._fallen("entropy", "entropy", config.entropy_share, FALLEN_ENTROPY)
        yield from self._fallen("distinct_solutions", "distinct answers", config.distinct_share, FALLEN_DISTINCT)
        yield from self._level("groups_with_signal", lambda share: share <= config.equal_groups, EQUAL_GROUPS)
        yield from self._level("truncated", lambda share: share >= config.truncated, TRUNCATED)
        yield from self._level("clip_fraction", lambda share: share >= config.clipped, CLIPPED)
        temperature = _mean(self._last, "effective_temperature")
        if temperature is not None and config.reward_nats > 0 and temperature <= 1 / config.reward_nats:
            text = MAXIMISES_REWARD.format(nats=1 / temperature, window=config.window_steps)
            yield "effective_temperature", text
        yield from self._level("engine_weight_at_cap", lambda share: share >= config.clipped, ENGINE_CLIPPED)

    def _fallen(self, key: str, name: str, share: float, text: str) -> Iterable[tuple[str, str]]:
        before, now = _mean(self._first, key), _mean(self._last, key)
        if share > 0 and before is not None and now is not None and now < share * before:
            yield key, text.format(name=name, before=before, now=now, window=self.config.window_steps)

    def _level(self, key: str, is_bad: Callable[[float], bool], text: str) -> Iterable[tuple[str, str]]:
        now = _mean(self._last, key)
        if now is not None and is_bad(now):
            yield key, text.format(now=now, window=self.config.window_steps)


def _mean(rows: Iterable[StepRow], key: str) -> float | None:
    """Return the mean of a metric, or None where no step has it: not every grader or objective gives every metric."""
    values = [row[key] for row in rows if key in row]
    return math.fsum(values) / len(values) if values else None


# --- records ----------------------------------------------------------------------------------------------------


def shown(row: Mapping[str, float]) -> dict[str, float]:
    """Return the reward of a step, and its solve rate where that is another number, for the progress line."""
    figures = {"reward": row["reward"]}
    return figures if row["solve_rate"] == row["reward"] else {**figures, "solve rate": row["solve_rate"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecorder:
    """Writes what a step measured, wherever it goes.

    The same for every backend, so that reports need not know which one a run was trained with.
    """

    store: RunWriter
    trackers: Sequence[Tracker]
    progress: Progress
    diagnostics: Diagnostics
    groups: GroupKeeper | None = None
    """Keeps a few groups of some steps, where not all are saved."""

    def resume(self, step: int) -> None:
        """Continue after `step`: records and groups of later steps are dropped, because those are done again."""
        kept = self.store.rewind_steps(step)
        n_bytes = self.store.rewind_groups(step)
        if self.groups is not None:
            self.groups.n_bytes = n_bytes
        self.store.replace_warnings(asdict(warning) for row in kept for warning in self.diagnostics.update(row))
        for tracker in self.trackers:
            tracker.resume(self.store.record, step)

    def keep_groups(self, step: int, rollouts: Rollouts, trained: Callable[[], Iterable[tuple[float, float]]]) -> None:
        """Keep groups of the steps that are due. `trained` returns the reward and advantage of each chosen one."""
        if self.groups is not None and self.groups.is_due(step):
            keys = [(item.problem.id, item.completion.index) for item in rollouts.chosen]
            self.groups.keep(step, rollouts.sampled, dict(zip(keys, trained(), strict=True)))

    def record(self, row: dict[str, float]) -> None:
        self.store.append_step(row)
        for warning in self.diagnostics.update(row):
            self.store.append_warning(asdict(warning))
            self.progress.warn(f"step {warning.step}: {warning.text}")
        for tracker in self.trackers:
            tracker.log(row)
        self.progress.advance(figures=shown(row))


def group_keeper(config: TrainConfig, store: RunWriter, tokenizer: Any) -> GroupKeeper | None:
    """Return what keeps groups as the config has it, or None where it keeps none or saves all."""
    rollouts, n_steps = config.rollouts, config.loop.steps
    if not rollouts.keeps_groups:
        return None
    return GroupKeeper(
        store=store,
        decode=tokenizer.decode,
        n_steps=n_steps,
        every_steps=rollouts.groups_interval(n_steps),
        per_step=rollouts.groups_per_step,
        most_bytes=round(rollouts.groups_mb * 1e6),
    )
