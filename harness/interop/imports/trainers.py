"""Rollouts that trainers write while they train: verl's rollout dumps and TRL's logged completions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from harness.core.types import Verdict
from harness.interop.imports.base import (
    Format,
    ProblemKeys,
    Row,
    Sample,
    question_of,
    text_of,
    verdict_of_score,
    whole,
)


class VerlDump(Format):
    """verl's `STEP.jsonl` in trainer.rollout_data_dir or validation_data_dir."""

    name = "verl"
    title = "verl"

    def recognises(self, rows: Sequence[Row]) -> bool:
        return all({"input", "output", "score", "step"} <= row.keys() for row in rows)

    def read(self, row: Row) -> Iterator[Sample]:
        found = row.get("problem_id")  # written by exports of this project, among others
        yield Sample(
            ProblemKeys(found if isinstance(found, str) else None, text=question_of(row["input"])),
            text_of(row["output"]),
            step=whole(row["step"]),
            verdicts={"verl:score": verdict_of_score(row["score"])},
        )


class TrlCompletions(Format):
    """TRL's `completions_STEP.parquet`, with log_completions: a column for each reward function."""

    name = "trl"
    title = "TRL"

    def recognises(self, rows: Sequence[Row]) -> bool:
        return all({"step", "prompt", "completion", "advantage"} <= row.keys() for row in rows)

    def read(self, row: Row) -> Iterator[Sample]:
        rewards = {name: value for name, value in row.items() if name not in _TRL_FIELDS and _is_reward(value)}
        found = row.get("problem_id")
        yield Sample(
            ProblemKeys(found if isinstance(found, str) else None, text=question_of(row["prompt"])),
            text_of(row["completion"]),
            step=whole(row["step"]),
            verdicts={f"trl:{name}": _verdict(value) for name, value in rewards.items()},
        )


_TRL_FIELDS = ("step", "prompt", "completion", "advantage")


def _is_reward(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _verdict(reward: float | None) -> Verdict:
    return verdict_of_score(reward)
