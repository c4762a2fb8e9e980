"""What one step is remembered by: a flat row of numbers for steps.jsonl, the live line and the trackers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from harness.core.protocols import Batch
from harness.core.types import Graded


class StepRecord:
    """Gathers a step's figures: sums with weights become means, phases become seconds."""

    def __init__(self, step: int) -> None:
        self._row: dict[str, float] = {"step": step}
        self._sums: dict[str, tuple[float, float]] = {}
        self._began_s = time.perf_counter()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began_s = time.perf_counter()
        yield
        self._row[f"{name}_s"] = self._row.get(f"{name}_s", 0.0) + time.perf_counter() - began_s

    def note(self, **values: float) -> None:
        self._row.update(values)

    def add(self, metrics: Mapping[str, tuple[float, float]]) -> None:
        for name, (total, weight) in metrics.items():
            old_total, old_weight = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = (old_total + total, old_weight + weight)

    def note_samples(self, graded: Sequence[Graded[Any]], batch: Batch) -> None:
        """What was sampled, and how it was judged. `n_ungraded` completions are in no mean."""
        n_ungraded = sum(item.verdict.outcome == "ungraded" for item in graded)
        usable = [item for item in graded if item.verdict.outcome != "ungraded"]
        self.note(
            reward=float(batch.rewards.mean()),
            solve_rate=sum(item.verdict.outcome == "correct" for item in usable) / len(usable),
            groups_with_signal=_share_of_mixed_groups(batch),
            mean_tokens=float(batch.completion_lengths.float().mean()),
            truncated=sum(item.completion.finish_reason == "length" for item in usable) / len(usable),
            n_tokens=batch.totals.n_tokens,
            n_completions=len(graded),
            n_ungraded=n_ungraded,
        )
        if batch.logp_behaviour is not None:
            # Minus the mean log-probability of what was sampled is an unbiased estimate of the entropy.
            self.note(entropy=-float(batch.logp_behaviour.sum()) / batch.totals.n_tokens)

    def row(self) -> dict[str, float]:
        means = {name: total / weight for name, (total, weight) in self._sums.items() if weight}
        return {**self._row, **means, "wall_s": time.perf_counter() - self._began_s}


def _share_of_mixed_groups(batch: Batch) -> float:
    groups = [batch.rewards[batch.group_ids == group] for group in torch.unique(batch.group_ids)]
    return sum(bool((rewards != rewards[0]).any()) for rewards in groups) / len(groups)
