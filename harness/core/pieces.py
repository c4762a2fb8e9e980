"""Lines of a run folder taken apart without being parsed: a million of them are read in seconds.

What the store writes has its fields in one order. A quote within a JSON string has a backslash before it, so a comma
and a quote stand between two fields alone. Lines of any other form are parsed, and taken apart as the store would
have written them. Pieces that come again and again are parsed once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from harness.core.journal import as_line, parsed
from harness.core.types import FinishReason, Tokens, Verdict

T = TypeVar("T")

MOST_KNOWN = 100_000
LONGEST_KNOWN = 500
COMPLETION_FIELDS = ("task", "problem_id", "index", "seed", "text", "finish_reason", "tokens", "engine_s")
VERDICT_FIELDS = ("task", "problem_id", "index", "grader", "outcome", "reward", "extracted", "reason", "details")


class Known(dict[bytes, T]):
    """What pieces mean. Those that are long or come late are not kept."""

    def __init__(self, meaning: Callable[[bytes], T]) -> None:
        super().__init__()
        self._meaning = meaning

    def __missing__(self, piece: bytes) -> T:
        found = self._meaning(piece)
        if len(self) < MOST_KNOWN and len(piece) <= LONGEST_KNOWN:
            self[piece] = found
        return found


def completion_pieces(line: bytes) -> tuple[bytes, int, int, bytes, float | None]:
    """Of a line of completions.jsonl: task and problem, index, seed, finish and tokens, time. The text is not read."""
    try:
        return _completion_pieces(line)
    except ValueError:
        return _completion_pieces(_as_the_store_writes(line, COMPLETION_FIELDS, {"engine_s": None}))


def _completion_pieces(line: bytes) -> tuple[bytes, int, int, bytes, float | None]:
    head = line.index(b',"index":')
    text = line.index(b',"text":"', head)
    index, _, seed = line[head + 9 : text].partition(b',"seed":')
    finish_reason = line.rindex(b'","finish_reason":', text)
    time = line.rindex(b',"engine_s":', finish_reason)
    engine_s = line[time + 12 : -2]
    if line.find(b'{"task":', text) >= 0:  # no text has that: half of one line, and another
        raise ValueError("two lines in one")
    return (
        line[:head],
        int(index),
        int(seed),
        line[finish_reason + 2 : time],
        float(engine_s) if engine_s != b"null" else None,
    )


def verdict_pieces(line: bytes) -> tuple[bytes, int, bytes]:
    """Of a line of verdicts.jsonl: task and problem, index, grader and verdict."""
    try:
        return _verdict_pieces(line)
    except ValueError:
        return _verdict_pieces(_as_the_store_writes(line, VERDICT_FIELDS, {}))


def _verdict_pieces(line: bytes) -> tuple[bytes, int, bytes]:
    grader = line.index(b',"grader":')
    index = line.rindex(b',"index":', 0, grader)
    return line[:index], int(line[index + 9 : grader]), line[grader + 1 : -2]


def _as_the_store_writes(line: bytes, names: Sequence[str], absent: Mapping[str, Any]) -> bytes:
    row = {**absent, **parsed(line)}
    return as_line({name: row[name] for name in names})


def task_and_problem(head: bytes) -> tuple[str, str]:
    row = parsed(head + b"}")
    return row["task"], row["problem_id"]


def finish(tail: bytes) -> tuple[FinishReason, Tokens]:
    """Why a completion ended, and its counts of tokens."""
    row = parsed(b"{" + tail + b"}")
    told = row["tokens"]
    return row["finish_reason"], Tokens(told["n_prompt"], told["n_completion"], cost_usd=told.get("cost_usd"))


def verdict(tail: bytes) -> tuple[str, Verdict]:
    """Whose verdict it is, and what it says."""
    row = parsed(b"{" + tail + b"}")
    return row.pop("grader"), Verdict(**row)
