"""Grading while the engine generates: in order, each verdict stored once, and the engine never waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from harness.core.errors import DataError, MissingExtraError, SandboxError
from harness.core.protocols import Grader
from harness.core.types import Completion, Graded, Message, Problem, Tokens, Verdict
from harness.evaluation.pipeline import Pending, grade_in_order, run_in_background

PROBLEM = Problem("p", "t", (Message("user", "?"),), "reference")


def completion(index: int) -> Completion:
    return Completion("p", index, index, str(index), "stop", Tokens(1, 1))


class Meeting(Grader[Any]):
    """A grader whose first verdicts wait for one another, so they end only if graded at the same time."""

    def __init__(self, n_at_once: int) -> None:
        self.n_at_once = n_at_once
        self._barrier = threading.Barrier(n_at_once)

    def grade(self, problem: Problem, completion: Completion) -> Verdict:
        if completion.index < self.n_at_once:
            self._barrier.wait(timeout=20)
        return Verdict("correct", 1.0, extracted=completion.text)


class Sink:
    def __init__(self) -> None:
        self.verdicts: list[tuple[int, str]] = []

    def append_verdict(self, completion: Completion, verdict: Verdict) -> None:
        self.verdicts.append((completion.index, verdict.extracted))


@pytest.mark.parametrize("n_at_once", [1, 3])
def test_verdicts_come_in_the_order_of_the_answers_and_are_stored_once(n_at_once):
    sink = Sink()
    done = Graded(PROBLEM, completion(99), Verdict("incorrect", 0.0))
    answers = [Pending(PROBLEM, completion(0)), done, *(Pending(PROBLEM, completion(i)) for i in range(1, 200))]
    graded = list(grade_in_order(answers, Meeting(n_at_once), sink))
    assert [item.completion.index for item in graded] == [0, 99, *range(1, 200)]
    assert all(item.verdict.extracted == item.completion.text for item in graded if item is not done)
    assert sink.verdicts == [(i, str(i)) for i in range(200)]


class Stuck(Grader[Any]):
    """A grader that finishes nothing until it is released."""

    def __init__(self) -> None:
        self.free = threading.Event()

    def grade(self, problem: Problem, completion: Completion) -> Verdict:
        assert self.free.wait(timeout=20)
        return Verdict("correct", 1.0)


def test_the_engine_never_waits_for_a_verdict():
    grader = Stuck()

    def engine() -> Iterator[Pending]:
        yield from (Pending(PROBLEM, completion(index)) for index in range(1000))
        grader.free.set()  # only now can anything be graded

    assert [item.completion.index for item in grade_in_order(engine(), grader, None)] == list(range(1000))


def test_an_error_of_the_engine_is_not_lost():
    def engine() -> Iterator[Pending]:
        yield Pending(PROBLEM, completion(0))
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(grade_in_order(engine(), Meeting(1), None))


# --- a thread of its own ----------------------------------------------------------------------------------------


def test_pipeline_results_are_ordered_while_the_source_never_waits():
    free = threading.Event()

    def slow(numbers):
        for number in numbers:
            assert free.wait(timeout=20)
            yield 2 * number

    def given():
        threads.add(threading.get_ident())
        yield from range(100)
        free.set()  # only now can anything be made

    threads: set[int] = set()
    assert list(run_in_background(slow, given())) == [2 * number for number in range(100)]
    assert threads == {threading.get_ident()}, "an engine stays in the thread that opened it"


@pytest.mark.parametrize("n_first", [0, 1, 50])
def test_pipeline_error_in_the_work_stops_the_source(n_first):
    n_given = 0

    def failing(numbers):
        for number in numbers:
            if number == n_first:
                raise OSError("disk full")
            yield number

    def given():
        nonlocal n_given
        for n_given in range(10**9):
            time.sleep(0.001)
            yield n_given

    made: list[int] = []
    with pytest.raises(OSError, match="disk full"):
        made.extend(run_in_background(failing, given()))
    assert made == list(range(n_first))
    assert n_given < 10**4


@pytest.mark.parametrize("how", ["error", "interrupt", "stops iterating"])
def test_pipeline_processes_the_items_given_before_the_source_fails(how):
    taken, was_ended = [], threading.Event()

    def work(numbers):
        try:
            for number in numbers:
                time.sleep(0.001)
                taken.append(number)
                yield number
        finally:
            was_ended.set()

    def given():
        yield from range(50)
        if how != "stops iterating":
            raise KeyboardInterrupt if how == "interrupt" else OSError("gone")
        for number in range(50, 10**9):
            time.sleep(0.01)
            yield number

    made = run_in_background(work, given())
    if how == "stops iterating":
        next(made)
        made.close()
    else:
        with pytest.raises(KeyboardInterrupt if how == "interrupt" else OSError):
            list(made)
    assert was_ended.is_set()
    assert taken[:50] == list(range(50))[: len(taken)] and (how == "stops iterating" or len(taken) == 50)


class Failing(Grader[Any]):
    """Raises for the second completion, as a grader with a fault does."""

    def __init__(self, fault: object) -> None:
        self.fault = fault

    def grade(self, problem: Problem, completion: Completion) -> Verdict:
        if completion.index != 1:
            return Verdict("correct", 1.0)
        if isinstance(self.fault, Exception):
            raise self.fault
        return self.fault


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (ValueError("too many values to unpack"), "ValueError: too many values to unpack, raised in test_pipeline.py"),
        (MemoryError(), "MemoryError: "),
        (RecursionError("deep"), "RecursionError: deep"),
        (DataError("a reference that is not JSON"), "DataError: a reference"),
        (SandboxError("no worker starts"), "SandboxError: no worker"),
        (KeyError("x" * 10_000), "KeyError: 'xxx"),
        (None, "grade() returned NoneType"),
    ],
)
def test_an_exception_of_a_grader_costs_its_own_completion_only(fault, text):
    graded = list(grade_in_order([Pending(PROBLEM, completion(i)) for i in range(3)], Failing(fault), None))
    assert [item.verdict.outcome for item in graded] == ["correct", "ungraded", "correct"]
    verdict = graded[1].verdict
    assert (verdict.reward, verdict.reason) == (None, "the grader failed")
    assert verdict.details["error"].startswith(text)
    assert len(verdict.details["error"]) < 1000


def test_a_wrong_request_ends_the_grading_with_its_own_error():
    with pytest.raises(MissingExtraError, match="install"):
        list(grade_in_order([Pending(PROBLEM, completion(1))], Failing(MissingExtraError("install it")), None))
