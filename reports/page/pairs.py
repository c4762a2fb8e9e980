"""Differences between all pairs of runs on a task, with the interval and the p-value of `harness compare`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from harness.reports.page.samples import TaskSamples


def pair_rows(task: TaskSamples, clusters: Mapping[str, str]) -> list[list[Any]]:
    """Return a row for each pair: the two runs, problems, both rates, difference, its interval, p."""
    names = list(task.problems)
    rates = [(columns.run, columns.rates()) for columns in task.runs]
    rows = []
    for (one, first), (other, second) in itertools.combinations(rates, 2):
        shared = [number for number in range(len(names)) if number in first and number in second]
        if shared:
            families = [f"of {clusters[names[p]]}" if names[p] in clusters else names[p] for p in shared]
            rows.append([one, other, *_compared([first[p] for p in shared], [second[p] for p in shared], families)])
    return rows


def _compared(first: Sequence[float], second: Sequence[float], families: Sequence[Hashable]) -> list[Any]:
    from harness.stats.intervals import by_cluster, usable
    from harness.stats.paired_tests import difference_interval, sign_flip

    differences = [b - a for a, b in zip(first, second, strict=True)]
    groups = usable(families)
    interval = difference_interval(differences, groups)
    flipped = sign_flip(differences if groups is None else by_cluster(differences, groups)[0][0])
    means = [math.fsum(values) / len(values) for values in (first, second, differences)]
    return [len(differences), *means, interval.low, interval.high, flipped.p]
