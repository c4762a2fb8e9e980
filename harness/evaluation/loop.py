"""The evaluation loop: generate -> store -> grade.

`generate_and_grade` is the only loop: training, held-out evaluation and `harness eval` all use it. Completions and
verdicts that a run folder has already are neither generated nor graded again.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.core.errors import EngineError, RunFolderError
from harness.core.progress import Progress
from harness.core.protocols import Engine, Grader, Metric
from harness.core.types import (
    CLUSTER_TAG,
    NO_COMPLETION,
    NO_VERDICT,
    Completion,
    Estimate,
    Failure,
    Graded,
    Problem,
    Request,
    StoredCompletion,
    Tokens,
    Verdict,
)
from harness.evaluation.config import EvalConfig, Plan
from harness.evaluation.pipeline import Pending, grade_in_order, run_in_background
from harness.evaluation.ray_grading import graders_of
from harness.evaluation.sequential import check_until, sample_until, sampling_estimate
from harness.evaluation.setup import EvalSetup, TaskSetup, check, check_scorer, resolve
from harness.runs.folder import RunReader, RunWriter, finishing
from harness.runs.index import CompletionIndex, TaskResults
from harness.runs.provenance import code_version

# --- one task: generate -> store -> grade -----------------------------------------------------------------------


def generate_and_grade(
    problems: Sequence[Problem[Any]],
    engine: Engine,
    grader: Grader[Any],
    plan: Plan,
    results: TaskResults | None = None,
    stopwatch: Stopwatch | None = None,
) -> Iterator[Graded[Any]]:
    """Yield completions 0 .. n-1 of every problem with their verdicts: the stored ones first, then the new ones.

    The engine runs in this thread and is asked for its next completion at once. Storing and grading run in a second
    thread. Without `results` nothing is stored.
    """
    graded, pending, missing = _split_by_progress(problems, plan, results)
    by_id = {problem.id: problem for problem in problems}

    def store_and_grade(generated: Iterator[Completion | Failure]) -> Iterator[Graded[Any]]:
        return grade_in_order(itertools.chain(pending, store(generated, by_id, results)), grader, results)

    yield from graded
    yield from run_in_background(store_and_grade, generate(engine, missing, stopwatch))


def generate(
    engine: Engine, requests: Sequence[Request], stopwatch: Stopwatch | None = None
) -> Iterator[Completion | Failure]:
    """Yield the engine's completions. Raise unless there is exactly one for each request."""
    expected = {(request.problem_id, request.index): request.seed for request in requests}
    stopwatch = stopwatch if stopwatch is not None else Stopwatch()
    for completion in measure_engine_time(_ask(engine, requests), stopwatch):
        key = (completion.problem_id, completion.index)
        if key not in expected:
            raise EngineError(f"the engine returned a completion that was not requested, or returned it twice: {key}")
        if completion.seed != expected.pop(key):
            raise EngineError(f"the engine returned a completion with another seed than requested: {key}")
        yield completion
    if expected:
        raise EngineError(f"the engine stopped with {len(expected)} completions missing, {min(expected)} among them")


def store(
    generated: Iterable[Completion | Failure], by_id: Mapping[str, Problem[Any]], results: TaskResults | None
) -> Iterator[Graded[Any] | Pending]:
    """Store each new completion and yield it for grading. A failure is stored as an ungraded verdict."""
    for completion in generated:
        problem = by_id[completion.problem_id]
        if isinstance(completion, Failure):
            yield _store_failure(problem, completion, results)
        else:
            yield Pending(problem, completion, results.append_completion(completion) if results is not None else None)


