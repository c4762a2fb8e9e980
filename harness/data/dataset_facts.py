"""Facts about a task for the run record, and whether its data match the recorded fingerprints."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar, cast

from harness.core.config import PluginChoice, label_of
from harness.core.errors import ConfigError, DataError
from harness.core.protocols import CodeTask, DatasetTask, Grader, Split, Task
from harness.core.types import LoadedData

T = TypeVar("T", bound=Task[Any])

MOST_NAMED = 20


def task_facts(
    task: Task[Any], split: Split, *, grader: str, is_strict: bool, warn: Callable[[str], None]
) -> dict[str, Any]:
    """Return the dataset card, the grader's name, the task's default sampling, and the fingerprint of the rows read.

    Call `warn` if rows differ from the recorded ones; raise DataError instead if `is_strict`.
    """
    card, sampling = asdict(task.card), asdict(task.sampling)
    facts_of_card = {key: card[key] for key in ("title", "source", "licence", "paper", "fingerprint")}
    facts = {**facts_of_card, "grader": grader, "sampling": {**sampling, "stop": list(sampling["stop"])}}
    if grader_facts := facts_of(task.grader):
        facts["judging"] = grader_facts
    if isinstance(task, DatasetTask):
        facts |= _loaded_facts(task.loaded(split), is_strict, warn)
    if isinstance(task, CodeTask):
        facts |= task.tests_told(split)
    return facts


def facts_of(grader: Grader[Any]) -> dict[str, str]:
    """One that runs programs says how they are held, or refuses beforehand."""
    return dict(grader.facts()) if hasattr(grader, "facts") else {}


def grader_name(task: Task[Any], chosen: PluginChoice | None) -> str:
    """The chosen grader with its options, else the id of the task's own: the name of the file it is written in."""
    return label_of(chosen) if chosen is not None else type(task.grader).__module__.rpartition(".")[2]


def judged_by(task: T, chosen: PluginChoice | None) -> T:
    """The task with another grader than its own; its own, which keeps the task's own options, where that is chosen."""
    if chosen is None or grader_name(task, chosen) == grader_name(task, None):
        return task
    changed: Any = copy.copy(task)
    try:
        changed.grader = chosen.build("graders")
    except AttributeError as error:
        raise ConfigError(f"this task can't be given another grader than its own: {error}") from error
    return cast(T, changed)


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
