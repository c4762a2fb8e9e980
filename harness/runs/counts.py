"""Counts of each problem of an evaluation: samples, right ones, ungraded ones, and right ones by canonical solution.

They are all that pass@k, distinct@k and comparisons of runs are computed from, in a thousandth of the room that the
completions take.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from harness.core.types import Outcome
from harness.runs.folder import RunReader
from harness.runs.index import Count, for_each_line, line_decoder, no_collections

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {"task": str, "problem": str, "n": int, "correct": int, "ungraded": int, "solutions": str}
"""Column -> type of its values."""


class _Details(msgspec.Struct):
    solution: str | None = None


class _Verdict(msgspec.Struct):
    task: str
    problem_id: str
    index: Count
    grader: str
    outcome: Outcome
    details: _Details = msgspec.field(default_factory=_Details)


def problem_counts(run: RunReader, n: int | None = None) -> pd.DataFrame:
    """Return a row for each problem, under each task's own grader, of the first `n` samples, or of all.

    `solutions` holds the numbers of samples of each distinct right solution, the largest first: "5 3 1". It is empty
    where the grader identifies none. Problems are in the order of their first verdicts.
    """
    import pandas as pd

    return pd.DataFrame(problem_rows(run, n), columns=list(COLUMNS)).astype(COLUMNS)


def problem_rows(run: RunReader, n: int | None = None) -> list[tuple[str, str, int, int, int, str]]:
    """Return the rows of `problem_counts` as tuples, for the many runs of a study."""
    graders = {task: facts["grader"] for task, facts in run.record.data.items() if "grader" in facts}
    last = _last_verdicts(run, graders)
    outcomes: dict[tuple[str, str], list[_Verdict]] = {}
    for (task, problem, index), verdict in last.items():
        if n is None or index < n:
            outcomes.setdefault((task, problem), []).append(verdict)
    return [(*key, *_row(verdicts)) for key, verdicts in outcomes.items()]


def _last_verdicts(run: RunReader, graders: Mapping[str, str]) -> dict[tuple[str, str, int], _Verdict]:
    last: dict[tuple[str, str, int], _Verdict] = {}
    decode = line_decoder(_Verdict)

    def add(line: bytes, _offset: int) -> None:
        row = decode(line)
        if graders.get(row.task) == row.grader:
            last[row.task, row.problem_id, row.index] = row

    with no_collections():
        for_each_line(run.lines("verdicts.jsonl"), add)
    return last


def _row(verdicts: list[_Verdict]) -> tuple[int, int, int, str]:
    right = [verdict for verdict in verdicts if verdict.outcome == "correct"]
    n_ungraded = sum(verdict.outcome == "ungraded" for verdict in verdicts)
    solutions = Counter(v.details.solution for v in right if v.details.solution is not None)
    return len(verdicts), len(right), n_ungraded, " ".join(map(str, sorted(solutions.values(), reverse=True)))
