"""What one step is remembered by: a flat row of numbers for steps.jsonl, the live line and the trackers."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from harness.core.tensors import Batch, LossResult, PolicyOutputs
from harness.core.types import Graded
from harness.trainers.engine_mismatch import EngineGap
from harness.trainers.gauges import quantiles, ratios_of
from harness.trainers.rollouts import Rollouts


class StepRecord:
    """Gathers a step's figures: sums with weights become means, phases become seconds."""

    def __init__(self, step: int) -> None:
        self._row: dict[str, float] = {"step": step}
        self._sums: dict[str, tuple[float, float]] = {}
        self._ratios: list[Tensor] = []
        self.gap = EngineGap(step)
        self._began_s = time.perf_counter()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began_s = time.perf_counter()
        yield
        self._row[f"{name}_s"] = self._row.get(f"{name}_s", 0.0) + time.perf_counter() - began_s

    def note(self, **values: float) -> None:
        self._row.update(values)

    def noted(self, name: str) -> float:
        return self._row[name]

    def add(self, metrics: Mapping[str, tuple[float, float]]) -> None:
        for name, (total, weight) in metrics.items():
            old_total, old_weight = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = (old_total + total, old_weight + weight)

    def compare(self, part: Batch, current: PolicyOutputs, old: PolicyOutputs, result: LossResult) -> None:
        """A micro-batch with what was before the step."""
        self._ratios.append(ratios_of(part, current, old, result))

    def note_samples(self, rollouts: Rollouts, batch: Batch) -> None:
        """All that was sampled, and how it was judged, before any shaping. Ungraded completions are in no mean."""
        usable = [item for item in rollouts.sampled if item.verdict.outcome != "ungraded"]
        lengths = [item.completion.tokens.n_completion for item in usable]
        self.note(
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
            self.note(distinct_solutions=distinct)
        if rollouts.is_on_policy is not None:
            self.note(on_policy=float(rollouts.is_on_policy))
        if rollouts.is_on_policy is False:
            self.gap.leave_out()
        if batch.logp_behaviour is not None:
            # Minus the mean log-probability of what was sampled is an unbiased estimate of the entropy.
            self.note(entropy=-float(batch.logp_behaviour.sum()) / batch.totals.n_tokens)

    def row(self) -> dict[str, float]:
        means = {name: total / weight for name, (total, weight) in self._sums.items() if weight}
        wall_s = time.perf_counter() - self._began_s
        n_tokens = self._row.get("n_tokens", 0)
        speeds = {"tokens_per_s": n_tokens / wall_s}
        if "sample_s" in self._row:
            speeds["sampled_tokens_per_s"] = n_tokens / max(self._row["sample_s"], 1e-9)
        gauged = {**self.gap.figures(), **quantiles(self._ratios)}
        return {**self._row, **means, **gauged, **speeds, "wall_s": wall_s}


def _distinct_solutions(items: Sequence[Graded[Any]]) -> float | None:
    """Different right answers of a problem that was solved, on average; None where nothing was, or no grader tells."""
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
