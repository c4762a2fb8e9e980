"""Completions to verdicts, beside the engine and side by side where a grader can: no verdict holds the engine up.

What waits for its verdict is kept, however long it gets: whoever asks keeps all of them in the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from harness.core.protocols import Grader
from harness.core.types import Completion, Graded, Problem, StoredCompletion, Verdict

A = TypeVar("A")
B = TypeVar("B")
End = Literal["all", "abandoned"]


class Pending(NamedTuple):
    """A completion that a verdict is wanted of."""

    problem: Problem[Any]
    completion: Completion | StoredCompletion
    kept: StoredCompletion | None = None
    """The same as it goes on, where its text is on record and need not be held."""


Waiting = Graded[Any] | tuple[Problem[Any], Completion | StoredCompletion, Future[Verdict]]


class Keeper(Protocol):
    """Where verdicts go."""

    def append_verdict(self, completion: Completion | StoredCompletion, verdict: Verdict) -> None: ...


def in_order(
    answers: Iterable[Graded[Any] | Pending], grader: Grader[Any], keeper: Keeper | None
) -> Iterator[Graded[Any]]:
    """The answers with their verdicts, in the order they came; new verdicts are kept."""
    threads = ThreadPoolExecutor(getattr(grader, "n_at_once", 1))
    waiting: deque[Waiting] = deque()
    try:
        for answer in answers:
            if isinstance(answer, Graded):
                waiting.append(answer)
            else:
                waiting.append(_submitted(answer, grader, threads))
            while waiting and _is_done(waiting[0]):
                yield _verdict(waiting.popleft(), keeper)
        while waiting:
            yield _verdict(waiting.popleft(), keeper)
    finally:
        threads.shutdown(cancel_futures=True)


def _submitted(answer: Pending, grader: Grader[Any], threads: ThreadPoolExecutor) -> Waiting:
    problem, completion, kept = answer
    verdict = threads.submit(lambda: grader.grade(problem, completion.load()))
    return problem, kept if kept is not None else completion, verdict


def _is_done(first: Waiting) -> bool:
    return isinstance(first, Graded) or first[2].done()


def _verdict(first: Waiting, keeper: Keeper | None) -> Graded[Any]:
    if isinstance(first, Graded):
        return first
    problem, completion, found = first
    verdict = found.result()
    if keeper is not None:
        keeper.append_verdict(completion, verdict)
    return Graded(problem, completion, verdict)


# --- a thread of its own ----------------------------------------------------------------------------------------


def beside(work: Callable[[Iterator[A]], Iterable[B]], inputs: Iterable[A]) -> Iterator[B]:
    """What `work` makes of the inputs, in a thread of its own: whoever gives them never waits for it.

    When they break off, or nobody wants more, `work` is still given all that there were, and then ended.
    """
    inbox: SimpleQueue[tuple[A] | End] = SimpleQueue()
    outbox: SimpleQueue[tuple[B] | None] = SimpleQueue()
    with ThreadPoolExecutor(1, "beside") as thread:
        worked = thread.submit(_put_out, work, inbox, outbox)
        try:
            for item in inputs:
                inbox.put((item,))
                while not outbox.empty():
                    if (made := outbox.get()) is None:  # it ended before its inputs did
                        return worked.result()
                    yield made[0]
            inbox.put("all")
            while (made := outbox.get()) is not None:
                yield made[0]
            worked.result()
        finally:
            inbox.put("abandoned")


class _AbandonedError(Exception):
    """Nobody wants what would be made."""


def _put_out(
    work: Callable[[Iterator[A]], Iterable[B]], inbox: SimpleQueue[tuple[A] | End], outbox: SimpleQueue[tuple[B] | None]
) -> None:
    try:
        for made in work(_taken_in(inbox)):
            outbox.put((made,))
    except _AbandonedError:
        pass
    finally:
        outbox.put(None)


def _taken_in(inbox: SimpleQueue[tuple[A] | End]) -> Iterator[A]:
    while True:
        match inbox.get():
            case "all":
                return
            case "abandoned":
                raise _AbandonedError
            case (item,):
                yield item
