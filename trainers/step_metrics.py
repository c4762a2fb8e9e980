"""The metrics of one training step: a flat row of numbers for steps.jsonl, the progress line and the trackers."""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from harness.core.tensors import Batch, LossResult, PolicyOutputs
from harness.core.types import Graded
from harness.trainers.engine_mismatch import EngineMismatch
from harness.trainers.rollouts import Rollouts

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

    def row(self) -> dict[str, float]:
        means = {name: total / weight for name, (total, weight) in self._sums.items() if weight}
        wall_s = time.perf_counter() - self._began_s
        n_tokens = self._row.get("n_tokens", 0)
        speeds = {"tokens_per_s": n_tokens / wall_s}
        if "sample_s" in self._row:
            speeds["sampled_tokens_per_s"] = n_tokens / max(self._row["sample_s"], 1e-9)
        figures = {**self.mismatch.figures(), **ratio_quantiles(self._ratios)}
        return {**self._row, **means, **figures, **speeds, "wall_s": wall_s}


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
