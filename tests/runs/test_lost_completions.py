"""Completions that an engine could not produce are counted, requested again, and never replace a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from stub_engine import StubEngine

from harness.core.config import parse
from harness.core.types import Completion, Failure, Message, Problem, Request, Sampling, Tokens
from harness.evaluation.config import EvalConfig, Plan
from harness.evaluation.loop import generate_and_grade
from harness.graders.exact import ExactGrader
from harness.runs.folder import RunIdentity, RunWriter
from harness.runs.index import TaskResults

PROBLEMS = [Problem(str(i), "t", (Message("user", str(i)),), "yes") for i in range(3)]
PLAN = Plan(2, Sampling(max_tokens=5), 0, ("eval",))


class Losing(StubEngine):
    """An engine that answers yes, and fails for the samples of one index."""

    def __init__(self, lost_index: int | None) -> None:
        self.lost_index = lost_index
        self.asked: list[tuple[str, int]] = []

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion | Failure]:
        for r in requests:
            self.asked.append((r.problem_id, r.index))
            if r.index == self.lost_index:
                yield Failure(r.problem_id, r.index, r.seed, "the line was cut")
            else:
                yield Completion(r.problem_id, r.index, r.seed, "yes", "stop", Tokens(1, 1))


def evaluated(store: RunWriter, engine: Losing) -> dict[tuple[str, int], str]:
    grader, results = ExactGrader(ExactGrader.Config()), TaskResults(store, "t", "exact")
    graded = generate_and_grade(PROBLEMS, engine, grader, PLAN, results)
    return {(g.problem.id, g.completion.index): g.verdict.outcome for g in graded}


def opened(folder: Path) -> RunWriter:
    config = parse(EvalConfig, {"model": {"path": "x"}, "tasks": ["countdown"]})
    return RunWriter.open(folder, RunIdentity.of("eval", config, seeds={}, data={}))


def test_lost_completions_are_requested_again_and_the_rest_continue(tmp_path: Path) -> None:
    store = opened(tmp_path / "run")
    first = evaluated(store, Losing(1))
    assert first == {(str(i), j): "correct" if j == 0 else "ungraded" for i in range(3) for j in range(2)}
    assert {completion.index for _, completion in store.reader().completions()} == {0}
    reasons = [v.reason for (_, _, j), v in store.reader().verdicts("exact").items() if j == 1]
    assert reasons == ["no completion: the line was cut"] * 3
    second = Losing(None)
    assert set(evaluated(store, second).values()) == {"correct"}
    assert second.asked == [(str(i), 1) for i in range(3)]
    assert {v.outcome for v in store.reader().verdicts("exact").values()} == {"correct"}
    store.finish("done")


def test_recorded_completion_is_graded_despite_an_earlier_failure(tmp_path: Path) -> None:
    """A kill between writing a completion and its verdict leaves this state."""
    store = opened(tmp_path / "run")
    evaluated(store, Losing(1))
    for problem in PROBLEMS:
        seed = list(PLAN.seeds(problem))[1]
        store.append_completion("t", Completion(problem.id, 1, seed, "yes", "stop", Tokens(1, 1)))
    third = Losing(None)
    assert set(evaluated(store, third).values()) == {"correct"}
    assert third.asked == []
    store.finish("done")
