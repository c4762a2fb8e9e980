"""The price of a study before it runs: cells, completions, tokens, hours, memory, disk."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.core.config import Tree, merge, parse
from harness.core.errors import ConfigError, UsageError
from harness.core.progress import Progress
from harness.core.types import Sampling
from harness.evaluation.config import EvalConfig
from harness.evaluation.select import problems_of
from harness.study.cells import TrainCell
from harness.study.jobs import EvalJob, run_job
from harness.study.live import JOBS, Rates
from harness.study.resources import first_trainings
from harness.study.runner import Task
from harness.study.study import Study, Workers
from harness.trainers.config import TrainConfig
from harness.trainers.dry_run import DryRun, dimensions_of
from harness.trainers.train import train

PROBE_PARAMETERS = 50_000_000
"""Up to this size a dry run trains and evaluates for a moment, to measure how long the study takes."""
PROBE_STEPS, PROBE_PROBLEMS = 3, 16
FLOPS_OF_A_CARD = 2e14
"""Of a current data-centre card, on average over sampling and training: about a fifth of its peak in bfloat16."""


@dataclass(frozen=True, slots=True)
class Price:
    """The cells of a study, and what those cost that are left."""

    trainings: int
    evaluations: int
    trials: int
    """Settings that are tried before: a training and its evaluations each, counted below and not in the two above."""
    controls: int
    """Sets of controls, of one checkpoint each; they are not among the completions."""
    jobs_done: int
    train_completions: int
    eval_completions: int | None
    """None where a task's problems can't be counted on this machine."""
    tokens: int | None
    """Of all completions, at most."""
    hours: float | None
    hours_text: str
    """Where the hours come from."""
    workers: Workers
    disk_bytes: int

    def rows(self) -> dict[str, str]:
        def number(value: float | None) -> str:
            return f"{value:,.0f}" if value is not None else "not known"

        cells = self.trainings + self.evaluations
        controls = f", and the controls of {self.controls:,} checkpoints" if self.controls else ""
        tuning = {"settings tried in tuning": f"{self.trials:,}"} if self.trials else {}
        return {
            "cells": f"{cells:,}: {self.trainings:,} trainings, {self.evaluations:,} evaluations{controls}",
            **tuning,
            "jobs that are done": number(self.jobs_done),
            "completions in training": number(self.train_completions),
            "completions in evaluations": number(self.eval_completions),
            "tokens of completions, at most": number(self.tokens),
            "hours left": (f"{self.hours:.2g}, " if self.hours is not None else "") + self.hours_text,
            "processes": f"{self.workers.count}, with {self.workers.threads} threads each",
            "memory of a process, at most": f"{self.workers.bytes_each / 1e9:.3g} GB",
            "memory of the device": f"{self.workers.bytes_available / 1e9:.3g} GB"
            + (", TOO LITTLE" if self.workers.bytes_each > self.workers.bytes_available else ""),
            "checkpoints on disk, at most": f"{self.disk_bytes / 1e9:.3g} GB",
        }


def price(study: Study, arms: Mapping[str, DryRun], used: Workers, tasks: Sequence[Task], n_done: int) -> Price:
    """Return what the study costs. Tokens and completions are those of all cells, the hours those of what is left."""
    trained, tokens = _trained(study, arms)
    counts = _evaluated(study)
    is_known = all(found is not None for found in counts)
    known = [found for found in counts if found is not None]
    hours, text = _hours(study, arms, used, tasks)
    return Price(
        trainings=len(study.cells.trainings),
        evaluations=len(study.cells.evaluations),
        trials=len(study.trials),
        controls=len(study.cells.controls),
        jobs_done=n_done,
        train_completions=trained,
        eval_completions=sum(n for n, _ in known) if is_known else None,
        tokens=tokens + sum(n * limit for n, limit in known) if is_known else None,
        hours=hours,
        hours_text=text,
        workers=used,
        disk_bytes=sum(_checkpoint_bytes(arms[cell.arm]) * _n_kept(cell) for cell in study.cells.trainings),
    )


def _trained(study: Study, arms: Mapping[str, DryRun]) -> tuple[int, int]:
    """Return the completions of all trainings and the most tokens that they can have."""
    first = {cell.arm: cell for cell in first_trainings(study)}
    a_step = {arm: arms[arm].counts["completions of the run"] // cell.n_steps for arm, cell in first.items()}
    limits = {arm: _max_tokens(parse(TrainConfig, cell.tree)) for arm, cell in first.items()}
    every = [*study.cells.trainings, *(trial.training for trial in study.trials)]
    made = [(a_step[cell.arm] * cell.n_steps, limits[cell.arm]) for cell in every]
    return sum(n for n, _ in made), sum(n * limit for n, limit in made)


def _evaluated(study: Study) -> list[tuple[int, int] | None]:
    """Return the completions of each evaluation and the longest one's tokens; None if problems can't be counted."""
    of_trials = [trial.evaluations for trial in study.trials]
    found: list[tuple[int, int] | None] = []
    for groups in (study.cells.groups, of_trials):
        sizes = {e.cell.task: _completions(e.tree) for e in (groups[0].evaluations if groups else ())}
        found += [sizes[e.cell.task] for group in groups for e in group.evaluations]
    return found


def _max_tokens(config: TrainConfig) -> int:
    sampling: Sampling = config.task.build().sampling
    longest: int = config.sampling.over(sampling).max_tokens
    return longest


def _completions(tree: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the completions of an evaluation and the longest one's tokens; None if problems can't be counted."""
    config = parse(EvalConfig, tree)
    (chosen,) = config.tasks
    task = chosen.build()
    plan = config.plan(chosen.id, task)
    try:
        n_problems = len(problems_of(task, config.split, config.problem_seed, config.limit))
    except UsageError:  # its data are not on this machine; the card may have the number
        stated = re.match(r"[\d,]+", str(task.card.sizes.get(config.split, "")))
        if stated is None and config.limit is None:
            return None
        sizes = [config.limit] if config.limit is not None else []
        n_problems = min([*sizes, *([int(stated[0].replace(",", ""))] if stated is not None else [])])
    longest: int = plan.sampling.max_tokens
    return n_problems * plan.n, longest


