"""The two threads behind the evaluation loop: grading never delays the engine.

`run_in_background` feeds a second thread from the engine's. `grade_in_order` grades there, several completions at a
time if the grader can. Both queues are unbounded: the caller keeps all completions in the end anyway.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from harness.core.errors import DataError, UsageError
from harness.core.protocols import Grader
from harness.core.types import Completion, Graded, Problem, StoredCompletion, Verdict

A = TypeVar("A")
B = TypeVar("B")

GRADER_FAILED = "the grader failed"
MAX_ERROR_CHARACTERS = 500


class VerdictSink(Protocol):
    """Where new verdicts are stored."""

    def append_verdict(self, completion: Completion | StoredCompletion, verdict: Verdict) -> None: ...


class Pending(NamedTuple):
    """A completion without a verdict."""

    problem: Problem[Any]
    completion: Completion | StoredCompletion
    stored: StoredCompletion | None = None
    """Its handle, which takes its place once it is graded, so that its text need not be held."""


class _Grading(NamedTuple):
    """A completion whose grading has begun."""

    problem: Problem[Any]
    completion: Completion | StoredCompletion
    verdict: Future[Verdict]


def grade_in_order(
    items: Iterable[Graded[Any] | Pending],
    grader: Grader[Any],
    sink: VerdictSink | None,
    most_begun: int | None = None,
) -> Iterator[Graded[Any]]:
    """Grade what is pending and yield all items in their order. Each new verdict goes to the sink first.

    With `most_begun` no more items are taken until some of that many are graded.
    """
    threads = ThreadPoolExecutor(grader.n_at_once)
    begun: deque[Graded[Any] | _Grading] = deque()
    try:
        for item in items:
            begun.append(item if isinstance(item, Graded) else _begin(item, grader, threads))
            while begun and (_is_done(begun[0]) or len(begun) == most_begun):
                yield _finish(begun.popleft(), sink)
        while begun:
            yield _finish(begun.popleft(), sink)
    finally:
        threads.shutdown(cancel_futures=True)


def _begin(item: Pending, grader: Grader[Any], threads: ThreadPoolExecutor) -> _Grading:
    problem, completion, stored = item
    verdict = threads.submit(lambda: verdict_of(grader, problem, completion.load()))
    return _Grading(problem, stored if stored is not None else completion, verdict)


def verdict_of(grader: Grader[Any], problem: Problem[Any], completion: Completion) -> Verdict:
    """Return the grader's verdict, or `ungraded` if it raises: one completion must not end a run.

    Raises UsageError other than DataError, since the request is wrong then, whatever the completion.
    """
    try:
        verdict: object = grader.grade(problem, completion)
    except Exception as error:
        if isinstance(error, UsageError) and not isinstance(error, DataError):
            raise
        return Verdict("ungraded", None, reason=GRADER_FAILED, details={"error": _described(error)})
    if not isinstance(verdict, Verdict):
        error_text = f"grade() returned {type(verdict).__name__} in place of a Verdict"
        return Verdict("ungraded", None, reason=GRADER_FAILED, details={"error": error_text})
    return verdict


def _described(error: Exception) -> str:
    """Return the error and the line that raised it, in a bounded form."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f", raised in {frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {error}"[:MAX_ERROR_CHARACTERS] + where


def _is_done(item: Graded[Any] | _Grading) -> bool:
    return isinstance(item, Graded) or item.verdict.done()


def _finish(item: Graded[Any] | _Grading, sink: VerdictSink | None) -> Graded[Any]:
    """Wait for the verdict and store it."""
    if isinstance(item, Graded):
        return item
    verdict = item.verdict.result()
    if sink is not None:
        sink.append_verdict(item.completion, verdict)
    return Graded(item.problem, item.completion, verdict)


# --- the second thread ------------------------------------------------------------------------------------------

_End = Literal["complete", "abandoned"]


class _AbandonedError(Exception):
    """Raised inside the work when its results are no longer wanted."""


def run_in_background(work: Callable[[Iterator[A]], Iterable[B]], inputs: Iterable[A]) -> Iterator[B]:
    """Yield the results of `work(inputs)`, which runs in a second thread. `inputs` is iterated in the caller's thread.

    The inputs are never held up by the work. If they raise, or the caller stops iterating, `work` still gets every
    input so far and is then ended.
    """
    inbox: SimpleQueue[tuple[A] | _End] = SimpleQueue()
    outbox: SimpleQueue[tuple[B] | None] = SimpleQueue()
    with ThreadPoolExecutor(1, "background") as thread:
        running = thread.submit(_run, work, inbox, outbox)
        try:
            for item in inputs:
                inbox.put((item,))
                while not outbox.empty():
                    if (result := outbox.get()) is None:  # the work ended before its inputs did
                        return running.result()
                    yield result[0]
            inbox.put("complete")
            while (result := outbox.get()) is not None:
                yield result[0]
            running.result()
        finally:
            inbox.put("abandoned")


def _run(
    work: Callable[[Iterator[A]], Iterable[B]],
    inbox: SimpleQueue[tuple[A] | _End],
    outbox: SimpleQueue[tuple[B] | None],
) -> None:
    try:
        for result in work(_items(inbox)):
            outbox.put((result,))
    except _AbandonedError:
        pass
    finally:
        outbox.put(None)


def _items(inbox: SimpleQueue[tuple[A] | _End]) -> Iterator[A]:
    while True:
        match inbox.get():
            case "complete":
                return
            case "abandoned":
                raise _AbandonedError
            case (item,):
                yield item
