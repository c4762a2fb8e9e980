"""Records of training steps: steps.jsonl, groups.jsonl, warnings of a collapse, trackers and the progress line.

The same for every backend, so that reports need not know which one a run was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from harness.core.progress import Progress
from harness.runs.folder import RunWriter
from harness.runs.groups import GroupKeeper
from harness.trainers.config import TrainConfig
from harness.trainers.learner import ScoredBatch
from harness.trainers.rollouts import Rollouts
from harness.trainers.step_metrics import Diagnostics
from harness.trainers.trackers import Tracker


def shown(row: Mapping[str, float]) -> dict[str, float]:
    """Return the reward of a step, and its solve rate where that is another number, for the progress line."""
    figures = {"reward": row["reward"]}
    return figures if row["solve_rate"] == row["reward"] else {**figures, "solve rate": row["solve_rate"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecorder:
    """Writes what a step measured, wherever it goes."""

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

    def keep_groups(self, step: int, rollouts: Rollouts, scored: ScoredBatch) -> None:
        """Keep groups of the steps that are due, with the rewards and advantages they were trained on."""
        if self.groups is not None and self.groups.is_due(step):
            keys = [(item.problem.id, item.completion.index) for item in rollouts.chosen]
            self.groups.keep(step, rollouts.sampled, dict(zip(keys, scored.rewards_and_advantages(), strict=True)))

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
