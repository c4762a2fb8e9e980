"""Unit tests of diversity metrics on countdown, where the number of solutions is known: `harness validate --metric`.

Every metric is computed on made-up runs whose diversity is known by construction. A change is given as a share of the
metric's own range, from 16 copies of one solution to 16 samples of eight solutions in one wording.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

from harness.core.config import parse_plugin
from harness.core.errors import ConfigError
from harness.core.protocols import Metric, Task
from harness.core.seeds import derive
from harness.core.types import Completion, Graded, Problem, Table, Tokens, Verdict
from harness.diversity.wordings import FILLER, written

N, CORRECT, N_SOLUTIONS = 16, 8, 8
N_PROBLEMS = 30
"""At least this many problems, so that a mean does not hang on one of them."""
STEPS_OF_MIX = (0, 2, 4, 6, 8)
FALLING = ("majority_share",)
"""Measures that fall as diversity rises."""
CHANGES = ("reworded", "padded", "errors", "bias")
CONTROLS = ("_floor", "_ceiling", "_random")
COLUMNS = ("measure", "truth", "reworded", "mixture", "padded", "odd errors", "bias with n", "verdict")
BELIEVE, CARE, AVOID = "believe", "use with care", "do not use"
TRUTH = "truth"
N_DRAWS = 1000
SMALL, LARGE = 0.05, 0.25
HIGH, LOW = 0.9, 0.6

Values = Mapping[str, Mapping[str, float]]
"""By estimate and problem."""


@dataclass(frozen=True, slots=True)
class Source:
    """One problem with one chain for each of eight of its solutions."""

    problem: Problem[Any]
    chains: tuple[str, ...]
    solutions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Findings:
    """The results of one measure; None where it has no value."""

    measure: str
    truth: float | None
    """Mean over problems of Spearman's correlation with the true number of solutions."""
    reworded: float | None
    mixture: bool | None
    padded: float | None
    errors: float | None
    bias: float | None
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Of each figure, if there were several runs."""

    def verdict(self) -> str:
        """Return the verdict by the rules that the table's notes state."""
        changes = (self.reworded, self.padded, self.errors, self.bias)
        if self.truth is None or self.mixture is None or None in changes:
            return AVOID
        known = [abs(change) for change in changes if change is not None]
        if self.truth >= HIGH and self.mixture and max(known) <= SMALL:
            return BELIEVE
        must = [abs(change) for change in (self.reworded, self.errors) if change is not None]
        return AVOID if self.truth < LOW or max(must) > LARGE else CARE


def validate_metrics(settings: Sequence[Mapping[str, Any]], n_problems: int = N_PROBLEMS, n_runs: int = 1) -> Table:
    """Test the metrics of these settings, each an id with options. Several runs of each kind give intervals."""
    made = sources(n_problems)
    runs = [made_up_runs(made, seed) for seed in range(n_runs)]
    findings = [found for one in settings for found in findings_of(one, *runs)]
    rows = tuple(_row(found) for found in findings)
    return Table("Unit tests of diversity metrics on countdown", COLUMNS, rows, _notes(n_problems, n_runs))


def findings_of(settings: Mapping[str, Any], *runs: Mapping[str, Sequence[Graded[Any]]]) -> list[Findings]:
    """Return the findings of each estimate that the metric gives, controls left out."""
    metric: Metric = parse_plugin("metrics", {**settings, "samples": N, "correct": CORRECT}).build()
    values = [{name: _without_sizes(metric.per_problem(graded)) for name, graded in run.items()} for run in runs]
    measures = dict.fromkeys(name for run in values for found in run.values() for name in found)
    return [_findings(name, values) for name in measures if not name.endswith(CONTROLS)]


def _without_sizes(values: Values) -> dict[str, Mapping[str, float]]:
    """Return the values by measure; of a curve such as coverage@2, 4, 8 its largest size."""
    found: dict[str, Mapping[str, float]] = {}
    for name in values:  # in the metric's order, which is that of the sizes
        found[name.rpartition("@")[0]] = values[name]
    return found


