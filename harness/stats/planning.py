"""The variance components of a comparison, and how many samples, problems and runs tell two runs apart.

The variance of the difference of two mean rates is (between + samples / (n R)) / m + seeds / R, with m problems, n
samples of each and R runs a side (Miller 2024, section 5, with a component for seeds).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from harness.stats.intervals import LEVEL
from harness.stats.paired_tests import POWER


@dataclass(frozen=True, slots=True)
class Components:
    """Variances: of the problems' true differences, of one sample of each side, and of the effect of a run's seed."""

    between: float
    samples: float
    """Of the first and of the second side together."""
    seeds: float
    """Of the two sides together; 0 where no side has several runs."""

    def error(self, n_problems: int, n_samples: int, n_runs: int = 1) -> float:
        """Return the standard error of the difference in such a comparison."""
        over_problems = (self.between + self.samples / (n_samples * n_runs)) / n_problems
        return math.sqrt(over_problems + self.seeds / n_runs)

    def problems_needed(self, difference: float, n_samples: int, n_runs: int = 1, power: float = POWER) -> int | None:
        """Return how many problems find this true difference with this power; None where no number does."""
        left = (difference / factor(power)) ** 2 - self.seeds / n_runs
        over_problems = self.between + self.samples / (n_samples * n_runs)
        return max(2, math.ceil(over_problems / left)) if left > 0 else None

    def samples_needed(self, difference: float, n_problems: int, n_runs: int = 1, power: float = POWER) -> int | None:
        """Return how many samples of each problem do; None where no number does."""
        left = ((difference / factor(power)) ** 2 - self.seeds / n_runs) * n_problems - self.between
        return max(1, math.ceil(self.samples / n_runs / left)) if left > 0 else None


def factor(power: float) -> float:
    """Return the multiple of its standard error at which a difference is found with this power, at the 5% level."""
    normal = NormalDist()
    return normal.inv_cdf((1 + LEVEL) / 2) + normal.inv_cdf(power)


Rates = Sequence[Sequence[tuple[int, int]]]
"""Of each run of a side and each problem: right samples, and graded samples (at least 2)."""


def components(first: Rates, second: Rates) -> Components:
    """Estimate the components from runs on the same problems, each by its unbiased estimator, at least 0.

    c (n - c) / (n (n - 1)) estimates p (1 - p). The spread of the problems' differences holds their sampling variance,
    and that of the runs' means holds it too; it is subtracted.
    """
    n_problems = len(first[0])
    if n_problems < 2 or any(n < 2 for side in (first, second) for run in side for _, n in run):
        raise ValueError("planning needs two problems, and two graded samples of each in every run")
    sides = [_side(side) for side in (first, second)]
    differences = [b - a for a, b in zip(sides[0].means, sides[1].means, strict=True)]
    between = _variance(differences) - sum(side.noise_of_mean for side in sides)
    several = [side for side in sides if side.seeds is not None]
    seeds = sum(side.seeds for side in several if side.seeds is not None) * 2 / len(several) if several else 0.0
    return Components(max(0.0, between), sum(side.of_a_sample for side in sides), max(0.0, seeds))


@dataclass(frozen=True, slots=True)
class _Side:
    means: Sequence[float]
    """Of each problem over the runs."""
    of_a_sample: float
    noise_of_mean: float
    """Mean over problems of the sampling variance of `means`."""
    seeds: float | None


def _side(runs: Rates) -> _Side:
    n_runs, n_problems = len(runs), len(runs[0])
    variances = [[c * (n - c) / (n * (n - 1)) for c, n in run] for run in runs]
    noise = [
        [v / n for v, (_, n) in zip(of_run, run, strict=True)] for of_run, run in zip(variances, runs, strict=True)
    ]
    means = [math.fsum(run[i][0] / run[i][1] for run in runs) / n_runs for i in range(n_problems)]
    total = math.fsum(math.fsum(row) for row in noise)
    seeds = None
    if n_runs > 1:
        of_runs = [math.fsum(c / n for c, n in run) / n_problems for run in runs]
        seeds = _variance(of_runs) - total / n_runs / n_problems**2
    of_a_sample = math.fsum(math.fsum(row) for row in variances) / (n_runs * n_problems)
    return _Side(means, of_a_sample, total / (n_runs**2 * n_problems), seeds)


def _variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
