"""Cost: rollouts, tokens and time of each training run, and tokens and time of its evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.core.protocols import TableBuilder
from harness.core.types import Estimate, Table
from harness.reports.footnotes import rollouts_per_problem
from harness.reports.run_config import run_config
from harness.reports.run_facts import Cell, labelled, unfinished
from harness.reports.samples import samples_of
from harness.runs.folder import RunReader

PHASES = ("sample_s", "score_s", "update_s", "sync_s")
TRAINING = (
    *("run", "objective", "steps", "rollouts", "rollouts a problem", "tokens", "hours", "seconds a step"),
    *("sampling", "scoring", "update", "sync", "tokens/s", "processor", "cores"),
)
EVALUATION = ("run", "task", "samples", "tokens", "tokens a sample", "engine hours", "tokens a right sample", "USD")


class Cost(TableBuilder[RunReader]):
    """A table of training runs and one of evaluations. Times compare only on one machine."""

    def build(self, runs: Sequence[RunReader]) -> Sequence[Table]:
        trained, evaluated = labelled(runs, "train"), labelled(runs, "eval")
        tables = []
        if rows := [_training_row(run, label) for run, label in trained if run.steps()]:
            note = (
                "sampling, scoring, update and sync are shares of the time of the steps. seconds a step: 95% t "
                "interval over steps, as if they were independent."
            )
            tables.append(Table("Cost of training", TRAINING, tuple(rows), (*unfinished(trained), note)))
        if lines := [line for run, label in evaluated for line in _evaluation_rows(run, label)]:
            note = "tokens are of completions. engine hours: waiting for the engine, absent where it was not measured."
            tables.append(Table("Cost of evaluation", EVALUATION, tuple(lines), (*unfinished(evaluated), note)))
        return tables


def _training_row(run: RunReader, label: str) -> tuple[Cell, ...]:
    steps, config, environment = run.steps(), run_config(run), run.record.environment
    wall_s, tokens = _total(steps, "wall_s"), _total(steps, "n_tokens")
    return (
        label,
        config.objective.id if config.objective is not None else None,
        len(steps),
        _total(steps, "n_completions"),
        rollouts_per_problem(run),
        tokens,
        wall_s / 3600 if wall_s is not None else None,
        _mean_step(steps),
        *(part / wall_s if (part := _total(steps, name)) is not None and wall_s else None for name in PHASES),
        tokens / wall_s if tokens is not None and wall_s else None,
        environment.get("device", environment.get("processor")),
        environment.get("cores"),
    )


def _total(steps: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """Return the sum over the steps; None where a step lacks the value."""
    values = [step[key] for step in steps if key in step]
    return sum(values) if len(values) == len(steps) and steps else None


def _mean_step(steps: Sequence[Mapping[str, Any]]) -> Estimate | None:
    from harness.stats.distributions import t_quantile
    from harness.stats.intervals import LEVEL

    values = [float(step["wall_s"]) for step in steps if "wall_s" in step]
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    margin = t_quantile(LEVEL, n - 1) * math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    return Estimate("seconds a step", mean, mean - margin, mean + margin, n, n, 0, f"95% t over {n} steps")


def _evaluation_rows(run: RunReader, label: str) -> list[tuple[Cell, ...]]:
    rows: list[tuple[Cell, ...]] = []
    for task, samples in samples_of(run).items():
        n_right = int(samples.n_right.sum())
        rows.append(
            (
                label,
                task,
                samples.n_samples,
                samples.n_tokens,
                samples.tokens_estimate(),
                samples.engine_s / 3600 if samples.engine_s is not None else None,
                samples.n_tokens / n_right if n_right else None,
                samples.cost_usd,
            )
        )
    return rows


TABLE = Cost
