"""Simulate how often 95% intervals hold the true value, and how wide they are, over a fixed grid.

    for kind in pass distinct paired runs; do
        python tools/coverage_of_intervals.py --kind $kind --out tools/coverage_of_intervals.csv
    done

The estimand is the expected metric over the population of problems: each problem draws its rate, and its samples are
drawn with that rate. The grid below was fixed and committed before the intervals were chosen; an interval is changed
for it, and not the grid for an interval.

The reference of a cell is the t interval of the values where it covers within a point of the nominal 95%, and
otherwise the Clopper-Pearson interval of the sum of the values (in units of the largest possible value), which is
exact for values that are 0 or 1. For differences it joins the intervals of the gains and of the losses. Nothing can be
as narrow as the t interval where that one fails: 30 problems that are all solved look the same whether 0% or 3% of all
problems are never solved.

A cell that covers less than 94%, or is more than 1.3 times as wide as its reference, is simulated again with other
data and eight times as many sets, and that result counts.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import csv
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from scipy.special import beta as beta_function
from scipy.special import expit, logit

from harness.stats.intervals import mean_interval, pass_at_k
from harness.stats.paired_tests import crossed_interval

# --- the grid ---------------------------------------------------------------------------------------------------

Row = dict[str, Any]
Part = tuple[float, float, float]
"""A weight and the parameters of a Beta distribution. (w, 0, 1) is never solved, (w, 1, 0) is always solved."""
RATES: dict[str, tuple[Part, ...]] = {
    "Beta(.6,.9)": ((1, 0.6, 0.9),),
    "Beta(.2,1)": ((1, 0.2, 1),),
    "Beta(.15,1.35)": ((1, 0.15, 1.35),),
    "Beta(4,4)": ((1, 4, 4),),
    "Beta(3,1.5)": ((1, 3, 1.5),),
    "Beta(8,2)": ((1, 8, 2),),
    "Beta(.5,.5)": ((1, 0.5, 0.5),),
    "all solved": ((1, 1, 0),),
    "none solved": ((1, 0, 1),),
    "97% Beta(8,2), 3% never": ((0.97, 8, 2), (0.03, 0, 1)),
    "90% Beta(3,1.5), 10% never": ((0.9, 3, 1.5), (0.1, 0, 1)),
    "95% never, 5% Beta(3,1.5)": ((0.95, 0, 1), (0.05, 3, 1.5)),
    "60% never, 40% always": ((0.6, 0, 1), (0.4, 1, 0)),
}
PROBLEMS = (30, 100, 500)
SAMPLES = (4, 16, 64)
KS = (1, 2, 4, 8, 16, 32, 64)
"""avg@n is pass@1."""
DISTINCT_RATES = ("Beta(.6,.9)", "Beta(.15,1.35)", "Beta(3,1.5)", "Beta(8,2)", "95% never, 5% Beta(3,1.5)")
DISTINCT_SAMPLES = (16, 64)
DISTINCT_KS = (1, 4, 16, 64)
SOLUTIONS = 8
"""A problem has 1 to 8 solutions, all numbers equally likely, of uniformly drawn shares (Dirichlet)."""
PAIRED_RATES = (
    *("Beta(.6,.9)", "Beta(.15,1.35)", "Beta(3,1.5)", "Beta(8,2)", "97% Beta(8,2), 3% never"),
    *("all solved", "95% never, 5% Beta(3,1.5)"),
)
SHIFTS = ((0.0, 0.0), (0.5, 0.5))
"""Mean and standard deviation over problems of the second run's rate less the first's, in logits."""
PAIRED_SAMPLES = (4, 16)
PAIRED_KS = (1, 4, 16)
RUNS = (2, 3, 5)
"""Runs a side."""
SEED_EFFECTS = ((0.0, 0.0), (0.0, 0.3), (0.3, 0.3))
"""Standard deviation in logits of the effect of a run's seed, in the first and in the second side."""
RUN_RATES = ("Beta(.6,.9)", "Beta(3,1.5)")
RUN_PROBLEMS = (30, 96, 500)
RUN_SAMPLES = 16
LEVEL = 0.95
GOOD_T = (0.94, 0.97)
"""The t interval is the reference where its coverage is in this range. It covers always, and with no width, where both
runs solve everything: that is not a reference."""
TRUTH_DRAWS = 2_000_000
MORE = 8

