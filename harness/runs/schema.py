"""The files of a run folder as values, there and back: lines of completions and verdicts, the record, the estimates."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness.core.types import Completion, Estimate, Likelihood, RunRecord, Tokens, Verdict

Key = tuple[str, str, int]
"""Task, problem, sample index."""

FORMAT = 1
"""Version of the files. A folder of another format is refused."""
BAD_ROW = (KeyError, TypeError, ValueError)
"""Errors that come of a line or file with missing, unknown or mistyped fields."""


def completion_row(task: str, completion: Completion, *, with_ids: bool) -> dict[str, Any]:
    """Return the line of a completion. Token ids and log-probabilities, which take most of the room, are optional."""
    kept = completion.tokens if with_ids else counts_of(completion.tokens)
    row = {"task": task, **_fields(completion), "tokens": _fields(kept)}
    if completion.likelihoods:
        row["likelihoods"] = [_fields(one) for one in completion.likelihoods]
    else:
        del row["likelihoods"]
    return row


def counts_of(tokens: Tokens) -> Tokens:
    """Return the counts and the cost, without ids and log-probabilities."""
    return Tokens(tokens.n_prompt, tokens.n_completion, cost_usd=tokens.cost_usd)


def completion_from_row(row: dict[str, Any]) -> tuple[str, Completion]:
    """Return the task and the completion of a line."""
    task = row.pop("task")
    if "likelihoods" in row:
        row["likelihoods"] = tuple(Likelihood(**one) for one in row["likelihoods"])
    return task, Completion(**{**row, "tokens": Tokens(**row["tokens"])})


def verdict_row(task: str, problem_id: str, index: int, grader: str, verdict: Verdict) -> dict[str, Any]:
    return {"task": task, "problem_id": problem_id, "index": index, "grader": grader, **_fields(verdict)}


def verdict_from_row(row: dict[str, Any]) -> tuple[Key, str, Verdict]:
    """Return the key, the grader and the verdict of a line."""
    key = (row.pop("task"), row.pop("problem_id"), row.pop("index"))
    return key, row.pop("grader"), Verdict(**row)


def record_to_json(record: RunRecord) -> str:
    return _to_json(dataclasses.asdict(record))


def record_from_json(text: str) -> RunRecord | int:
    """Return the record of run.json, or only its format where that is not ours."""
    fields = json.loads(text)
    found: int = fields["format"]
    return RunRecord(**fields) if found == FORMAT else found


def estimates_to_json(estimates: Mapping[str, Sequence[Estimate]]) -> str:
    return _to_json({task: [dataclasses.asdict(estimate) for estimate in group] for task, group in estimates.items()})


def estimates_from_json(text: str) -> dict[str, list[Estimate]]:
    return {task: [Estimate(**row) for row in group] for task, group in json.loads(text).items()}


def clusters_to_json(clusters: Mapping[str, Mapping[str, str]]) -> str:
    return _to_json(clusters)


def _to_json(value: Any) -> str:
    return json.dumps(value, indent=1) + "\n"


def _fields(value: Any) -> dict[str, Any]:
    """Return a dataclass as a row. `dataclasses.asdict` would copy everything in it."""
    return {name: getattr(value, name) for name in type(value).__dataclass_fields__}
