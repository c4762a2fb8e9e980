"""Intervals against scipy's bootstrap and a plain loop: 1,000 problems x 64 samples x 10,000 draws.

    python bench/intervals.py --rounds 3

`mean` is the interval of a report, without draws, and `problems` draws problems (both against scipy.stats.bootstrap of
the mean). `samples` draws the samples of each problem as well, which scipy can't, so the loop does a few hundred draws
and is scaled up. `seeds` does so under five seeds. CPU seconds of one thread.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.stats

from harness.stats.intervals import DRAWS, bootstrap_interval, hierarchical_interval, mean_interval
from harness.stats.paired_tests import sign_flip

PROBLEMS, SAMPLES, SEEDS, LOOP_DRAWS = 1000, 64, 5, 100


def loop(right: Any, draws: int) -> None:
    """Draw seeds, problems and samples one draw after another, as the definition says."""
    rng = np.random.default_rng(0)
    samples = np.arange(SAMPLES) < right[:, :, None]
    for _ in range(draws):
        seeds, problems = rng.integers(len(right), size=len(right)), rng.integers(PROBLEMS, size=PROBLEMS)
        drawn = rng.integers(SAMPLES, size=(len(right), PROBLEMS, SAMPLES))
        samples[seeds[:, None, None], problems[None, :, None], drawn].mean()


def cpu_s(work: Callable[[], Any]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def compare(name: str, ours: Callable[[], Any], peer: Callable[[], Any], scale: float, rounds: int) -> None:
    pairs = [(cpu_s(ours), scale * cpu_s(peer)) for _ in range(rounds)]
    ratios = [theirs / mine for mine, theirs in pairs]
    mine, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(
        f"{name}: harness {mine:.2f} s, peer {theirs:.2f} s, "
        f"peer / harness {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    rng = np.random.default_rng(0)
    right = rng.binomial(SAMPLES, rng.beta(0.6, 0.9, size=(SEEDS, PROBLEMS)))
    rates, other = right[0] / SAMPLES, rng.random(PROBLEMS)
    scaled = DRAWS / LOOP_DRAWS

    def theirs(values: Any) -> Callable[[], Any]:
        return lambda: scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=DRAWS, batch=100)

    def flipped() -> Any:
        return scipy.stats.permutation_test(
            (rates - other,), np.mean, permutation_type="samples", n_resamples=DRAWS, batch=100
        )

    compare("mean", lambda: mean_interval(rates.tolist()), theirs(rates), 1, rounds)
    compare("problems, 65 values", lambda: bootstrap_interval(rates, 0), theirs(rates), 1, rounds)
    compare("problems, all values different", lambda: bootstrap_interval(other, 0), theirs(other), 1, rounds)
    one = (lambda: hierarchical_interval(right[0], SAMPLES), lambda: loop(right[:1], LOOP_DRAWS))
    compare("problems and samples", *one, scaled, rounds)
    five = (lambda: hierarchical_interval(right, SAMPLES), lambda: loop(right, LOOP_DRAWS))
    compare("seeds, problems and samples", *five, scaled, rounds)
    compare("signs", lambda: sign_flip(rates - other), flipped, 1, rounds)


if __name__ == "__main__":
    main()
