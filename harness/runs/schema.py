"""The files of a run folder as values, there and back: lines of completions and verdicts, the record, the estimates.

What is read back is validated as strictly as what is written: unknown or missing fields, wrong types, and numbers that
are not finite raise one of `BAD_ROW`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from harness.core.types import Completion, Estimate, KeptGroup, KeptSample, RunRecord, Tokens, Verdict

T = TypeVar("T")
Key = tuple[str, str, int]
"""Task, problem, sample index."""

FORMAT = 1
"""Version of the files. A folder of another format is refused."""
BAD_ROW = (KeyError, TypeError, ValueError, RecursionError, OverflowError)
"""Errors that come of a line or file with missing, unknown or mistyped fields."""
LARGEST = 2**53
"""A count above it is none: it is more than a float holds exactly."""
CHECKSUM = "checksum"
"""Field of run.json: a digest of the others."""


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
    task = _text(row.pop("task"))
    completion = built(Completion, row)
    _refuse_unknown(Tokens, row["tokens"])
    for one in completion.likelihoods:
        if math.isnan(one.logp):
            raise ValueError("a log-likelihood is not a number")
    completion = dataclasses.replace(completion, likelihoods=tuple(completion.likelihoods))
    check_completion(completion.index, completion.finish_reason, completion.tokens, completion.engine_s)
    return task, completion


def check_completion(index: int, finish_reason: str, tokens: Any, engine_s: float | None) -> None:
    """Raise ValueError for numbers that a stored completion can't have."""
    for count in (index, tokens.n_prompt, tokens.n_completion):
        _index(count)
    if finish_reason == "failed":
        raise ValueError("a completion that failed is never stored")
    if not all(x is None or math.isfinite(x) for x in (tokens.cost_usd, engine_s)):
        raise ValueError("a number is not finite")


def verdict_row(task: str, problem_id: str, index: int, grader: str, verdict: Verdict) -> dict[str, Any]:
    return {"task": task, "problem_id": problem_id, "index": index, "grader": grader, **_fields(verdict)}


def verdict_from_row(row: dict[str, Any]) -> tuple[Key, str, Verdict]:
    """Return the key, the grader and the verdict of a line."""
    key = (_text(row.pop("task")), _text(row.pop("problem_id")), _index(row.pop("index")))
    return key, _text(row.pop("grader")), built(Verdict, row)


def record_to_json(record: RunRecord) -> str:
    fields = dataclasses.asdict(record)
    return _to_json({**fields, CHECKSUM: _digest_of(fields)})


def record_from_json(text: str) -> RunRecord | int:
    """Return the record of run.json, or only its format where that is not ours."""
    fields = json.loads(text)
    found = _index(fields["format"])
    if found != FORMAT:
        return found
    checksum = fields.pop(CHECKSUM, None)  # earlier versions wrote none
    if checksum is not None and checksum != _digest_of(fields):
        raise ValueError("it does not fit its checksum, so it was altered")
    record = built(RunRecord, fields)
    for name, facts in record.data.items():
        wrong = [key for key, kind in _FACTS.items() if not isinstance(facts.get(key, kind()), kind)]
        if wrong:
            raise ValueError(f"data.{name}.{wrong[0]} has the wrong type")
    return record


# Facts that this version reads; the others are shown as they are.
_FACTS: Mapping[str, Any] = {"fingerprint": str, "name": str, "grader": str, "sampling": dict, "judging": dict}


def _digest_of(fields: Mapping[str, Any]) -> str:
    return digest(json.dumps(fields, sort_keys=True))


def digest(text: str) -> str:
    """Return the digest of a file of the run, which run.json keeps."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def estimates_to_json(estimates: Mapping[str, Sequence[Estimate]]) -> str:
    return _to_json({task: [dataclasses.asdict(estimate) for estimate in group] for task, group in estimates.items()})


def estimates_from_json(text: str) -> dict[str, list[Estimate]]:
    groups = built(dict[str, list[dict[str, Any]]], json.loads(text))
    estimates = {task: [built(Estimate, row) for row in group] for task, group in groups.items()}
    for estimate in (estimate for group in estimates.values() for estimate in group):
        for count in (estimate.n_problems, estimate.n_completions, estimate.n_ungraded):
            _index(count)
    return estimates


def clusters_from_json(text: str) -> dict[str, dict[str, str]]:
    return built(dict[str, dict[str, str]], json.loads(text))


def step_from_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return the step metrics of a line: the number of the step, and numbers."""
    _index(row["step"])
    for name, value in row.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or (isinstance(value, int) and abs(value) > LARGEST):
            raise ValueError(f"{name} is not a number that a step has")
        if name in ("reward", "solve_rate") and not math.isfinite(value):
            raise ValueError(f"{name} is not finite")
    return row


def group_row(group: KeptGroup) -> dict[str, Any]:
    return {**_fields(group), "samples": [_fields(sample) for sample in group.samples]}


def group_from_row(row: dict[str, Any]) -> KeptGroup:
    """Return a kept group of a training step."""
    group = built(KeptGroup, row)
    _index(group.step)
    for sample, fields in zip(group.samples, row["samples"], strict=True):
        _refuse_unknown(KeptSample, fields)
        _index(sample.index)
        ids, logp = sample.token_ids, sample.logp
        if ids is not None and logp is not None and len(ids) != len(logp):
            raise ValueError("there are not as many log-probabilities as tokens")
    return group


def warning_from_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a warning of a training: step, name and text."""
    _index(row["step"])
    _text(row["text"])
    return row


def clusters_to_json(clusters: Mapping[str, Mapping[str, str]]) -> str:
    return _to_json(clusters)


def _to_json(value: Any) -> str:
    return json.dumps(value, indent=1) + "\n"


def built(kind: type[T], value: Any) -> T:
    """Return a value of this type from decoded JSON, whose types and fields must be right."""
    import msgspec  # late: many commands read no such file

    if dataclasses.is_dataclass(kind):
        _refuse_unknown(kind, value)
    return msgspec.convert(value, kind)


def _refuse_unknown(kind: Any, row: Mapping[str, Any]) -> None:
    unknown = row.keys() - kind.__dataclass_fields__.keys()
    if unknown:
        raise ValueError(f"unknown field {min(unknown)!r}")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a text is needed, not {type(value).__name__}")
    return value


def _index(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST:
        raise TypeError(f"a count is needed, not {str(value)[:40]}")
    return value


def _fields(value: Any) -> dict[str, Any]:
    """Return a dataclass as a row. `dataclasses.asdict` would copy everything in it."""
    return {name: getattr(value, name) for name in type(value).__dataclass_fields__}
