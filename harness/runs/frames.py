"""The files of run folders as pandas DataFrames: completions, verdicts, steps, estimates.

Lines are decoded into columns, so that 200,000 of them are a frame in a second or two. Every frame begins with the
column `run`, the label of the run it comes from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness.core.types import Estimate, Outcome
from harness.runs.folder import RunReader
from harness.runs.index import Count, StoredReason, TokenCounts, for_each_line, line_decoder, no_collections

if TYPE_CHECKING:
    import pandas as pd

Labelled = tuple[RunReader, str]
"""A run and its label."""


class _Completion(msgspec.Struct):
    task: str
    problem_id: str
    index: Count
    seed: int | None
    text: str
    finish_reason: StoredReason
    tokens: TokenCounts
    engine_s: float | None = None


class _Verdict(msgspec.Struct):
    task: str
    problem_id: str
    index: Count
    grader: str
    outcome: Outcome
    reward: float | None
    extracted: str | None = None
    reason: str = ""


COMPLETIONS = {
    "task": "task",
    "problem": "problem_id",
    "index": "index",
    "seed": "seed",
    "text": "text",
    "finish_reason": "finish_reason",
    "prompt_tokens": "tokens.n_prompt",
    "completion_tokens": "tokens.n_completion",
    "cost_usd": "tokens.cost_usd",
    "engine_s": "engine_s",
}
"""Column of the frame -> field of the line."""
VERDICTS = {
    "task": "task",
    "problem": "problem_id",
    **{name: name for name in ("index", "grader", "outcome", "reward", "extracted", "reason")},
}
SAMPLE = ["run", "task", "problem", "index"]
"""The columns that identify a completion."""


def completions(runs: Iterable[Labelled]) -> pd.DataFrame:
    """Return a row for each completion."""
    return _frame(runs, "completions.jsonl", _Completion, COMPLETIONS).astype({"cost_usd": "float64"})


def verdicts(runs: Iterable[Labelled]) -> pd.DataFrame:
    """Return a row for the last verdict of each grader on each completion. The reward of an ungraded one is NaN."""
    found = _frame(runs, "verdicts.jsonl", _Verdict, VERDICTS)
    kept = found.drop_duplicates([*SAMPLE, "grader"], keep="last", ignore_index=True)
    return kept.astype({"reward": "float64"})


def steps(runs: Iterable[Labelled]) -> pd.DataFrame:
    """Return a row for each training step, with a column for each step metric."""
    import pandas as pd

    rows = [{"run": label, **row} for run, label in runs for row in run.steps()]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["run", "step"])


def estimates(runs: Iterable[tuple[RunReader, str, str | None]]) -> pd.DataFrame:
    """Return a row for each estimate of each task, with the model that a run evaluated."""
    import pandas as pd

    names = [field.name for field in dataclasses.fields(Estimate)]
    rows = [
        (label, model, task, *(getattr(estimate, name) for name in names))
        for run, label, model in runs
        for task, group in run.estimates().items()
        for estimate in group
    ]
    columns = ["run", "model", "task", *("metric" if name == "name" else name for name in names)]
    return pd.DataFrame(rows, columns=columns)


def _frame(runs: Iterable[Labelled], file: str, kind: Any, columns: Mapping[str, str]) -> pd.DataFrame:
    """Return a row for each line. One run at a time becomes columns, which takes half the memory and time of all."""
    import pandas as pd

    decode = line_decoder(kind)
    with no_collections():
        parts = [_of_run(run.lines(file), label, decode, columns) for run, label in runs]
        found = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    absent = [name for name in ("run", *columns) if name not in found]
    return found.reindex(columns=["run", *columns]).astype(dict.fromkeys(absent, "object"))


def _of_run(path: Path, label: str, decode: Callable[[bytes], Any], columns: Mapping[str, str]) -> pd.DataFrame:
    """Return the rows of one run, without the columns that hold nothing: they would change the others' types."""
    import pandas as pd

    rows: list[Any] = []
    for_each_line(path, lambda line, _offset: rows.append(decode(line)))
    values = {name: list(map(attrgetter(field), rows)) for name, field in columns.items()}
    held = {name: found for name, found in values.items() if any(value is not None for value in found)}
    return pd.DataFrame({"run": [label] * len(rows), **held} if rows else {})
