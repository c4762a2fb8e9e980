"""Plain rows: columns for the problem and its completion or completions, under any names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigError, DataError, nearest
from harness.interop.imports.base import (
    Format,
    Origin,
    ProblemKeys,
    Row,
    Sample,
    finish_reason_of,
    is_conversation,
    question_of,
    text_of,
    verdict_of_score,
    whole,
)

KNOWN = {
    "id": ("problem_id", "id", "task_id", "question_id", "unique_id", "qid"),
    "number": ("number", "idx", "doc_id", "problem_idx", "problem_index"),
    "problem": ("problem", "question", "prompt", "input", "instruction", "query", "messages"),
    "completion": (
        *("completion", "completions", "response", "responses", "output", "outputs"),
        *(
            "generation",
            "generations",
            "generated_text",
            "model_output",
            "prediction",
            "predictions",
            "reply",
            "replies",
        ),
    ),
    "sample": ("sample_index", "sample_idx", "sample"),
    "finish_reason": ("finish_reason", "stop_reason"),
    "tokens": ("completion_tokens", "n_tokens", "num_tokens", "num_generated_tokens"),
    "score": (),
}
"""Column names that are recognised for each of our names. A score is read only where `--map` names it."""
PROBLEM = ("id", "number", "problem")


class Columns(Format):
    """Rows with any columns; `columns` maps our names (completion, problem, ...) to those of the file."""

    name = "rows"
    title = "plain rows"

    def __init__(self, columns: Mapping[str, str] | None = None) -> None:
        self._given = columns if columns is not None else {}
        self._found: dict[str, str] | None = None
        for ours in self._given:
            if ours not in KNOWN:
                raise ConfigError(f"--map has no column {ours!r} of ours; {nearest(ours, KNOWN)}")

    def recognises(self, rows: Sequence[Row]) -> bool:
        found = self._columns(rows[0])
        return "completion" in found and any(name in found for name in PROBLEM)

    def choose(self, path: Path, rows: Sequence[Row]) -> None:
        """Decide which column is which. Raise DataError with the columns of the file if that is not clear."""
        there = ", ".join(rows[0])
        absent = sorted(set(self._given.values()) - rows[0].keys())
        if absent:
            raise DataError(f"{path} has no column {absent[0]!r}, which --map names; it has {there}")
        several = [name for name in KNOWN["completion"] if name in rows[0]]
        if "completion" not in self._given and len(several) > 1:
            raise DataError(
                f"{path} has {len(several)} columns that may be the completion ({', '.join(several)}); choose one, "
                f"such as --map completion={several[0]}"
            )
        self._found = self._columns(rows[0])
        for name, meaning in (("completion", "the completion"), ("problem", "the problem (id, number or question)")):
            wanted = PROBLEM if name == "problem" else (name,)
            if not any(ours in self._found for ours in wanted):
                raise DataError(
                    f"{path} has no column that is known to be {meaning}; name it with --map "
                    f"{name}=COLUMN; it has {there}"
                )

    def _columns(self, row: Row) -> dict[str, str]:
        known = {ours: next((name for name in names if name in row), None) for ours, names in KNOWN.items()}
        chosen = {ours: name for ours, name in known.items() if name is not None and name not in self._given.values()}
        if any(name in self._given for name in PROBLEM):  # a named key is the only one
            chosen = {ours: name for ours, name in chosen.items() if ours not in PROBLEM}
        return {**chosen, **self._given}

    def read(self, row: Row) -> Iterator[Sample]:
        found = self._found if self._found is not None else self._columns(row)
        absent = [name for name in found.values() if name not in row]
        if absent:
            raise ValueError(f"it has no column {absent[0]!r}, which the first row has")
        cells = {ours: row[name] for ours, name in found.items()}
        value = cells["completion"]
        is_list = isinstance(value, list) and not is_conversation(value)
        several: list[Any] = value if is_list else [value]
        given = cells.get("score")
        scores: list[Any] = given if is_list and isinstance(given, list) else [given] * len(several)
        if len(scores) != len(several):
            raise ValueError(f"{len(several)} completions have {len(scores)} scores")
        for place, completion in enumerate(several):
            yield Sample(
                _keys(cells),
                text_of(completion),
                place if len(several) > 1 else whole(cells.get("sample")),
                finish_reason_of(cells.get("finish_reason")),
                n_completion=whole(cells.get("tokens")) if len(several) == 1 else None,
                verdicts={"imported:score": verdict_of_score(scores[place])} if "score" in cells else {},
            )

    def origin(self, path: Path, rows: Sequence[Row]) -> Origin:  # noqa: ARG002
        models = {row["model"] for row in rows if isinstance(row.get("model"), str)}
        return Origin(None, models.pop() if len(models) == 1 else None)


def _keys(cells: Mapping[str, Any]) -> ProblemKeys:
    """Return the keys of a row. A problem may be given by its id, its number or its question in one column."""
    problem, plain_id = cells.get("problem"), cells.get("id")
    number = whole(cells["number"]) if "number" in cells else whole(plain_id)
    text = None
    if isinstance(problem, (str, list)) and whole(problem) is None:
        text = question_of(problem)
    elif problem is not None and number is None:
        number = whole(problem)
    named = plain_id if plain_id is not None else problem if isinstance(problem, (str, int)) else None
    return ProblemKeys(str(named) if named is not None else None, number, text)
