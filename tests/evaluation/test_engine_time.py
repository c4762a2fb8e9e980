"""Engine time of each completion, in a resumed run too."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from stub_engine import StubEngine

from harness.core.config import parse
from harness.core.types import Completion, Failure, Message, Problem, Request, Sampling, Tokens
from harness.evaluation.config import EvalConfig, Plan
from harness.evaluation.loop import Stopwatch, generate_and_grade
from harness.graders.exact import ExactGrader
from harness.runs.folder import RunIdentity, RunWriter
from harness.runs.index import TaskResults

PROBLEMS = [Problem(str(i), "t", (Message("user", str(i)),), "yes") for i in range(3)]
NAP_S = 0.02


class Sleepy(StubEngine):
    """An engine that sleeps before each completion and fails for the first of each problem."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion | Failure]:
        for r in requests:
            time.sleep(NAP_S)
            if r.index == 0:
                yield Failure(r.problem_id, r.index, r.seed, "lost")
            else:
                yield Completion(r.problem_id, r.index, r.seed, "yes", "stop", Tokens(1, 1))


def times(store: RunWriter, n: int) -> dict[tuple[str, int], float]:
    plan, results, watch = Plan(n, Sampling(max_tokens=5), 0, ("eval",)), TaskResults(store, "t", "exact"), Stopwatch()
    list(generate_and_grade(PROBLEMS, Sleepy(), ExactGrader(ExactGrader.Config()), plan, results, watch))
    n_failures, n_completions = 3, {2: 3, 4: 6}[n]
    assert watch.total_s >= watch.engine_s >= (n_failures + n_completions) * NAP_S
    assert watch.n_completions == n_completions
    return {(c.problem_id, c.index): c.engine_s for _, c in store.reader().completions()}


def test_engine_wait_time_is_recorded_and_kept_on_resume(tmp_path: Path) -> None:
    config = parse(EvalConfig, {"model": {"path": "x"}, "tasks": ["countdown"]})
    store = RunWriter.open(tmp_path / "run", RunIdentity.of("eval", config, seeds={}, data={}))
    first = times(store, 2)
    assert all(s >= 2 * NAP_S for s in first.values()), "its own nap, and that of the failure before it"
    second = times(store, 4)
    assert first.items() <= second.items()
    assert len(second) == 9
    assert min(second.values()) >= NAP_S
    store.finish("done")
