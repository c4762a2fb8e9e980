"""Facts about a task for the run record, and whether its data match the recorded fingerprints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from harness.core.errors import DataError
from harness.core.protocols import Split, Task
from harness.core.types import LoadedData

MOST_NAMED = 20
"""Rows that the run record names if they differ."""


def task_facts(
    task: Task[Any], split: Split, *, grader: str, is_strict: bool, warn: Callable[[str], None]
) -> dict[str, Any]:
    """Return the dataset card, the grader's name, the task's default sampling, and the fingerprint of the rows read.

    Call `warn` if rows differ from the recorded ones; raise DataError instead if `is_strict`.
    """
    card, sampling = asdict(task.card), asdict(task.sampling)
    facts_of_card = {key: card[key] for key in ("title", "source", "licence", "paper", "fingerprint", "released")}
    facts = {**facts_of_card, "grader": grader, "sampling": {**sampling, "stop": list(sampling["stop"])}}
    if grader_facts := task.grader.facts():
        facts["judging"] = dict(grader_facts)
    if (loaded := task.loaded(split)) is not None:
        facts |= _loaded_facts(loaded, is_strict, warn)
    return {**facts, **task.test_facts(split)}


def describe_mismatch(data: LoadedData) -> str | None:
    """Return in one line how the rows differ from the recorded ones, or None."""
    if data.is_as_expected:
        return None
    if not data.expected:
        return f"the {data.split} rows ({data.n_rows}) have no recorded fingerprint, so they are unverified"
    named = "; ".join(data.differing[:3]) + (" ..." if len(data.differing) > 3 else "")
    return f"{len(data.differing)} of the {data.split} rows differ from the recorded ones ({named})"


def mismatch_or_yes(data: LoadedData) -> str:
    """Return `yes`, or how the rows differ from the recorded ones."""
    trouble = describe_mismatch(data)
    return "yes" if trouble is None else trouble


def _loaded_facts(data: LoadedData, is_strict: bool, warn: Callable[[str], None]) -> dict[str, Any]:
    trouble = describe_mismatch(data)
    if trouble is not None:
        if is_strict:
            raise DataError(
                f"{data.files[0]}: {trouble}; strict_data refuses such rows: fetch the file again, or unset strict_data"
            )
        warn(f"{data.files[0]}: {trouble}")
    return {
        "fingerprint": data.fingerprint,
        "expected_fingerprint": data.expected,
        "as_on_record": mismatch_or_yes(data),
        "rows": data.n_rows,
        "files": list(data.files),
        "differing_rows": list(data.differing[:MOST_NAMED]),
    }
