"""Counts of a run's samples by problem, which most tables are computed from.

A module that imports numpy: only tables and plots import it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.core.types import Estimate
from harness.reports.protocol_card import grader_of
from harness.reports.run_config import run_config
from harness.reports.run_facts import task_ids
from harness.runs.folder import RunReader
from harness.runs.index import CompletionIndex

MOST_CACHED = 256
FILES = ("run.json", "config.toml", "completions.jsonl", "verdicts.jsonl", "clusters.json")
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TaskSamples:
    """The samples of one task in one run, under its own grader. Arrays are by problem, sorted by id."""

    problems: tuple[str, ...]
    n_graded: Counts
    n_right: Counts
    n_ungraded: Counts
    n_truncated: int
    n_without_answer: int
    """Wrong samples that ended by themselves without an answer that the grader could extract."""
    tokens: Counts
    """Tokens of the completions of each problem."""
    engine_s: float | None
    """Time spent waiting for the engine; None where it was not measured."""
    cost_usd: float | None
    clusters: Mapping[str, str]

    @property
    def n_tokens(self) -> int:
        return int(self.tokens.sum())

    def tokens_estimate(self) -> Estimate:
        """Return the mean tokens of a sample, averaged within problems, then over problems."""
        from harness.stats.intervals import mean_interval, usable

        means = self.tokens / np.maximum(1, self.n_graded + self.n_ungraded)
        families = usable([self.clusters.get(problem, problem) for problem in self.problems])
        interval = mean_interval(means.tolist(), max(1.0, 2 * float(means.max())), families)
        counts = (len(self.problems), self.n_samples, 0)
        return Estimate("tokens a sample", float(means.mean()), interval.low, interval.high, *counts, interval.method)

    @property
    def n_samples(self) -> int:
        return int(self.n_graded.sum() + self.n_ungraded.sum())

    @property
    def fewest(self) -> int:
        """The smallest number of graded samples of a problem that has any."""
        graded = self.n_graded[self.n_graded > 0]
        return int(graded.min()) if graded.size else 0


def samples_of(run: RunReader) -> Mapping[str, TaskSamples]:
    """Return the samples of each task that the config asks for. Read once for as long as the files stay as they are.

    Only the last state of a folder is kept, so that a page of growing runs does not collect all of them.
    """
    stats = [(run.folder / name).stat() if (run.folder / name).exists() else None for name in FILES]
    stamp = tuple((stat.st_size, stat.st_mtime_ns) if stat is not None else None for stat in stats)
    former, samples = _cached.pop(run.folder, (None, {}))
    if former != stamp:
        samples = _read(run.folder)
    _cached[run.folder] = (stamp, samples)  # the last one used comes last
    if len(_cached) > MOST_CACHED:
        _cached.pop(next(iter(_cached)))
    return samples


_cached: dict[Path, tuple[object, Mapping[str, TaskSamples]]] = {}


def _read(folder: Path) -> Mapping[str, TaskSamples]:
    run = RunReader.read(folder)
    n, clusters = run_config(run).n, run.clusters()
    index = CompletionIndex(run, {task: str(grader_of(run, task)) for task in task_ids(run)})
    found = {task: _of_task(index, task, n, clusters.get(task, {})) for task in index.verdicts}
    return {task: samples for task, samples in found.items() if samples.problems}


def _of_task(index: CompletionIndex, task: str, n: int | None, clusters: Mapping[str, str]) -> TaskSamples:
    verdicts = {key: v for key, v in index.verdicts[task].items() if n is None or key[1] < n}
    problems = sorted({problem for problem, _ in verdicts})
    place = {problem: number for number, problem in enumerate(problems)}
    graded, right, ungraded, tokens = (np.zeros(len(problems), dtype=np.int64) for _ in range(4))
    n_truncated = n_without_answer = 0
    completions = []
    for key, verdict in verdicts.items():
        stored = index.completions[task].get(key)
        is_cut = stored is not None and stored.finish_reason == "length"
        n_truncated += is_cut
        if stored is not None:
            completions.append(stored)
            tokens[place[key[0]]] += stored.tokens.n_completion
        if verdict.outcome == "ungraded":
            ungraded[place[key[0]]] += 1
            continue
        graded[place[key[0]]] += 1
        right[place[key[0]]] += verdict.outcome == "correct"
        n_without_answer += verdict.outcome == "incorrect" and verdict.extracted is None and not is_cut
    kept = {problem: family for problem, family in clusters.items() if problem in place}
    engine_s = _total([stored.engine_s for stored in completions])
    cost_usd = _total([stored.tokens.cost_usd for stored in completions])
    counts = (graded, right, ungraded, n_truncated, n_without_answer)
    return TaskSamples(tuple(problems), *counts, tokens, engine_s, cost_usd, kept)


def _total(values: Sequence[float | None]) -> float | None:
    """Return the sum; None where a value is not on record, since a partial sum would mislead."""
    known = [value for value in values if value is not None]
    return math.fsum(known) if known and len(known) == len(values) else None


def rates(samples: TaskSamples) -> dict[str, float]:
    """Return the share of graded samples that are right, of each problem that has any."""
    return {
        problem: int(c) / int(n)
        for problem, n, c in zip(samples.problems, samples.n_graded, samples.n_right, strict=True)
        if n
    }


def pass_rates(samples: TaskSamples, k: int) -> dict[str, float]:
    """Return pass@k of each problem with at least k graded samples."""
    from harness.stats.intervals import pass_at_k

    has = samples.n_graded >= k
    values = pass_at_k(samples.n_graded[has], samples.n_right[has], k).tolist()
    return dict(zip((p for p, keep in zip(samples.problems, has, strict=True) if keep), values, strict=True))


def powers_of_two(most: int) -> Sequence[int]:
    """Return 1, 2, 4 ... and the number itself."""
    return sorted({2**i for i in range(most.bit_length()) if 2**i <= most} | ({most} if most else set()))
