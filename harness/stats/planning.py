"""The variance components of a comparison, and how many samples, problems and runs tell two runs apart.

The variance of the difference of two means of pass@k is (between + noise(n) / R) / m + seeds / R, with m problems, n
samples of each and R runs a side (Miller 2024, section 5, with a component for seeds). avg is pass@1.

The noise of the estimator from n samples is exact: with q the probability of a wrong sample and U = C(n - c, k) /
C(n, k), E U^2 = sum over j of C(k, j) C(n - k, k - j) / C(n, k) q^(2k - j), where j counts the samples that two draws
of k share, and E U = q^k. Each power of q has the unbiased estimator 1 - pass@r of the samples that are there. So
planning for pass@k needs 2 k of them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from harness.stats.intervals import LEVEL, pass_at_k
from harness.stats.paired_tests import POWER, standard_error

MOST_SAMPLES = 2**20


@dataclass(frozen=True, slots=True)
class Components:
    """Variances: of the problems' true differences, of k samples of each side, and of the effect of a run's seed."""

    between: float
    """Where problems come in clusters, it is for more clusters of the same sizes."""
    samples: float
    """Of pass@k from k samples, of the first and of the second side together."""
    seeds: float
    """Of the two sides together; 0 where no side has several runs."""
    k: int = 1
    powers: Sequence[float] = ()
    """Means over problems of q^k, q^(k+1), ... q^(2k), of both sides together; not needed for k = 1."""

    def noise(self, n_samples: int) -> float:
        """Return the variance of pass@k of a problem from n samples, of both sides together, mean over problems."""
        if self.k == 1:
            return self.samples / n_samples
        return max(0.0, _noise(self.powers, self.k, n_samples))

    def error(self, n_problems: int, n_samples: int, n_runs: int = 1) -> float:
        """Return the standard error of the difference in such a comparison."""
        over_problems = (self.between + self.noise(n_samples) / n_runs) / n_problems
        return math.sqrt(over_problems + self.seeds / n_runs)

    def problems_needed(self, difference: float, n_samples: int, n_runs: int = 1, power: float = POWER) -> int | None:
        """Return how many problems find this true difference with this power; None where no number does."""
        left = (difference / factor(power)) ** 2 - self.seeds / n_runs
        over_problems = self.between + self.noise(n_samples) / n_runs
        return max(2, math.ceil(over_problems / left)) if left > 0 else None

    def samples_needed(self, difference: float, n_problems: int, n_runs: int = 1, power: float = POWER) -> int | None:
        """Return how many samples of each problem do; None where no number up to MOST_SAMPLES does."""
        left = ((difference / factor(power)) ** 2 - self.seeds / n_runs) * n_problems - self.between
        if left <= 0 or self.noise(MOST_SAMPLES) / n_runs > left:
            return None
        low, high = self.k - 1, MOST_SAMPLES
        while high - low > 1:  # the noise falls with n
            n = (low + high) // 2
            low, high = (low, n) if self.noise(n) / n_runs <= left else (n, high)
        return high


def _noise(powers: Sequence[float], k: int, n: int) -> float:
    """Return E U^2 - (E U)^2 from q^k ... q^(2k)."""
    if n < k:
        raise ValueError(f"pass@{k} needs {k} samples, not {n}")
    ways = math.comb(n, k)
    shares = [math.comb(k, j) * math.comb(n - k, k - j) / ways for j in range(k + 1)]
    return math.fsum(share * powers[k - j] for j, share in enumerate(shares)) - powers[k]


def factor(power: float) -> float:
    """Return the multiple of its standard error at which a difference is found with this power, at the 5% level."""
    normal = NormalDist()
    return normal.inv_cdf((1 + LEVEL) / 2) + normal.inv_cdf(power)


Rates = Sequence[Sequence[tuple[int, int]]]
"""Of each run of a side and each problem: right samples, and graded samples (at least 2)."""


def components(first: Rates, second: Rates, k: int = 1, clusters: Sequence[Hashable] | None = None) -> Components:
    """Estimate the components of pass@k from runs on the same problems, each by its unbiased estimator, at least 0.

    The spread of the problems' differences holds the noise of their samples, and that of the runs' means holds it too;
    it is subtracted. With `clusters`, one for each problem, the spread is that of clusters.
    """
    n_problems = len(first[0])
    if n_problems < 2 or any(n < 2 * k for side in (first, second) for run in side for _, n in run):
        raise ValueError(f"planning pass@{k} needs two problems, and {2 * k} graded samples of each in every run")
    sides = [_side(side, k) for side in (first, second)]
    differences = [b - a for a, b in zip(sides[0].means, sides[1].means, strict=True)]
    spread = standard_error(differences, clusters) ** 2 * n_problems
    between = spread - sum(side.noise_of_mean for side in sides)
    several = [side.seeds for side in sides if side.seeds is not None]
    seeds = math.fsum(several) * 2 / len(several) if several else 0.0
    powers = [math.fsum(of_sides) for of_sides in zip(*(side.powers for side in sides), strict=True)]
    return Components(max(0.0, between), max(0.0, powers[0] - powers[k]), max(0.0, seeds), k, powers)


@dataclass(frozen=True, slots=True)
class _Side:
    means: Sequence[float]
    """Of each problem over the runs."""
    powers: Sequence[float]
    """Means over problems and runs of q^k ... q^(2k)."""
    noise_of_mean: float
    """Mean over problems of the sampling variance of `means`."""
    seeds: float | None


def _side(runs: Rates, k: int) -> _Side:
    n_runs, n_problems = len(runs), len(runs[0])
    powers = [[_powers(right, n, k) for right, n in run] for run in runs]
    values = [[1 - of_problem[0] for of_problem in run] for run in powers]
    noise = [
        [_noise(p, k, n) for p, (_, n) in zip(of_run, run, strict=True)]
        for of_run, run in zip(powers, runs, strict=True)
    ]
    total = math.fsum(math.fsum(row) for row in noise)
    seeds = None
    if n_runs > 1:
        seeds = _variance([math.fsum(run) / n_problems for run in values]) - total / n_runs / n_problems**2
    flat = [of_problem for run in powers for of_problem in run]
    return _Side(
        means=[math.fsum(run[i] for run in values) / n_runs for i in range(n_problems)],
        powers=[math.fsum(column) / len(flat) for column in zip(*flat, strict=True)],
        noise_of_mean=total / (n_runs**2 * n_problems),
        seeds=seeds,
    )


def _powers(right: int, n: int, k: int) -> list[float]:
    """Return unbiased estimates of q^k ... q^(2k) of a problem."""
    return [1.0 - float(pass_at_k(n, right, r)) for r in range(k, 2 * k + 1)]


def _variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
