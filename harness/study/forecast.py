"""The ceiling and the power of a study, from its base and before its arms are compared.

The variance of a difference of two arms is that of `harness.stats.planning`: (between problems + of samples / n) / m +
of seeds / R. Only the part of the samples shows in the base. The others are assumed until two arms are there, and
then estimated from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

from harness.core.types import Table
from harness.reports.power import no_power
from harness.stats.intervals import pass_at_k
from harness.stats.planning import Components, components
from harness.study.config import ForecastConfig
from harness.study.index import BASE

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("task", "T", "problems", "samples", "base pass@1", "base pass@n", "most to gain", "detectable", "variances")


def forecast(counts: pd.DataFrame, settings: ForecastConfig, n_seeds: int, n_arms: int) -> Table:
    """Return for each task and temperature what can be gained over the base, and the smallest difference to be found.

    Tests are two-sided at 5%, divided by the number of pairs of arms, which is Holm's first and strictest step.
    """
    n_pairs = max(1, n_arms * (n_arms - 1) // 2)
    rows, notes = [], []
    for (task, temperature), cell in counts.groupby(["task", "temperature"]):
        base = pooled(cell[cell["arm"] == BASE])
        if base.empty:
            continue
        n = int(base["graded"].min())
        found = _components(cell, base, settings)
        error = found.values.error(len(base), n, n_seeds)
        rate = float((base["correct"] / base["graded"]).mean())
        solved = float(pass_at_k(base["graded"].tolist(), base["correct"].tolist(), n).mean())
        mark = no_power(rate)
        notes += [f"{task} at T = {temperature:g}: NO POWER, {mark}"] if mark else []
        detectable = error * _factor(settings.power, n_pairs)
        rows.append((task, temperature, len(base), n, rate, solved, 1 - rate, detectable, found.source))
    notes += [
        f"detectable: the smallest true difference of pass@1 between two arms that is found with {settings.power:.0%} "
        f"power, with {n_seeds} seeds of each, at 5% over {n_pairs} pairs. pass@n: of all samples of the base. "
        f"assumed: a standard deviation of {settings.seed_sd:g} between seeds and {settings.problem_sd:g} of the "
        "difference between problems; with few seeds the normal approximation is optimistic.",
    ]
    return Table("Ceiling and power", COLUMNS, tuple(rows), tuple(notes))


def pooled(counts: pd.DataFrame) -> pd.DataFrame:
    """Return the sum over the draws, for each arm, seed, step and problem, with the number of graded samples."""
    keys = ["arm", "seed", "step", "problem"]
    found = counts.assign(graded=counts["n"] - counts["ungraded"])
    summed = found.groupby(keys, as_index=False)[["graded", "correct"]].sum()
    return summed[summed["graded"] > 0]


@dataclass(frozen=True, slots=True)
class _Found:
    values: Components
    source: str


def _components(cell: pd.DataFrame, base: pd.DataFrame, settings: ForecastConfig) -> _Found:
    """Return the variances from the first two arms that have run to their last step, else those assumed."""
    trained = pooled(cell[cell["arm"] != BASE])
    trained = trained[trained["step"] == trained["step"].max()]
    names = list(dict.fromkeys(cell[cell["arm"].isin(set(trained["arm"]))]["arm"]))[:2]
    sides = [_rates(trained[trained["arm"] == name]) for name in names]
    have_runs = len(sides) == 2 and all(sides) and all(len(side[0]) == len(sides[0][0]) for side in sides)
    if have_runs and len(sides[0][0]) > 1 and all(n > 1 for side in sides for run in side for _, n in run):
        return _Found(components(sides[0], sides[1]), f"of {names[0]} and {names[1]}")
    rate = base["correct"] / base["graded"]
    noise = float((rate * (1 - rate) * base["graded"] / (base["graded"] - 1).clip(lower=1)).mean())
    assumed = Components(settings.problem_sd**2, 2 * noise, 2 * settings.seed_sd**2)
    return _Found(assumed, "assumed, but for samples")


def _rates(rows: pd.DataFrame) -> Sequence[Sequence[tuple[int, int]]]:
    """Return right and graded samples of each seed and problem; nothing if a seed lacks a problem."""
    table = rows.pivot_table(index="seed", columns="problem", values=["correct", "graded"])
    if table.empty or table.isna().to_numpy().any() or (table["graded"] < 2).to_numpy().any():
        return []
    return [
        [(int(c), int(n)) for c, n in zip(right, graded, strict=True)]
        for right, graded in zip(table["correct"].to_numpy(), table["graded"].to_numpy(), strict=True)
    ]


def _factor(power: float, n_pairs: int) -> float:
    normal = NormalDist()
    return normal.inv_cdf(1 - 0.05 / (2 * n_pairs)) + normal.inv_cdf(power)
