"""Completions to verdicts, side by side where a grader can, so that a slow verdict does not hold up the engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from harness.core.protocols import Grader
from harness.core.types import Completion, Graded, Problem, Verdict

Ungraded = tuple[Problem[Any], Completion]

# Verdicts that may be outstanding for each that is being worked on; then the engine waits.
QUEUE = 64


class Keeper(Protocol):
    """Where verdicts go."""

    def append_verdict(self, completion: Completion, verdict: Verdict) -> None: ...


def in_order(
    answers: Iterable[Graded[Any] | Ungraded], grader: Grader[Any], keeper: Keeper | None
) -> Iterator[Graded[Any]]:
    """The answers with their verdicts, in the order they came; new verdicts are kept."""
    n_at_once: int = getattr(grader, "n_at_once", 1)
    threads = ThreadPoolExecutor(n_at_once)
    waiting: deque[Graded[Any] | tuple[Ungraded, Future[Verdict]]] = deque()
    try:
        for answer in answers:
            if isinstance(answer, Graded):
                waiting.append(answer)
            else:
                waiting.append((answer, _begun(threads, grader, answer, n_at_once)))
            while waiting and (len(waiting) > QUEUE * n_at_once or _is_done(waiting[0])):
                yield _verdict(waiting.popleft(), keeper)
        while waiting:
            yield _verdict(waiting.popleft(), keeper)
    finally:
        threads.shutdown(cancel_futures=True)


def _begun(threads: ThreadPoolExecutor, grader: Grader[Any], answer: Ungraded, n_at_once: int) -> Future[Verdict]:
    if n_at_once > 1:
        return threads.submit(grader.grade, *answer)
    now: Future[Verdict] = Future()
    now.set_result(grader.grade(*answer))
    return now


def _is_done(first: Graded[Any] | tuple[Ungraded, Future[Verdict]]) -> bool:
    return isinstance(first, Graded) or first[1].done()


def _verdict(first: Graded[Any] | tuple[Ungraded, Future[Verdict]], keeper: Keeper | None) -> Graded[Any]:
    if isinstance(first, Graded):
        return first
    (problem, completion), verdict = first[0], first[1].result()
    if keeper is not None:
        keeper.append_verdict(completion, verdict)
    return Graded(problem, completion, verdict)