def _checkpoint_bytes(estimate: DryRun) -> int:
    """Return the bytes of a checkpoint: the weights and the optimiser's states."""
    return sum(estimate.memory.get(name, 0) for name in ("weights", "optimiser states"))


def _n_kept(cell: TrainCell) -> int:
    every, keep = int(cell.tree["checkpoint"]["every_steps"]), int(cell.tree["checkpoint"]["keep"])
    return min(keep, math.ceil(cell.n_steps / every) + len(cell.wanted))


# --- time -------------------------------------------------------------------------------------------------------


def _hours(study: Study, arms: Mapping[str, DryRun], used: Workers, tasks: Sequence[Task]) -> tuple[float | None, str]:
    if not tasks:
        return 0.0, "as all cells are done"
    rates = Rates.read(study.folder / JOBS)
    source = "from the jobs that are done"
    if not {"train", "eval"} <= set(rates.units):
        n_parameters = _n_parameters(study)
        if n_parameters is None or n_parameters > PROBE_PARAMETERS:
            return _card_hours(study, arms, n_parameters)
        rates = _probe(study)
        source = f"from {PROBE_STEPS - 1} steps of {study.arms[0].name} and a small evaluation on this machine now"
    each = [(rates.each(task), task.units) for task in tasks]
    seconds = sum(s * units for s, units in each if s is not None)
    return seconds / 3600 / used.count, source


def _n_parameters(study: Study) -> int | None:
    config: TrainConfig = parse(TrainConfig, study.cells.trainings[0].tree)
    try:
        return dimensions_of(replace(config.model.source(0), dtype="float32")).n_parameters
    except (UsageError, OSError, ValueError, AttributeError):
        return None


def _card_hours(study: Study, arms: Mapping[str, DryRun], n_parameters: int | None) -> tuple[None, str]:
    """Return a rough number of card hours: 14 operations per parameter and token of training, 2 of evaluation.

    Sampling takes 2, the old and the reference log-probs 2 each, and the update 8 with gradient checkpointing.
    """
    if n_parameters is None:
        return None, "not known: the base is not on this machine"
    _, trained = _trained(study, arms)
    generated = sum(known[0] * known[1] for known in _evaluated(study) if known is not None)
    hours = n_parameters * (14 * trained + 2 * generated) / FLOPS_OF_A_CARD / 3600
    return None, (
        f"not measured: {n_parameters / 1e9:.3g}B parameters are too many to try here. At most {hours:,.0f} hours of "
        f"one card, if all completions have their most tokens and a card makes {FLOPS_OF_A_CARD / 1e12:.0f} TFLOP/s"
    )


def _probe(study: Study) -> Rates:
    """Train a few steps of the first arm and evaluate a few problems, in a folder that is removed."""
    cell, first = study.cells.trainings[0], study.cells.groups[0].evaluations[0]
    rates = Rates()
    with tempfile.TemporaryDirectory() as folder:
        tree = merge(cell.tree, {"loop": {"steps": PROBE_STEPS}})
        run = train(parse(TrainConfig, tree), Path(folder) / "train", Progress(quiet=True))
        rows = run.steps()[1:]  # the first step warms up
        rates.add("train", cell.arm, len(rows), sum(row["wall_s"] for row in rows))
        _evaluate(first.tree, 1, Path(folder) / "warm-up")
        seconds, n_made = _evaluate(first.tree, PROBE_PROBLEMS, Path(folder) / "eval")
        whole = _completions(first.tree)
        assert whole is not None  # its problems were just read
        rates.add("eval", first.cell.arm, 1, seconds * whole[0] / n_made)
    return rates


def _evaluate(tree: Tree, n_problems: int, folder: Path) -> tuple[float, int]:
    """Evaluate a few problems; return the seconds and the number of completions."""
    small = merge(tree, {"limit": min(n_problems, tree.get("limit", n_problems))})
    outcome = run_job(EvalJob("probe", (folder,), (small,)))
    made = _completions(small)
    if outcome.error is not None or made is None:
        raise ConfigError(f"the base can't be evaluated: {outcome.error}")
    return outcome.seconds, made[0]