# --- data -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One case of the grid, and data sets of it on demand."""

    kind: str
    rates: str
    n_problems: int
    n_samples: int
    k: int
    truth: float
    upper: float
    draw: Callable[[np.random.Generator], Any]
    """Returns the values of one data set: [problems], or two sides of [runs, problems]."""
    detail: str = ""


def draw_rates(name: str, size: int, rng: np.random.Generator) -> Any:
    parts = RATES[name]
    which = rng.choice(len(parts), size=size, p=[weight for weight, _, _ in parts])
    rates = np.empty(size)
    for place, (_, a, b) in enumerate(parts):
        chosen = which == place
        rates[chosen] = rng.beta(a, b, size=chosen.sum()) if a > 0 and b > 0 else float(a > 0)
    return rates


def true_pass_at_k(name: str, k: int) -> float:
    def missed(a: float, b: float) -> float:
        if a > 0 and b > 0:
            return float(beta_function(a, b + k) / beta_function(a, b))
        return float(b > 0)

    return 1 - math.fsum(weight * missed(a, b) for weight, a, b in RATES[name])


def pass_cells() -> Iterator[Cell]:
    for name in RATES:
        for m in PROBLEMS:
            for n in SAMPLES:
                for k in (k for k in KS if k <= n):
                    table = pass_at_k([n] * (n + 1), range(n + 1), k)

                    def draw(
                        rng: np.random.Generator, name: str = name, m: int = m, n: int = n, table: Any = table
                    ) -> Any:
                        return table[rng.binomial(n, draw_rates(name, m, rng))]

                    yield Cell("pass", name, m, n, k, true_pass_at_k(name, k), 1.0, draw)


def shares(size: int, rng: np.random.Generator) -> Any:
    """Return the share of each solution of `size` problems: [problems, SOLUTIONS]."""
    n_solutions = rng.integers(1, SOLUTIONS + 1, size=size)
    parts = rng.exponential(size=(size, SOLUTIONS)) * (np.arange(SOLUTIONS) < n_solutions[:, None])
    return parts / parts.sum(axis=1, keepdims=True)


