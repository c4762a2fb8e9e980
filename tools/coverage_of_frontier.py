"""Simulate how often the 95% intervals of a frontier and of a comparison at equal pass@1 hold the true value.

    python tools/coverage_of_frontier.py --out tools/coverage_of_frontier.csv

The grid below was fixed before the intervals were chosen; an interval is changed for it, and not the grid for an
interval. Problems are drawn from a population, training seeds too: a seed shifts the logit of pass@1 and sharpens or
flattens the shares of the solutions, at all checkpoints and temperatures of its run and at each on its own. Samples
are drawn with these rates, and pass@1 and distinct@16 are estimated from them.

The estimand is that of a report: the expected values of the points over problems and seeds, the upper concave hull of
these, and its height at an accuracy. `fixed` is the middle of the true overlap of the two arms, and `level` the
accuracy at which a report compares. Data are refused where their frontiers do not overlap or do not reach the fixed
accuracy. Where the level lies beyond the end of a true frontier there is no true value to hold: such data are counted
as `beyond`. They are up to a third of the data with 30 problems and short frontiers, a tenth at most with 96 problems
and small effects of seeds.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import csv
import itertools
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from harness.stats.frontier import Frontier, Point, level_in, matched, overlap, seeded_interval
from harness.stats.intervals import Interval, pass_at_k

# --- the grid ---------------------------------------------------------------------------------------------------

Row = dict[str, Any]
SEEDS = (2, 3, 5)
PROBLEMS = (30, 96)
SAMPLES, K, SOLUTIONS = 64, 16, 8
LOGITS = (0.0, 1.2)
"""Mean and standard deviation over problems of the base's logit of pass@1."""
EFFECTS = ((0.0, 0.0), (0.15, 0.1), (0.4, 0.3))
"""Standard deviations of a seed's shift of the logit, and of the logarithm of the sharpness of the shares. Half of a
shift again is that of a single point."""
Places = tuple[tuple[float, float], ...]
"""Of each point of an arm: the shift of the logit, and the sharpness (shares to this power)."""
ARMS: dict[str, tuple[Places, Places]] = {
    "apart": (
        ((0.6, 1.3), (1.2, 2.0), (1.3, 2.2), (1.8, 3.5)),
        ((0.5, 1.0), (1.0, 1.3), (1.2, 1.5), (1.6, 2.2)),
    ),
    "equal": (
        ((0.6, 1.2), (1.2, 1.8), (1.4, 2.0), (1.9, 2.9)),
        ((0.6, 1.2), (1.2, 1.8), (1.4, 2.0), (1.9, 2.9)),
    ),
    "steep": (  # two points of nearly equal pass@1, and one that is dominated
        ((0.6, 1.1), (1.3, 1.6), (1.35, 3.0), (1.25, 3.2)),
        ((0.5, 1.0), (1.2, 1.4), (1.25, 2.4), (1.7, 2.6)),
    ),
    "two points": (((1.0, 1.6), (1.6, 3.0)), ((0.9, 1.2), (1.5, 2.0))),
}
TRUTH_PROBLEMS = 200_000
SETS, MORE = 400, 4

# --- data -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    arms: str
    effects: tuple[float, float]
    n_problems: int
    n_seeds: int
    truths: tuple[Any, Any]
    """Of each arm, the expected accuracy and diversity of each point: [points, 2]."""