def _split_by_progress(
    problems: Sequence[Problem[Any]], plan: Plan, results: TaskResults | None
) -> tuple[list[Graded[Any]], list[Pending], list[Request]]:
    """Return what is stored with a verdict, what is stored without one, and the requests for what is missing."""
    completions = results.completions if results is not None else {}
    verdicts = results.verdicts if results is not None else {}
    graded: list[Graded[Any]] = []
    pending: list[Pending] = []
    missing: list[Request] = []
    wanted = ((problem, index, seed) for problem in problems for index, seed in enumerate(plan.seeds(problem)))
    for problem, index, seed in wanted:
        completion = completions.get((problem.id, index))
        if completion is None:
            missing.append(plan.request(problem, index, seed))
        elif completion.seed != seed:
            raise RunFolderError(
                f"the stored completion {problem.id}[{index}] was made with another seed: the task has changed since, "
                "or the file was altered; choose another --out"
            )
        elif (problem.id, index) in verdicts:
            graded.append(Graded(problem, completion, verdicts[problem.id, index]))
        else:
            pending.append(Pending(problem, completion))
    return graded, pending, missing


def _ask(engine: Engine, requests: Sequence[Request]) -> Iterator[Completion | Failure]:
    to_score = [request for request in requests if request.passages]
    if to_score:
        yield from engine.score(to_score)
    if len(to_score) < len(requests):
        yield from engine.generate([request for request in requests if not request.passages])


def _store_failure(problem: Problem[Any], failure: Failure, results: TaskResults | None) -> Graded[Any]:
    """Store why there is nothing to grade. The completion stays missing, so the next run asks for it again."""
    verdict = Verdict("ungraded", None, reason=f"no completion: {failure.reason}", details={NO_COMPLETION: True})
    empty = Completion(failure.problem_id, failure.index, failure.seed, "", "failed", Tokens(0, 0))
    if results is not None:
        results.append_verdict(empty, verdict)
    return Graded(problem, empty, verdict)


# --- harness eval -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A finished evaluation."""

    run: RunReader
    n_completions: int
    n_ungraded: int
    n_failed: int
    """Ungraded because the engine failed to generate; the same command asks for them again."""
    reasons: Mapping[str, int]
    """Why completions are ungraded, the most frequent reason first."""

    @property
    def share_ungraded(self) -> float:
        return self.n_ungraded / self.n_completions if self.n_completions else 0.0


def evaluate(config: EvalConfig, folder: Path, progress: Progress) -> RunReader:
    """Check everything, load the model, create or resume the run folder, fill it and write its metrics."""
    (done,) = evaluate_all([checked_setup(config, folder, progress)], progress)
    return done.run


def checked_setup(config: EvalConfig, folder: Path, progress: Progress, label: str = "") -> EvalSetup:
    """Resolve an evaluation and raise now for everything that would fail later."""
    with progress.working(f"reading the problems of {', '.join(chosen.id for chosen in config.tasks)}"):
        setup = replace(resolve(config, folder, progress), label=label)
        check(setup)
        check_until(setup)
    return setup


def evaluate_all(setups: Sequence[EvalSetup], progress: Progress) -> Iterator[Evaluation]:
    """Run evaluations of one model, which is loaded once."""
    engine, source, config = setups[0].engine, setups[0].source, setups[0].config
    with progress.working(f"loading {config.model.path} with the engine {config.engine.id}"):
        engine.open(source)
    try:
        for setup in setups:
            yield evaluate_opened(replace(setup, engine=engine, source=source), progress)
    finally:
        engine.close()


def evaluate_opened(setup: EvalSetup, progress: Progress) -> Evaluation:
    """Evaluate with an engine that has loaded the model already."""
    check_scorer(setup)
    identity, engine = setup.identity, setup.engine
    if engine.is_remote:
        identity = identity.with_facts("model", engine.describe_model(setup.source.path))
    graders = {name: task.grader_name for name, task in setup.tasks.items()}
    stored: list[CompletionIndex] = []
    with graders_of(setup) as grader_of:  # before the folder: a cluster that can't grade leaves none behind
        writer = RunWriter.open(setup.folder, identity, lambda run: stored.append(CompletionIndex(run, graders)))
        with finishing(writer):
            index = stored.pop() if stored else CompletionIndex(writer.reader(), graders)
            graded = _evaluate_tasks(setup, grader_of, writer, index, progress)
    ungraded = [item.verdict for item in graded if item.verdict.outcome == "ungraded"]
    n_failed = sum(NO_COMPLETION in verdict.details for verdict in ungraded)
    return Evaluation(writer.reader(), len(graded), len(ungraded), n_failed, ungraded_reasons(graded))


