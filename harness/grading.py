"""Completions to verdicts, beside the engine and side by side where a grader can: no verdict holds the engine up.

What waits for its verdict is kept, however long it gets: whoever asks keeps all of them in the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from harness.core.protocols import Grader
from harness.core.types import Completion, Graded, Problem, Verdict

Ungraded = tuple[Problem[Any], Completion]


class Keeper(Protocol):
    """Where verdicts go."""

    def append_verdict(self, completion: Completion, verdict: Verdict) -> None: ...


def in_order(
    answers: Iterable[Graded[Any] | Ungraded], grader: Grader[Any], keeper: Keeper | None
) -> Iterator[Graded[Any]]:
    """The answers with their verdicts, in the order they came; new verdicts are kept."""
    threads = ThreadPoolExecutor(getattr(grader, "n_at_once", 1))
    waiting: deque[Graded[Any] | tuple[Ungraded, Future[Verdict]]] = deque()
    try:
        for answer in answers:
            if isinstance(answer, Graded):
                waiting.append(answer)
            else:
                waiting.append((answer, threads.submit(grader.grade, *answer)))
            while waiting and _is_done(waiting[0]):
                yield _verdict(waiting.popleft(), keeper)
        while waiting:
            yield _verdict(waiting.popleft(), keeper)
    finally:
        threads.shutdown(cancel_futures=True)


def _is_done(first: Graded[Any] | tuple[Ungraded, Future[Verdict]]) -> bool:
    return isinstance(first, Graded) or first[1].done()


def _verdict(first: Graded[Any] | tuple[Ungraded, Future[Verdict]], keeper: Keeper | None) -> Graded[Any]:
    if isinstance(first, Graded):
        return first
    (problem, completion), verdict = first[0], first[1].result()
    if keeper is not None:
        keeper.append_verdict(completion, verdict)
    return Graded(problem, completion, verdict)