def draw_problems(size: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """Return the logit of each problem, and the shares of its solutions: [size], [size, SOLUTIONS]."""
    n_solutions = rng.integers(3, SOLUTIONS + 1, size=size)
    parts = rng.exponential(size=(size, SOLUTIONS)) * (np.arange(SOLUTIONS) < n_solutions[:, None])
    return rng.normal(*LOGITS, size=size), parts / parts.sum(axis=1, keepdims=True)


def sharpened(shares: Any, powers: Any) -> Any:
    """Return the shares of solutions to a power, with sum 1 again; 0 stays 0."""
    found = np.where(shares > 0, shares, 1.0) ** powers * (shares > 0)
    return found / found.sum(axis=-1, keepdims=True)


def seed_effects(places: Places, effects: tuple[float, float], size: int, rng: np.random.Generator) -> list[Any]:
    """Return for each point the shifts and sharpnesses of `size` seeds."""
    own = [rng.normal(0, sd, size=size) for sd in effects]
    found = []
    for shift, sharpness in places:
        at_point = [one + rng.normal(0, sd / 2, size=size) for one, sd in zip(own, effects, strict=True)]
        found.append((shift + at_point[0], sharpness * np.exp(at_point[1])))
    return found


def truth_of(places: Places, effects: tuple[float, float], problems: tuple[Any, Any], rng: np.random.Generator) -> Any:
    """Return the expected accuracy and diversity of each point, each problem with a seed of its own: [points, 2]."""
    logits, shares = problems
    found = []
    for shift, sharpness in seed_effects(places, effects, len(logits), rng):
        rates = expit(logits + shift)
        each = rates[:, None] * sharpened(shares, sharpness[:, None])
        found.append((rates.mean(), (1 - (1 - each) ** K).sum(axis=1).mean()))
    return np.array(found)


TABLE = pass_at_k([SAMPLES] * (SAMPLES + 1), range(SAMPLES + 1), K)


def draw_arm(places: Places, cell: Cell, problems: tuple[Any, Any], rng: np.random.Generator) -> list[Point]:
    logits, shares = problems
    points = []
    for place, (shift, sharpness) in enumerate(seed_effects(places, cell.effects, cell.n_seeds, rng)):
        rates = expit(logits + shift[:, None])[..., None]
        each = rates * sharpened(shares, sharpness[:, None, None])  # [seeds, problems, SOLUTIONS]
        counts = rng.multinomial(SAMPLES, np.concatenate([each, 1 - rates], axis=-1))[..., :-1]
        points.append(Point(place, 1.0, counts.sum(axis=-1) / SAMPLES, TABLE[counts].sum(axis=-1)))
    return points


def hull(points: Any) -> Any:
    """Return the true frontier: those points that no pair of others, or a single one, lies above. [points, 2]"""

    def is_above(p: Any, q: Any, r: Any) -> bool:
        if q[0] == r[0] or not min(q[0], r[0]) < p[0] < max(q[0], r[0]):
            return False
        return bool(q[1] + (r[1] - q[1]) * (p[0] - q[0]) / (r[0] - q[0]) > p[1])

    kept = [
        p
        for p in points
        if not any(q[0] > p[0] and q[1] > p[1] for q in points)
        and not any(is_above(p, q, r) for q in points for r in points)
    ]
    return np.array(sorted(map(tuple, kept)))


# --- the simulation ---------------------------------------------------------------------------------------------

QUANTITIES = ("pass", "distinct", "level", "fixed", "difference")
"""pass@1 and distinct@16 at the last point; the ratio at the level that a report chooses, and at a
fixed one; the difference at the former."""
COLUMNS = (
    *("arms", "seed_effects", "problems", "seeds", "sets", "refused_level", "beyond", "refused_fixed"),
    *(f"{column}_{name}" for name in QUANTITIES for column in ("coverage", "width")),
    "mc_error",
)


def cells() -> list[Cell]:
    found = []
    for place, (name, effects) in enumerate(itertools.product(ARMS, EFFECTS)):
        rng = np.random.default_rng([7, place])
        problems = draw_problems(TRUTH_PROBLEMS, rng)
        first, second = (truth_of(places, effects, problems, rng) for places in ARMS[name])
        found += [Cell(name, effects, m, n, (first, second)) for m in PROBLEMS for n in SEEDS]
    return found


def simulate(cell: Cell, n_sets: int, seed: int = 0) -> Row:
    key = [seed, *map(ord, cell.arms), int(100 * cell.effects[0]), cell.n_problems, cell.n_seeds]
    rng = np.random.default_rng(key)
    hulls = [hull(truth) for truth in cell.truths]
    fixed = (max(h[0, 0] for h in hulls) + min(h[-1, 0] for h in hulls)) / 2
    held: dict[str, list[tuple[bool, float]]] = {name: [] for name in QUANTITIES}
    n_beyond = 0
    for _ in range(n_sets):
        problems = draw_problems(cell.n_problems, rng)
        arms = [draw_arm(places, cell, problems, rng) for places in ARMS[cell.arms]]
        (accuracy, diversity), last = cell.truths[0][-1], arms[0][-1]
        _hold(held["pass"], seeded_interval(last.accuracy), accuracy)
        _hold(held["distinct"], seeded_interval(last.diversity, float(K)), diversity)
        first, second = (Frontier.of(points) for points in arms)
        span = overlap(first, second)
        if span is None:
            continue
        level = level_in(span)
        if all(h[0, 0] <= level <= h[-1, 0] for h in hulls):
            found = matched(first, second, level)
            one, two = (float(np.interp(level, *h.T)) for h in hulls)
            _hold(held["level"], found.ratio_interval, two / one)
            _hold(held["difference"], found.difference_interval, two - one)
        else:
            n_beyond += 1
        if span[0] <= fixed <= span[1]:
            one, two = (float(np.interp(fixed, *h.T)) for h in hulls)
            _hold(held["fixed"], matched(first, second, fixed).ratio_interval, two / one)
    return _row(cell, n_sets, n_beyond, held)


def _row(cell: Cell, n_sets: int, n_beyond: int, held: dict[str, list[tuple[bool, float]]]) -> Row:
    row: Row = {
        "arms": cell.arms,
        "seed_effects": f"{cell.effects[0]:g} {cell.effects[1]:g}",
        "problems": cell.n_problems,
        "seeds": cell.n_seeds,
        "sets": n_sets,
        "refused_level": n_sets - n_beyond - len(held["level"]),
        "beyond": n_beyond,
        "refused_fixed": n_sets - len(held["fixed"]),
    }
    for name, results in held.items():
        row[f"coverage_{name}"] = round(sum(is_held for is_held, _ in results) / len(results), 4)
        row[f"width_{name}"] = round(float(np.median([width for _, width in results])), 4)
    return {**row, "mc_error": round(math.sqrt(0.05 * 0.95 / n_sets), 4)}


def _hold(results: list[tuple[bool, float]], interval: Interval, truth: float) -> None:
    results.append((interval.low <= truth <= interval.high, interval.high - interval.low))


def checked(cell: Cell, n_sets: int) -> Row:
    """Return the cell's row; where it looks bad, that of other data, with MORE times as many sets."""
    row = simulate(cell, n_sets)
    looks_bad = min(row[f"coverage_{name}"] for name in QUANTITIES) < 0.93
    return simulate(cell, MORE * n_sets, seed=1) if looks_bad else row


def summary(rows: Sequence[Row]) -> str:
    lines = []
    for name in QUANTITIES:
        least = min(rows, key=lambda row: row[f"coverage_{name}"])
        widths = "; ".join(
            f"{n} seeds {np.median([row[f'width_{name}'] for row in rows if row['seeds'] == n]):.3f}" for n in SEEDS
        )
        where = f"{least['arms']}, effects {least['seed_effects']}, {least['problems']} problems, {least['seeds']}"
        lines.append(f"{name}: coverage {least[f'coverage_{name}']:.3f} at the least ({where}); median width: {widths}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=SETS)
    parser.add_argument("--out", type=Path, help="CSV file")
    args = parser.parse_args()
    began, rows = time.process_time(), []
    for cell in cells():
        rows.append(checked(cell, args.sets))
        print(*rows[-1].values(), file=sys.stderr, flush=True)
    print(f"{summary(rows)}\n{time.process_time() - began:.0f} s of CPU time")
    if args.out is not None:
        with args.out.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
