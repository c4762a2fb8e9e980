"""The live table of a study on stderr: the state of each arm, and the remaining time from what has ended so far."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from harness.core.progress import UNKNOWN_COLUMNS, Progress, duration
from harness.runs.jsonl import JsonlFile, read_lines
from harness.study.jobs import Outcome, TrainJob
from harness.study.runner import Progression, Task

JOBS = "jobs.jsonl"
CONTROL_EVALUATIONS = 4
"""A control job takes about as long: the model and three controls, and the search for prompts and temperatures."""
DRAW_EVERY_S, LINE_EVERY_S = 1.0, 15.0
LONGEST_ROW = 16_384
"""Bytes of a step record, at most."""


@dataclass(slots=True)
class Rates:
    """Seconds for a training step of each arm and for an evaluation, from the jobs that have ended."""

    seconds: dict[str, float] = field(default_factory=dict)
    units: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Rates:
        """Return the rates of the jobs of earlier sessions of a study."""
        rates = cls()
        for row in read_lines(path):
            if row.get("error") is None:
                rates.add(row["kind"], row["arm"], row["units"], row["seconds"])
        return rates

    def add(self, kind: str, arm: str, units: int, seconds: float) -> None:
        for key in (kind, f"{kind} {arm}"):
            self.seconds[key] = self.seconds.get(key, 0.0) + seconds
            self.units[key] = self.units.get(key, 0) + units

    def each(self, task: Task) -> float | None:
        """Return the seconds of one unit of a task: of its arm, else of all arms; None if none has ended."""
        keys = (f"{task.kind} {task.arm}", task.kind)
        known = next((key for key in keys if self.units.get(key, 0) > 0), None)
        if known is None and task.kind == "control" and "eval" in self.units:
            return CONTROL_EVALUATIONS * self.seconds["eval"] / self.units["eval"]
        return self.seconds[known] / self.units[known] if known is not None else None


class Board:
    """Shows and records the state of a study's tasks."""

    def __init__(self, tasks: Sequence[Task], n_workers: int, folder: Path, progress: Progress, *, n_done: int) -> None:
        self._tasks, self._n_workers, self._progress, self._n_done = tasks, n_workers, progress, n_done
        self._log = JsonlFile(folder / JOBS)
        self._rates = Rates.read(folder / JOBS)
        self._begun: dict[str, tuple[float, int]] = {}
        """When a running training began in this session, and the step it began with."""
        self._stream: TextIO = sys.stderr
        self._is_live = self._stream.isatty() and not progress.is_quiet
        self._n_lines, self._shown_s = 0, time.monotonic()

    def ended(self, task: Task, outcome: Outcome) -> None:
        """Record how a task ended. A failure is printed at once."""
        row = {"label": task.label, "kind": task.kind, "arm": task.arm, "units": task.units}
        self._log.append({**row, "seconds": round(outcome.seconds, 3), "error": outcome.error})
        if outcome.error is None:
            self._rates.add(task.kind, task.arm, task.units, outcome.seconds)
        else:
            self._erase()
            self._progress.warn(f"{task.label} FAILED: {outcome.error}")
        for folder, reason in outcome.ungraded.items():
            self._erase()
            self._progress.warn(f"{folder}: {reason}")

    def say(self, text: str) -> None:
        self._erase()
        self._progress.say(text)

    def watch(self, state: Progression) -> None:
        """Draw the table on a terminal; elsewhere print a line now and then."""
        for label, task in state.running.items():
            if label not in self._begun:
                self._begun[label] = (time.monotonic(), _step_of(task))
        every_s = DRAW_EVERY_S if self._is_live else LINE_EVERY_S
        if self._progress.is_quiet or time.monotonic() - self._shown_s < every_s:
            return
        self._shown_s = time.monotonic()
        if self._is_live:
            self._erase()
            lines = [self._summary(state), *self._rows(state)]
            self._stream.write("".join(line[: UNKNOWN_COLUMNS - 1] + "\n" for line in lines))
            self._stream.flush()
            self._n_lines = len(lines)
        else:
            self._progress.say(self._summary(state))

    def close(self) -> None:
        self._erase()
        self._log.close()

    def _erase(self) -> None:
        if self._n_lines > 0:
            self._stream.write(f"\x1b[{self._n_lines}A\x1b[J")
            self._n_lines = 0

    # --- text

    def _summary(self, state: Progression) -> str:
        failed = sum(outcome.error is not None for outcome in state.ended.values()) + len(state.skipped)
        done = self._n_done + len(state.ended) + len(state.skipped) - failed
        left_s = self.remaining_s(state)
        left = f", {duration(left_s)} left" if left_s is not None else ""
        failures = f", {failed} FAILED" if failed else ""
        running = ", ".join(map(self._running, state.running.values()))
        return f"{done} of {self._n_done + len(self._tasks)} jobs done{failures}{left}; running: {running}"

    def _rows(self, state: Progression) -> list[str]:
        """Return a line for each arm: its trainings and evaluations that are done, of those of this session."""
        arms = list(dict.fromkeys(task.arm for task in self._tasks))
        width = max(map(len, arms))
        return [f"  {arm:{width}}  {self._of_arm(state, arm)}" for arm in arms]

    def _of_arm(self, state: Progression, arm: str) -> str:
        texts = []
        for kind, name in (("train", "trained"), ("eval", "evaluated"), ("control", "controls")):
            labels = [task.label for task in self._tasks if task.arm == arm and task.kind == kind]
            done = sum(label in state.ended and state.ended[label].error is None for label in labels)
            failed = sum(label in state.skipped or _has_failed(state, label) for label in labels)
            if labels:
                texts.append(f"{name} {done}/{len(labels)}" + (f" ({failed} FAILED)" if failed else ""))
        running = [self._running(task) for task in state.running.values() if task.arm == arm]
        return "  ".join([*texts, *running])

    def _running(self, task: Task) -> str:
        row = _newest_step(task)
        if row is None or not isinstance(task.job, TrainJob):
            return task.label
        return f"{task.label} step {row['step']}/{task.job.stops[-1]} reward {row['reward']:.2f}"

    # --- time

    def remaining_s(self, state: Progression) -> float | None:
        """Estimate the time until everything has ended; None while a rate is unknown."""
        total_s = 0.0
        for task in (*state.waiting.values(), *state.running.values()):
            each_s = self._rates.each(task)
            each_s = each_s if each_s is not None else self._rate_now(state, task)
            if each_s is None:
                return None
            total_s += each_s * (task.units - self._n_made(task))
        return total_s / self._n_workers

    def _rate_now(self, state: Progression, task: Task) -> float | None:
        """Return the seconds of a step of the trainings that run now."""
        made = {label: self._n_made(other) for label, other in state.running.items()}
        seconds = sum(time.monotonic() - self._begun[label][0] for label, n in made.items() if n > 0)
        return seconds / sum(made.values()) if task.kind == "train" and any(made.values()) else None

    def _n_made(self, task: Task) -> int:
        """Return the steps that a running training has made in this session."""
        if task.label not in self._begun:
            return 0
        return min(task.units, max(0, _step_of(task) - self._begun[task.label][1]))


def _step_of(task: Task) -> int:
    row = _newest_step(task)
    return int(row["step"]) if row is not None else 0


def _newest_step(task: Task) -> Mapping[str, Any] | None:
    """Return the newest step record of a training, from the end of its file: the table is drawn every second."""
    if not isinstance(task.job, TrainJob):
        return None
    try:
        with (task.job.folder / "steps.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST_ROW))
            *_, line = file.read().rpartition(b"\n")[0].split(b"\n")
        row = json.loads(line)
        return row if "step" in row and "reward" in row else None
    except (OSError, ValueError):  # no step yet, or the file is being replaced
        return None


def _has_failed(state: Progression, label: str) -> bool:
    return label in state.ended and state.ended[label].error is not None
