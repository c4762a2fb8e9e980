"""Sequential evaluation: draw samples of each problem until the interval from sampling is narrow enough.

The interval is a confidence sequence for the mean rate of the given problems (`harness.stats.sequential`), so looking
after every few samples and stopping does not invalidate it. The interval over problems is printed next to it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from harness.core.errors import ConfigError
from harness.core.progress import Progress
from harness.core.types import Estimate, Graded
from harness.evaluation.config import Plan
from harness.evaluation.setup import EvalSetup, TaskSetup
from harness.stats.sequential import LEVEL, fewest_samples, least_margin, margin, next_look

FIRST = 4
"""Samples of each problem before the first look, unless a metric needs more."""


def check_until(setup: EvalSetup) -> None:
    """Raise if a task can never reach the margin of `until`, or has no sampling noise."""
    until = setup.config.until
    for task in setup.tasks.values() if until is not None else ():
        assert until is not None
        n, n_problems = task.plan.n, len(task.problems)
        if n < 2 or task.plan.sampling.temperature == 0:
            raise ConfigError(
                f"until = {until:g} needs several samples of each problem, and {task.id} draws "
                f"{'the same one each time (temperature 0)' if n > 1 else 'one'}; leave --until out"
            )
        if (least := least_margin(n_problems, n, until)) > until:
            raise ConfigError(
                f"until = {until:g} can't be met on {task.id}: {n} samples of {n_problems} problems give "
                f"±{least:.3g} at best; set --n {fewest_samples(n_problems, until)} or more, or a larger --until"
            )


def sample_until(
    setup: EvalSetup,
    task: TaskSetup,
    n_stored: int,
    evaluate: Callable[[Plan], list[Graded[Any]]],
    progress: Progress,
) -> list[Graded[Any]]:
    """Evaluate with more and more samples, up to n, until the margin is at most `until`; return everything graded.

    `n_stored` samples of each problem are stored already, so that a resumed run looks where it ended.
    """
    until = setup.config.until
    assert until is not None
    needed = max(type(metric).samples_needed(chosen.options) for metric, chosen in _metrics(setup))
    n = min(task.plan.n, max(FIRST, needed, n_stored))
    while True:
        graded = evaluate(replace(task.plan, n=n))
        reached = _margin(_counts(graded), until)
        if n == task.plan.n or (reached is not None and reached <= until):
            break
        n = next_look(n, reached if reached is not None else 2 * until, until, task.plan.n)
    shown = f"±{reached:.4f}" if reached is not None else "no margin, as nothing was graded"
    met = "" if reached is not None and reached <= until else f", which is not ±{until:g}: raise --n to go on"
    progress.say(f"{task.id}: stopped after {n} of {task.plan.n} samples per problem with {shown} from sampling{met}")
    return graded


def _metrics(setup: EvalSetup) -> Sequence[tuple[Any, Any]]:
    return list(zip(setup.metrics, setup.config.metrics, strict=True))


def sampling_estimate(graded: Sequence[Graded[Any]], until: float) -> list[Estimate]:
    """Return the mean rate of the graded problems with its interval from sampling alone; nothing without verdicts."""
    counts = _counts(graded)
    reached = _margin(counts, until)
    if reached is None:
        return []
    mean = math.fsum(c / n for c, n in counts) / len(counts)
    n_graded = sum(n for _, n in counts)
    return [
        Estimate(
            "avg given these problems",
            mean,
            max(0.0, mean - reached),
            min(1.0, mean + reached),
            len(counts),
            n_graded,
            len(graded) - n_graded,
            f"{LEVEL:.0%} confidence sequence over samples, valid under stopping, tuned for ±{until:g}",
        )
    ]


def _counts(graded: Sequence[Graded[Any]]) -> list[tuple[int, int]]:
    """Return the right and the graded samples of each problem that has any."""
    right: dict[str, list[bool]] = defaultdict(list)
    for item in graded:
        if item.verdict.outcome != "ungraded":
            right[item.problem.id].append(item.verdict.outcome == "correct")
    return [(sum(found), len(found)) for _, found in sorted(right.items())]


def _margin(counts: Sequence[tuple[int, int]], until: float) -> float | None:
    return margin([c for c, _ in counts], [n for _, n in counts], until) if counts else None