def distinct_cells() -> Iterator[Cell]:
    rng = np.random.default_rng(1)
    for name in DISTINCT_RATES:
        chances = draw_rates(name, TRUTH_DRAWS // 4, rng)[:, None] * shares(TRUTH_DRAWS // 4, rng)
        truths = {k: float((1 - (1 - chances) ** k).sum(axis=1).mean()) for k in DISTINCT_KS}
        for m in PROBLEMS:
            for n in DISTINCT_SAMPLES:
                for k in (k for k in DISTINCT_KS if k <= n):
                    table = pass_at_k([n] * (n + 1), range(n + 1), k)

                    def draw(
                        rng: np.random.Generator, name: str = name, m: int = m, n: int = n, table: Any = table
                    ) -> Any:
                        right = rng.binomial(n, draw_rates(name, m, rng))
                        return table[rng.multinomial(right, shares(m, rng))].sum(axis=1)

                    yield Cell("distinct", name, m, n, k, truths[k], float(k), draw)


def shifted(rates: Any, shift: float, spread: float, rng: np.random.Generator) -> Any:
    return expit(logit(rates) + rng.normal(shift, spread, size=rates.shape)) if spread else rates


def paired_cells() -> Iterator[Cell]:
    rng = np.random.default_rng(2)
    for name in PAIRED_RATES:
        for shift, spread in SHIFTS:
            one = draw_rates(name, TRUTH_DRAWS, rng)
            two = shifted(one, shift, spread, rng)
            truths = {k: float(((1 - one) ** k - (1 - two) ** k).mean()) for k in PAIRED_KS}
            for m in PROBLEMS:
                for n in PAIRED_SAMPLES:
                    for k in (k for k in PAIRED_KS if k <= n):
                        table = pass_at_k([n] * (n + 1), range(n + 1), k)

                        def draw(
                            rng: np.random.Generator,
                            name: str = name,
                            m: int = m,
                            n: int = n,
                            table: Any = table,
                            move: tuple[float, float] = (shift, spread),
                        ) -> Any:
                            rates = draw_rates(name, m, rng)
                            first, second = rng.binomial(n, rates), rng.binomial(n, shifted(rates, *move, rng))
                            return table[first][None], table[second][None]

                        yield Cell("paired", name, m, n, k, truths[k], 1.0, draw, f"shift {shift:g}")


def run_cells() -> Iterator[Cell]:
    rng = np.random.default_rng(3)
    for name in RUN_RATES:
        for effects in SEED_EFFECTS:
            logits = logit(draw_rates(name, TRUTH_DRAWS, rng))
            one, two = (expit(logits + rng.normal(0, sd, size=logits.size)).mean() for sd in effects)
            for m in RUN_PROBLEMS:
                for n_runs in RUNS:

                    def draw(
                        rng: np.random.Generator,
                        name: str = name,
                        m: int = m,
                        n_runs: int = n_runs,
                        effects: tuple[float, float] = effects,
                    ) -> Any:
                        logits = logit(draw_rates(name, m, rng))
                        sides = (logits + rng.normal(0, sd, size=(n_runs, 1)) for sd in effects)
                        return tuple(rng.binomial(RUN_SAMPLES, expit(side)) / RUN_SAMPLES for side in sides)

                    detail = f"{n_runs} runs a side, seeds {effects[0]:g} and {effects[1]:g} logits"
                    truth = float(two - one) if effects[0] != effects[1] else 0.0
                    yield Cell("runs", name, m, RUN_SAMPLES, 1, truth, 1.0, draw, detail)


CELLS = {"pass": pass_cells, "distinct": distinct_cells, "paired": paired_cells, "runs": run_cells}

# --- intervals --------------------------------------------------------------------------------------------------


def ours(cell: Cell, data: Sequence[Any]) -> Any:
    """Return the ends of the interval of each data set: [sets, 2]."""
    found = [
        mean_interval(values.tolist(), upper=cell.upper)
        if isinstance(values, np.ndarray)
        else crossed_interval(values[0], values[1])
        for values in data
    ]
    return np.array([(interval.low, interval.high) for interval in found])


def one_row(data: Sequence[Any]) -> Any:
    """Return the values of each data set, or their differences of the means over runs: [sets, problems]."""
    return np.array([v if isinstance(v, np.ndarray) else v[1].mean(axis=0) - v[0].mean(axis=0) for v in data])


def t_interval(rows: Any) -> Any:
    half = scipy.stats.t.ppf((1 + LEVEL) / 2, rows.shape[1] - 1) * scipy.stats.sem(rows, axis=1)
    return np.stack([rows.mean(axis=1) - half, rows.mean(axis=1) + half], axis=1)


def clopper_pearson(cell: Cell, rows: Any) -> Any:
    """Return Clopper-Pearson of the sums; for differences, of the gains and of the losses, as a joint interval."""
    if cell.kind in ("pass", "distinct"):
        return _of_sums(rows / cell.upper) * cell.upper
    gains, losses = np.maximum(rows, 0), np.maximum(-rows, 0)
    gain, loss = gains.mean(axis=1), losses.mean(axis=1)
    of_gains, of_losses = _of_sums(gains), _of_sums(losses)
    low = gain - loss - np.hypot(gain - of_gains[:, 0], of_losses[:, 1] - loss)
    high = gain - loss + np.hypot(of_gains[:, 1] - gain, loss - of_losses[:, 0])
    return np.stack([low, high], axis=1)


def _of_sums(rows: Any) -> Any:
    n, total = rows.shape[1], np.minimum(rows.sum(axis=1), rows.shape[1])
    tail = (1 - LEVEL) / 2
    low = np.where(total > 1e-9, scipy.stats.beta.ppf(tail, np.maximum(total, 1e-9), n - total + 1), 0)
    high = np.where(total < n - 1e-9, scipy.stats.beta.ppf(1 - tail, total + 1, np.maximum(n - total, 1e-9)), 1)
    return np.stack([low, high], axis=1)


# --- the simulation ---------------------------------------------------------------------------------------------

COLUMNS = (
    *("kind", "rates", "problems", "samples", "k", "detail", "truth", "sets", "coverage", "mc_error"),
    *("missed_below", "missed_above", "width", "coverage_t", "width_t", "width_cp", "reference", "width_ratio"),
)


def simulate(cell: Cell, n_sets: int, seed: int = 0, method: Callable[[Cell, Sequence[Any]], Any] = ours) -> Row:
    rng = np.random.default_rng([seed, *map(ord, f"{cell.rates} {cell.n_problems} {cell.n_samples} {cell.detail}")])
    data = [cell.draw(rng) for _ in range(n_sets)]
    rows = one_row(data)
    ends = {"ours": method(cell, data), "t": t_interval(rows), "cp": clopper_pearson(cell, rows)}
    slack = 1e-9 * cell.upper  # of rounding, where the truth is an end of the range
    below = {name: e[:, 1] < cell.truth - slack for name, e in ends.items()}
    above = {name: e[:, 0] > cell.truth + slack for name, e in ends.items()}
    coverage = {name: 1 - float(np.mean(below[name] | above[name])) for name in ends}
    widths = {name: float((e[:, 1] - e[:, 0]).mean()) for name, e in ends.items()}
    share, reference = coverage["ours"], "t" if GOOD_T[0] <= coverage["t"] <= GOOD_T[1] else "cp"
    has_reference = cell.kind != "runs" and widths[reference] > 0
    return {
        "kind": cell.kind,
        "rates": cell.rates,
        "problems": cell.n_problems,
        "samples": cell.n_samples,
        "k": cell.k,
        "detail": cell.detail,
        "truth": round(cell.truth, 5),
        "sets": n_sets,
        "coverage": round(share, 4),
        "mc_error": round(math.sqrt(max(share * (1 - share), 1 / n_sets) / n_sets), 4),
        "missed_below": round(float(below["ours"].mean()), 4),
        "missed_above": round(float(above["ours"].mean()), 4),
        "width": round(widths["ours"], 5),
        "coverage_t": round(coverage["t"], 4),
        "width_t": round(widths["t"], 5),
        "width_cp": round(widths["cp"], 5),
        "reference": reference if has_reference else "",
        "width_ratio": round(widths["ours"] / widths[reference], 3) if has_reference else "",
    }


def summary(rows: Sequence[Row]) -> str:
    least = min(rows, key=lambda row: row["coverage"])
    widest = max(rows, key=lambda row: row["width_ratio"] or 0)
    n_low = sum(row["coverage"] < 0.93 for row in rows)
    n_wide = sum((row["width_ratio"] or 0) > 1.3 for row in rows)
    return (
        f"{len(rows)} cells: coverage {least['coverage']:.3f} +- {least['mc_error']:.3f} at the least "
        f"({n_low} below .93), width ratio {widest['width_ratio']} at the most ({n_wide} above 1.3)"
    )


def checked(cell: Cell, n_sets: int) -> Row:
    """Return the cell's row; where it looks bad, that of other data, with MORE times as many sets."""
    row = simulate(cell, n_sets)
    looks_bad = row["coverage"] < 0.94 or (row["width_ratio"] or 0) > 1.3
    return simulate(cell, MORE * n_sets, seed=1) if looks_bad else row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=tuple(CELLS), required=True)
    parser.add_argument("--problems", type=int, help="only cells with so many problems")
    parser.add_argument("--sets", type=int, default=1000, help="simulated data sets of each cell")
    parser.add_argument("--out", type=Path, help="append to this CSV file (default: print)")
    args = parser.parse_args()
    cells = [cell for cell in CELLS[args.kind]() if args.problems in (None, cell.n_problems)]
    rows = [checked(cell, args.sets) for cell in cells]
    is_new = args.out is None or not args.out.exists()
    with args.out.open("a") if args.out else sys.stdout as file:  # type: ignore[attr-defined]
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerows(rows)
    print(args.kind, args.problems or "", summary(rows), file=sys.stderr)


if __name__ == "__main__":
    main()
