"""What a person is told while completions are graded: how far it is, how many are right, and what looks wrong."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from harness.core.progress import Progress
from harness.core.types import Completion, Graded, StoredCompletion

SOON = 32
"""After so many empty completions, and no other, it is said without waiting for the end."""
_EMPTY = "the model stopped at once: is the chat template its own, and no stop string part of every answer?"


def watched(
    graded: Iterable[Graded[Any]],
    task: str,
    n_wanted: int,
    on_record: Collection[tuple[str, int]],
    progress: Progress,
) -> Iterator[Graded[Any]]:
    """The same items, counted."""
    progress.begin(f"eval {task}", n_wanted, len(on_record))
    n_correct = n_graded = n_empty = n_seen = 0
    try:
        for item in graded:
            n_graded += item.verdict.outcome != "ungraded"
            n_correct += item.verdict.outcome == "correct"
            n_seen += 1
            n_empty += _is_empty(item.completion)
            if n_seen == n_empty == SOON:
                progress.warn(f"{task}: the first {SOON} completions are all empty; {_EMPTY}")
            is_new = (item.problem.id, item.completion.index) not in on_record
            progress.advance(is_new, {"solved": n_correct / n_graded if n_graded else 0.0})
            yield item
    finally:  # a message after it gets a line of its own
        progress.end()
    if n_empty:
        progress.warn(f"{task}: {n_empty} of {n_seen} completions are empty; {_EMPTY}")


def _is_empty(completion: Completion | StoredCompletion) -> bool:
    """Return whether it has no text. One of more than two tokens has some, and is not read from its file."""
    may_be = completion.finish_reason != "failed" and completion.tokens.n_completion <= 2
    return may_be and not completion.load().text.strip()
