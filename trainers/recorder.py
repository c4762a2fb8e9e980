"""Records of training steps: steps.jsonl, warnings of a collapse, trackers and the progress line.

The same for every backend, so that reports need not know which one a run was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from harness.core.progress import Progress
from harness.runs.folder import RunWriter
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

    def resume(self, step: int) -> None:
        """Continue after `step`: records of later steps are dropped, because those are done again."""
        kept = self.store.rewind_steps(step)
        self.store.replace_warnings(asdict(warning) for row in kept for warning in self.diagnostics.update(row))
        for tracker in self.trackers:
            tracker.resume(self.store.record, step)

    def record(self, row: dict[str, float]) -> None:
        self.store.append_step(row)
        for warning in self.diagnostics.update(row):
            self.store.append_warning(asdict(warning))
            self.progress.warn(f"step {warning.step}: {warning.text}")
        for tracker in self.trackers:
            tracker.log(row)
        self.progress.advance(figures=shown(row))
