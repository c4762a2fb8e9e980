"""Completions and verdicts as lines of a run folder, there and back."""

from __future__ import annotations

from typing import Any

from harness.core.types import Completion, Likelihood, Tokens, Verdict

Key = tuple[str, str, int]
"""Task, problem, sample index."""


def completion_row(task: str, completion: Completion, *, with_ids: bool) -> dict[str, Any]:
    """Token ids and log-probabilities take most of the room; likelihoods are there where texts were scored."""
    tokens = completion.tokens
    kept = tokens if with_ids else Tokens(tokens.n_prompt, tokens.n_completion, cost_usd=tokens.cost_usd)
    row = {"task": task, **_fields(completion), "tokens": _fields(kept)}
    if completion.likelihoods:
        row["likelihoods"] = [_fields(one) for one in completion.likelihoods]
    else:
        del row["likelihoods"]
    return row


def verdict_row(task: str, problem_id: str, index: int, grader: str, verdict: Verdict) -> dict[str, Any]:
    return {"task": task, "problem_id": problem_id, "index": index, "grader": grader, **_fields(verdict)}


def completion_of(row: dict[str, Any]) -> tuple[str, Completion]:
    task = row.pop("task")
    if "likelihoods" in row:
        row["likelihoods"] = tuple(Likelihood(**one) for one in row["likelihoods"])
    return task, Completion(**{**row, "tokens": Tokens(**row["tokens"])})


def verdict_of(row: dict[str, Any]) -> tuple[Key, str, Verdict]:
    key = (row.pop("task"), row.pop("problem_id"), row.pop("index"))
    return key, row.pop("grader"), Verdict(**row)


def _fields(value: Any) -> dict[str, Any]:
    """A dataclass as a row, without the copy of all that is in it that `dataclasses.asdict` makes."""
    return {name: getattr(value, name) for name in type(value).__dataclass_fields__}