def ungraded_reasons(graded: Iterable[Graded[Any]]) -> dict[str, int]:
    """Count the reasons of ungraded verdicts, with the grader's error where it gives one; the most frequent first."""
    verdicts = [item.verdict for item in graded if item.verdict.outcome == "ungraded"]
    counts = Counter(
        f"{verdict.reason if verdict.reason else 'no reason given'}"
        + (f" ({verdict.details['error']})" if "error" in verdict.details else "")
        for verdict in verdicts
    )
    return dict(counts.most_common())


def _evaluate_tasks(
    setup: EvalSetup,
    grader_of: Callable[[str], Grader[Any]],
    writer: RunWriter,
    index: CompletionIndex,
    progress: Progress,
) -> list[Graded[Any]]:
    """Complete an open run folder and write its metrics; return everything graded."""
    progress.label = setup.label
    _write_clusters(setup, writer)
    _warn_of_other_code(setup, writer, index, progress)
    everything: list[Graded[Any]] = []
    estimates: dict[str, list[Estimate]] = {}
    for task in setup.tasks.values():
        graded = _evaluate_task(setup, task, grader_of(task.id), writer, index, progress)
        estimates |= estimates_of(task, setup.metrics, graded, setup.tasks)
        if setup.config.until is not None:
            estimates[task.id] += sampling_estimate(graded, setup.config.until)
        everything += graded
    writer.write_metrics(estimates)
    return everything


def _evaluate_task(
    setup: EvalSetup,
    task: TaskSetup,
    grader: Grader[Any],
    writer: RunWriter,
    index: CompletionIndex,
    progress: Progress,
) -> list[Graded[Any]]:
    results = TaskResults(writer, task.id, task.grader_name, with_ids=setup.config.store_ids, index=index)
    ids = {problem.id for problem in task.problems}

    def stored(n: int) -> set[tuple[str, int]]:
        return {key for key in results.completions if key[0] in ids and key[1] < n}

    def evaluated(plan: Plan) -> list[Graded[Any]]:
        stopwatch, n_wanted = Stopwatch(), len(task.problems) * plan.n
        stream = generate_and_grade(task.problems, setup.engine, grader, plan, results, stopwatch)
        graded = list(with_progress(stream, task.id, n_wanted, stored(plan.n), progress))
        if stopwatch.n_completions:
            writer.log(f"{task.id}: {stopwatch}")
        return graded

    if setup.config.until is None:
        return evaluated(task.plan)
    n_stored = len(stored(task.plan.n)) // len(ids)
    return sample_until(setup, task, n_stored, evaluated, progress)


def _warn_of_other_code(setup: EvalSetup, writer: RunWriter, index: CompletionIndex, progress: Progress) -> None:
    """Warn of stored verdicts by another version of the code, whose grader may have changed since."""
    for name, task in setup.tasks.items():
        regraded = writer.record.regraded.get(name, {}).get(task.grader_name, {})
        version = regraded.get("code", writer.record.code)
        if index.verdicts[name] and version != code_version():
            progress.warn(
                f"{name}: the stored verdicts are by version {version}, and this is {code_version()}; "
                f"`harness grade {writer.folder}` grades them again"
            )


def _write_clusters(setup: EvalSetup, writer: RunWriter) -> None:
    clusters = {
        name: {problem.id: problem.tags[CLUSTER_TAG] for problem in task.problems if CLUSTER_TAG in problem.tags}
        for name, task in setup.tasks.items()
    }
    if any(clusters.values()):
        writer.write_clusters(clusters)


