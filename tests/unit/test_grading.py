"""Verdicts beside the engine: in order, at the same time, kept once, and never in its way."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from harness.core.types import Completion, Graded, Message, Problem, Tokens, Verdict
from harness.grading import in_order

PROBLEM = Problem("p", "t", (Message("user", "?"),), "reference")


def completion(index: int) -> Completion:
    return Completion("p", index, index, str(index), "stop", Tokens(1, 1))


class Meeting:
    """A grader whose first verdicts wait for one another, so that only gradings at the same time can end."""

    def __init__(self, n_at_once: int) -> None:
        self.n_at_once = n_at_once
        self._barrier = threading.Barrier(n_at_once)

    def grade(self, problem: Problem, completion: Completion) -> Verdict:
        if completion.index < self.n_at_once:
            self._barrier.wait(timeout=20)
        return Verdict("correct", 1.0, extracted=completion.text)


class Kept:
    def __init__(self) -> None:
        self.verdicts: list[tuple[int, str]] = []

    def append_verdict(self, completion: Completion, verdict: Verdict) -> None:
        self.verdicts.append((completion.index, verdict.extracted))


@pytest.mark.parametrize("n_at_once", [1, 3])
def test_verdicts_come_in_the_order_of_the_answers_and_are_kept_once(n_at_once):
    kept = Kept()
    done = Graded(PROBLEM, completion(99), Verdict("incorrect", 0.0))
    answers = [(PROBLEM, completion(0)), done, *((PROBLEM, completion(i)) for i in range(1, 200))]
    graded = list(in_order(answers, Meeting(n_at_once), kept))
    assert [item.completion.index for item in graded] == [0, 99, *range(1, 200)]
    assert all(item.verdict.extracted == item.completion.text for item in graded if item is not done)
    assert kept.verdicts == [(i, str(i)) for i in range(200)]


class Stuck:
    """Never ends a grading until it is told to."""

    def __init__(self) -> None:
        self.free = threading.Event()

    def grade(self, problem: Problem, completion: Completion) -> Verdict:
        assert self.free.wait(timeout=20)
        return Verdict("correct", 1.0)


def test_the_engine_never_waits_for_a_verdict():
    grader = Stuck()

    def engine() -> Iterator[tuple[Problem, Completion]]:
        yield from ((PROBLEM, completion(index)) for index in range(1000))
        grader.free.set()  # only now can anything be graded

    assert [item.completion.index for item in in_order(engine(), grader, None)] == list(range(1000))


def test_an_error_of_the_engine_is_not_lost():
    def engine() -> Iterator[tuple[Problem, Completion]]:
        yield PROBLEM, completion(0)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(in_order(engine(), Meeting(1), None))