def _findings(name: str, runs: Sequence[Mapping[str, Values]]) -> Findings:
    sign = -1.0 if name.startswith(FALLING) else 1.0
    tables: list[dict[str, Mapping[str, float]]] = []
    for values in runs:
        signed = {kind: {p: sign * v for p, v in found.get(name, {}).items()} for kind, found in values.items()}
        tables.append({**signed, TRUTH: _correlations(signed)})
    curve = [_mean(tables, f"mix {step}", None) for step in STEPS_OF_MIX]
    known = [height for height in curve if height is not None]
    rises = len(known) == len(curve) and known[-1] > known[0] + 1e-9
    mixture = (rises and all(b >= a - 1e-9 for a, b in itertools.pairwise(known))) if known else None
    figures = _figures(tables, None)
    return Findings(name, mixture=mixture, **figures, intervals=_intervals(name, tables) if len(tables) > 1 else {})


def _figures(tables: Sequence[Mapping[str, Mapping[str, float]]], problems: Sequence[str] | None) -> dict[str, Any]:
    """Return the findings but for the mixture, of all problems or of those drawn."""

    def change(before: str, after: str) -> float | None:
        first, second, low, high = (_mean(tables, kind, problems) for kind in (before, after, "one", "eight"))
        if first is None or second is None or low is None or high is None:
            return None
        if abs(second - first) <= 1e-9:
            return 0.0
        return (second - first) / (high - low) if high > low else math.copysign(math.inf, second - first)

    return {
        "truth": _mean(tables, TRUTH, problems),
        "reworded": change("one", "reworded"),
        "padded": change("four", "padded"),
        "errors": change("equal errors", "odd errors"),
        "bias": change("few samples", "many samples"),
    }


def _mean(
    tables: Sequence[Mapping[str, Mapping[str, float]]], kind: str, problems: Sequence[str] | None
) -> float | None:
    """Return the mean over runs and problems that have a value."""
    values = [
        table[kind][problem]
        for table in tables
        for problem in (problems if problems is not None else table[kind])
        if problem in table[kind]
    ]
    return math.fsum(values) / len(values) if values else None


def _intervals(name: str, tables: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, tuple[float, float]]:
    """Return 95 % intervals by a bootstrap over runs and problems; none for what a draw leaves undefined."""
    random = Random(derive(0, "validate intervals", name))
    problems = sorted({problem for table in tables for found in table.values() for problem in found})
    draws = [
        _figures(random.choices(tables, k=len(tables)), random.choices(problems, k=len(problems)))
        for _ in range(N_DRAWS)
    ]
    found = {}
    for figure in draws[0]:
        values = [draw[figure] for draw in draws]
        if all(value is not None and math.isfinite(value) for value in values):
            ordered = sorted(values)
            found[figure] = ordered[round(0.025 * (N_DRAWS - 1))], ordered[round(0.975 * (N_DRAWS - 1))]
    return found