def estimates_of(
    task: TaskSetup, metrics: Sequence[Metric], graded: Sequence[Graded[Any]], configured: Collection[str]
) -> dict[str, list[Estimate]]:
    """Return the estimates of a task. A task of another evaluator adds its own numbers, and those of its parts.

    Parts that are `configured` as tasks themselves are left out.
    """
    own = dict(task.task.own_estimates(graded))
    used = [metric for metric in metrics if task.task.has_right_and_wrong() and metric.applies_to(task.grader, graded)]
    ours = [estimate for metric in used for estimate in metric.estimate(graded)]
    parts = {part: list(group) for part, group in own.items() if part not in configured}
    return {task.id: [*own.get(task.id, ()), *ours], **parts}


# --- progress ---------------------------------------------------------------------------------------------------

EMPTY_WARNING_AT = 32
"""If so many completions are empty and none is not, warn at once and not only at the end."""
_EMPTY = "the model stopped at once: is the chat template its own, and no stop string part of every answer?"


def with_progress(
    graded: Iterable[Graded[Any]],
    task: str,
    n_wanted: int,
    stored: Collection[tuple[str, int]],
    progress: Progress,
) -> Iterator[Graded[Any]]:
    """Yield the same items and print their number, the share solved, and a warning if completions are empty."""
    progress.begin(f"eval {task}", n_wanted, len(stored))
    n_correct = n_graded = n_empty = n_seen = 0
    items, has_warned = iter(graded), False
    try:
        with progress.working(f"eval {task}: the first completion"):  # an engine may compile before it
            first = list(itertools.islice(items, 1))
        for item in itertools.chain(first, items):
            n_graded += item.verdict.outcome != "ungraded"
            n_correct += item.verdict.outcome == "correct"
            n_seen += 1
            n_empty += _is_empty(item.completion)
            if NO_VERDICT in item.verdict.details and not has_warned:
                has_warned = True
                error = item.verdict.details.get("error", "no reason given")
                progress.warn(
                    f"{task}: {item.verdict.reason} ({error}); the same command grades such completions again"
                )
            if n_seen == n_empty == EMPTY_WARNING_AT:
                progress.warn(f"{task}: the first {EMPTY_WARNING_AT} completions are all empty; {_EMPTY}")
            is_new = (item.problem.id, item.completion.index) not in stored
            progress.advance(is_new, {"solved": n_correct / n_graded if n_graded else 0.0})
            yield item
    finally:  # end the live line, so that a message after it gets its own
        progress.end()
    if n_empty:
        progress.warn(f"{task}: {n_empty} of {n_seen} completions are empty; {_EMPTY}")


def _is_empty(completion: Completion | StoredCompletion) -> bool:
    """Return whether it has no text. One of more than two tokens has some, and is not read from its file.

    Where an engine scored given answers, nothing was written and nothing is missing.
    """
    may_be = completion.finish_reason != "failed" and completion.tokens.n_completion <= 2
    if not may_be:
        return False
    loaded = completion.load()
    return not loaded.text.strip() and not loaded.likelihoods


# --- engine time ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Stopwatch:
    """Wall time of one session with an engine, and how much of it the engine worked."""

    engine_s: float = 0.0
    total_s: float = 0.0
    n_completions: int = 0

    def __str__(self) -> str:
        waited = 1 - self.engine_s / self.total_s if self.total_s > 0 else 0.0
        return f"{self.n_completions} completions in {self.total_s:.1f} s; the engine waited {100 * waited:.2f} % of it"


def measure_engine_time(
    completions: Iterator[Completion | Failure], stopwatch: Stopwatch
) -> Iterator[Completion | Failure]:
    """Yield each completion with the time it took. The time of a failure is added to the next completion."""
    opened_s, spent_s = time.monotonic(), 0.0
    while True:
        began_s = time.monotonic()
        completion = next(completions, None)
        ended_s = time.monotonic()
        spent_s += ended_s - began_s
        stopwatch.engine_s += ended_s - began_s
        stopwatch.total_s = ended_s - opened_s
        if completion is None:
            return
        if isinstance(completion, Completion):
            completion, spent_s = replace(completion, engine_s=round(spent_s, 6)), 0.0
            stopwatch.n_completions += 1
        yield completion