def _correlations(values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return Spearman's correlation over runs of 1, 2, 4 and 8 solutions, all reworded, by problem."""
    from harness.stats.diversity import spearman  # numpy

    sizes = (1, 2, 4, 8)
    of_runs = [values[f"{size} solutions"] for size in sizes]
    shared = [problem for problem in of_runs[0] if all(problem in found for found in of_runs)]
    return {problem: spearman(sizes, [run[problem] for run in of_runs]) for problem in shared}


# --- made-up runs -----------------------------------------------------------------------------------------------


def sources(n_problems: int) -> list[Source]:
    """Return problems with eight solutions, found by demonstrations and named by the task's own grader."""
    task: Task[Any] = parse_plugin("tasks", {"id": "countdown", "min_solutions": N_SOLUTIONS + 2}).build()
    found: list[Source] = []
    for problem in task.problems("validation", 0):
        chains: dict[str, str] = {}
        for seed in range(40 * N_SOLUTIONS):
            chain = task.demonstrate(problem, seed)
            verdict = task.grader.grade(problem, Completion(problem.id, 0, 0, chain, "stop", Tokens(0, 0)))
            chains.setdefault(str(verdict.details["solution"]), chain)
            if len(chains) == N_SOLUTIONS:
                found.append(Source(problem, tuple(chains.values()), tuple(chains)))
                break
        if len(found) == n_problems:
            return found
    raise ConfigError(f"countdown has only {len(found)} problems with {N_SOLUTIONS} solutions; ask for fewer")


def made_up_runs(made: Sequence[Source], seed: int = 0) -> dict[str, list[Graded[Any]]]:
    """Return the samples of each scenario by its name. The seed draws the wordings and the solutions."""
    runs: dict[str, list[Graded[Any]]] = {}

    def add(name: str, places: Callable[[Random], Sequence[int]], **more: Any) -> None:
        """Add a run of samples of the solutions at these places, all in one wording unless they are `reworded`."""
        for one in made:
            random = Random(derive(seed, "validate", name, one.problem.id))
            runs.setdefault(name, []).extend(_samples(one, places(random), random, **more))

    for size in (1, 2, 4, 8):
        add(f"{size} solutions", partial(_drawn, size), reworded=True)
    add("one", lambda _: [0] * N)
    add("eight", lambda _: [i % N_SOLUTIONS for i in range(N)])
    add("reworded", lambda _: [0] * N, reworded=True)
    for step in STEPS_OF_MIX:
        add(f"mix {step}", partial(_shuffled, [1] * step + [0] * (N - step)))
    add("four", lambda _: [i % 4 for i in range(N)])
    add("padded", lambda _: [i % 4 for i in range(N)], padding=f" {FILLER}" * 8)
    add("equal errors", lambda _: [i % 2 for i in range(12)], wrong=["1+1=2"] * 4)
    odd = ["9*9=80;80+7=88", "I give up, the answer is a purple elephant = 3", "x=y;y=z;z=x", "50/3=17;17-2=14"]
    add("odd errors", lambda _: [i % 2 for i in range(12)], wrong=odd)
    add("few samples", lambda random: random.choices(range(4), k=N), reworded=True)
    add("many samples", lambda random: random.choices(range(4), k=4 * N), reworded=True)
    return runs


def _drawn(size: int, random: Random) -> list[int]:
    """Return N samples of `size` solutions in random order, each of which occurs."""
    return _shuffled([*range(size), *random.choices(range(size), k=N - size)], random)


def _shuffled(places: Sequence[int], random: Random) -> list[int]:
    return random.sample(places, len(places))


def _samples(
    one: Source,
    places: Sequence[int],
    random: Random,
    *,
    reworded: bool = False,
    padding: str = "",
    wrong: Sequence[str] = (),
) -> list[Graded[Any]]:
    texts = [written(one.chains[place], random if reworded else None) + padding for place in places]
    right = [Verdict("correct", 1.0, one.chains[place], details={"solution": one.solutions[place]}) for place in places]
    verdicts = [*right, *(Verdict("incorrect", 0.0, text, "wrong") for text in wrong)]
    return [
        Graded(one.problem, Completion(one.problem.id, index, 0, text, "stop", Tokens(0, 0)), verdict)
        for index, (text, verdict) in enumerate(zip([*texts, *wrong], verdicts, strict=True))
    ]


# --- the table --------------------------------------------------------------------------------------------------


def _row(found: Findings) -> tuple[str | float | None, ...]:
    mixture = None if found.mixture is None else "rises" if found.mixture else "fails"
    truth = f"{found.truth:.2f}" if found.truth is not None else None
    if truth is not None and TRUTH in found.intervals:
        truth += " [{:.2f}, {:.2f}]".format(*found.intervals[TRUTH])
    changes = [_percent(getattr(found, name), found.intervals.get(name)) for name in CHANGES]
    return (found.measure, truth, changes[0], mixture, *changes[1:], found.verdict())


def _percent(change: float | None, interval: tuple[float, float] | None) -> str | None:
    if change is None:
        return None
    if math.isinf(change):
        return "unbounded"
    text = f"{round(100 * change):+d} %".replace("+0 %", "0 %")
    return (
        text if interval is None or not any(interval) else f"{text} [{100 * interval[0]:.0f}, {100 * interval[1]:.0f}]"
    )


def _notes(n_problems: int, n_runs: int) -> tuple[str, ...]:
    several = f" Means of {n_runs} runs of each kind, with intervals over runs and problems." if n_runs > 1 else ""
    return (
        f"{n_problems} problems, {N} samples of each; measures of right samples at {CORRECT}. A change is a share of "
        "the measure's range from 16 copies of one solution to 16 samples of eight solutions in one wording." + several,
        "truth: Spearman with the true number of solutions (1, 2, 4, 8) over reworded runs, mean over problems. "
        "reworded: 16 wordings of one solution instead of one. mixture: two solutions in shares p and 1 - p, rises to "
        "p = 1/2. padded: eight sentences added to every sample. odd errors: 4 of 16 samples are wrong, all alike or "
        "all odd. bias with n: at the same size, from 64 samples instead of 16.",
        f"believe: truth at least {HIGH:g}, mixture rises, every change at most {SMALL:.0%}. do not use: truth below "
        f"{LOW:g}, or a change by rewording or odd errors above {LARGE:.0%}, or a test without a value. use with care: "
        "the others.",
        "Strategies by a judge: not measured.",
    )
