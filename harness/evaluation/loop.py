"""Problems x engine x grader -> a stream of graded completions: the only evaluation loop.

`run` is what training, held-out evaluation and `harness eval` all go through. With a ledger, what a run folder holds
already is neither generated nor graded again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigError, EngineError, RunFolderError
from harness.core.progress import Progress
from harness.core.protocols import Engine, ExternalTask, Grader, ModelSource, PromptChecker, Scorer, Served, Split, Task
from harness.core.seeds import derive
from harness.core.types import CLUSTER_TAG, Completion, Estimate, Failure, Graded, Problem, Request, Tokens, Verdict
from harness.data.dataset_facts import grader_name, judged_by, task_facts
from harness.evaluation.config import EvalConfig, Plan
from harness.evaluation.pipeline import Pending, beside, in_order
from harness.evaluation.select import only
from harness.evaluation.task_results import LOST, TaskResults
from harness.evaluation.timing import Stopwatch, timed
from harness.evaluation.watching import watched
from harness.models.loading import fingerprint
from harness.runs.folder import RunReader, RunWriter, ending
from harness.runs.index import CompletionIndex
from harness.runs.provenance import code_version


def run(
    problems: Sequence[Problem[Any]], engine: Engine, grader: Grader[Any], plan: Plan, ledger: TaskResults | None = None
) -> Iterator[Graded[Any]]:
    """Every problem's completions 0 .. n-1 with their verdicts: those on record first, then the new ones.

    The engine works in this thread and is asked for the next completion at once; writing and grading go on beside it.
    """
    on_record, missing = _on_record(problems, plan, ledger)
    ungraded = [answer for answer in on_record if isinstance(answer, Pending)]
    yield from (answer for answer in on_record if isinstance(answer, Graded))
    stopwatch = ledger.stopwatch if ledger is not None else Stopwatch()
    answers = itertools.chain(ungraded, _generate(engine, missing, stopwatch))
    yield from beside(lambda given: in_order(_kept(given, problems, ledger), grader, ledger), answers)


def _on_record(
    problems: Sequence[Problem[Any]], plan: Plan, ledger: TaskResults | None
) -> tuple[list[Graded[Any] | Pending], list[Request]]:
    """What is there, with a verdict or without one, and what is not."""
    completions = ledger.completions if ledger is not None else {}
    verdicts = ledger.verdicts if ledger is not None else {}
    found: list[Graded[Any] | Pending] = []
    missing: list[Request] = []
    places = ((problem, index, seed) for problem in problems for index, seed in enumerate(plan.seeds(problem)))
    for problem, index, seed in places:
        completion = completions.get((problem.id, index))
        if completion is None:
            missing.append(plan.request(problem, index, seed))
        elif completion.seed != seed:
            raise RunFolderError(
                f"the completion {problem.id}[{index}] on record was made with another seed: the task has changed "
                "since, or the file was altered; choose another --out"
            )
        elif (problem.id, index) in verdicts:
            found.append(Graded(problem, completion, verdicts[problem.id, index]))
        else:
            found.append(Pending(problem, completion))
    return found, missing


def _kept(
    given: Iterable[Pending | Completion | Failure], problems: Sequence[Problem[Any]], ledger: TaskResults | None
) -> Iterator[Graded[Any] | Pending]:
    """The same with what is new put on record."""
    by_id = {problem.id: problem for problem in problems}
    for answer in given:
        if isinstance(answer, Pending):
            yield answer
        elif isinstance(answer, Failure):
            yield _lose(by_id[answer.problem_id], answer, ledger)
        else:
            kept = ledger.append_completion(answer) if ledger is not None else None
            yield Pending(by_id[answer.problem_id], answer, kept)


def _generate(engine: Engine, requests: Sequence[Request], stopwatch: Stopwatch) -> Iterator[Completion | Failure]:
    """The engine's answers, held to its promise: exactly one for each request."""
    awaited = {(request.problem_id, request.index): request.seed for request in requests}
    for completion in timed(_answered(engine, requests), stopwatch):
        key = (completion.problem_id, completion.index)
        if key not in awaited:
            raise EngineError(f"the engine gave a completion nobody asked for, or gave it twice: {key}")
        if completion.seed != awaited.pop(key):
            raise EngineError(f"the engine gave a completion under another seed than was asked: {key}")
        yield completion
    if awaited:
        raise EngineError(f"the engine stopped with {len(awaited)} completions missing, {min(awaited)} among them")


def _answered(engine: Engine, requests: Sequence[Request]) -> Iterator[Completion | Failure]:
    to_score = [request for request in requests if request.passages]
    if to_score:
        yield from scorer(engine).score(to_score)
    if len(to_score) < len(requests):
        yield from engine.generate([request for request in requests if not request.passages])


def scorer(engine: Engine) -> Scorer:
    """The engine as one that scores passages, where it is one."""
    if not isinstance(engine, Scorer):
        raise ConfigError(
            f"the engine {type(engine).__module__.rpartition('.')[2]!r} gives no log-likelihoods, which this task asks "
            "for; use --engine hf or vllm"
        )
    return engine


def _lose(problem: Problem[Any], failure: Failure, ledger: TaskResults | None) -> Graded[Any]:
    """Nothing to grade: the verdict is on record with its reason, and the place of the completion stays free."""
    verdict = Verdict("ungraded", None, reason=f"no completion: {failure.reason}", details={LOST: True})
    empty = Completion(failure.problem_id, failure.index, failure.seed, "", "failed", Tokens(0, 0))
    if ledger is not None:
        ledger.append_verdict(empty, verdict)
    return Graded(problem, empty, verdict)


# --- harness eval -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prepared:
    """An evaluation of which everything is known that can be known before the model is loaded."""

    config: EvalConfig
    folder: Path
    engine: Engine
    source: ModelSource
    tasks: dict[str, Task[Any]]
    problems: dict[str, list[Problem[Any]]]
    data: dict[str, dict[str, Any]]
    label: str = ""
    """What progress says before the name of a task."""


def prepare(config: EvalConfig, folder: Path, progress: Progress) -> Prepared:
    """Refuse what can be refused now: data, a folder of another run, a model without a template, long prompts, a metric
    whose extra is missing."""
    for chosen in config.metrics:
        chosen.build("metrics")
    engine = config.engine.build("engines")
    source = config.model.source(derive(config.seed, "weights"), is_served=isinstance(engine, Served))
    tasks = tasks_of(config)
    problems = problems_for(config, tasks)
    data = data_facts(config, tasks, progress)
    model = {} if isinstance(engine, Served) else {"model": fingerprint(source.path)}
    RunWriter.refuse(folder, "eval", config, {**data, **model})
    _refuse_passages_without_scorer(engine, problems)
    if isinstance(engine, PromptChecker):
        engine.vet(source, [config.plan(n, t).request(p, 0, 0) for n, t in tasks.items() for p in _drawn(problems[n])])
    return Prepared(config, folder, engine, source, tasks, problems, data)


def _drawn(problems: Iterable[Problem[Any]]) -> Iterator[Problem[Any]]:
    """Those that text is generated for. A document that is scored is read in windows, so none is too long."""
    return (problem for problem in problems if not problem.passages)


def evaluate(config: EvalConfig, folder: Path, progress: Progress) -> RunReader:
    """`harness eval`: look at everything, load the model, open or resume the run folder, fill it, write its metrics."""
    (view,) = evaluate_prepared([prepare(config, folder, progress)], progress)
    return view


def evaluate_prepared(several: Sequence[Prepared], progress: Progress) -> Iterator[RunReader]:
    """Evaluations of one model, which is loaded once."""
    engine, source = several[0].engine, several[0].source
    engine.open(source)
    try:
        for one in several:
            yield _fill(replace(one, engine=engine, source=source), progress)
    finally:
        engine.close()


def tasks_of(config: EvalConfig) -> dict[str, Task[Any]]:
    """The tasks by id, each with the grader that judges it."""
    return {chosen.id: judged_by(chosen.build("tasks"), config.judge(chosen.id)) for chosen in config.tasks}


def evaluate_open_engine(
    config: EvalConfig,
    model_path: str,
    tasks: dict[str, Task[Any]],
    engine: Engine,
    folder: Path,
    progress: Progress,
) -> RunReader:
    """The same with an engine that holds the model already."""
    problems, data = problems_for(config, tasks), data_facts(config, tasks, progress)
    _refuse_passages_without_scorer(engine, problems)
    return _fill(Prepared(config, folder, engine, ModelSource(model_path), tasks, problems, data), progress)


def _refuse_passages_without_scorer(engine: Engine, problems: Mapping[str, Sequence[Problem[Any]]]) -> None:
    if any(problem.passages for of_task in problems.values() for problem in of_task):
        scorer(engine)


def _fill(one: Prepared, progress: Progress) -> RunReader:
    progress.label = one.label
    path, engine, seeds = one.source.path, one.engine, {"run": one.config.seed}
    model = engine.facts(path) if isinstance(engine, Served) else fingerprint(path)
    store = RunWriter.open(one.folder, "eval", one.config, seeds=seeds, data={**one.data, "model": model})
    with ending(store):
        store.write_metrics(evaluate_into(store, one.config, one.tasks, one.problems, engine, progress))
    return store.view()


def data_facts(config: EvalConfig, tasks: dict[str, Task[Any]], progress: Progress) -> dict[str, dict[str, Any]]:
    """What the run record keeps of every task. Data that are not those on record are told, or refused."""
    return {
        name: task_facts(
            task,
            config.split,
            grader=grader_name(task, config.judge(name)),
            is_strict=config.strict_data,
            warn=progress.warn,
        )
        for name, task in tasks.items()
    }


def evaluate_into(
    store: RunWriter,
    config: EvalConfig,
    tasks: dict[str, Task[Any]],
    problems: dict[str, list[Problem[Any]]],
    engine: Engine,
    progress: Progress,
) -> dict[str, list[Estimate]]:
    """Complete an open run folder and estimate every metric of every task."""
    clusters = {name: _clusters(problems[name]) for name in tasks}
    if any(clusters.values()):
        store.write_clusters(clusters)
    graders = {name: grader_name(task, config.judge(name)) for name, task in tasks.items()}
    records = CompletionIndex(store.view(), graders)
    _warn_of_other_code(store, graders, records, progress)
    estimates: dict[str, list[Estimate]] = {}
    for name, task in tasks.items():
        plan = config.plan(name, task)
        ledger = TaskResults(store, name, graders[name], with_ids=config.store_ids, records=records)
        ids = {problem.id for problem in problems[name]}
        on_record = {key for key in ledger.completions if key[0] in ids and key[1] < plan.n}
        stream = run(problems[name], engine, task.grader, plan, ledger)
        graded = list(watched(stream, name, len(ids) * plan.n, on_record, progress))
        if ledger.stopwatch.n_completions:
            store.log(f"{name}: {ledger.stopwatch}")
        estimates |= estimates_of(config, name, task, graded)
    return estimates


def _warn_of_other_code(
    store: RunWriter, graders: Mapping[str, str], records: CompletionIndex, progress: Progress
) -> None:
    """Verdicts on record are taken as they are, and may be those of a grader that has changed since."""
    for name, grader in graders.items():
        version = store.record.regraded.get(name, {}).get(grader, {}).get("code", store.record.code)
        if records.verdicts[name] and version != code_version():
            progress.warn(
                f"{name}: verdicts on record are those of version {version}, and this is {code_version()}; "
                f"`harness grade {store.folder}` gives them anew"
            )


def _clusters(problems: Sequence[Problem[Any]]) -> dict[str, str]:
    return {problem.id: problem.tags[CLUSTER_TAG] for problem in problems if CLUSTER_TAG in problem.tags}


def estimates_of(
    config: EvalConfig, name: str, task: Task[Any], graded: Sequence[Graded[Any]]
) -> dict[str, list[Estimate]]:
    """The config's metrics of a task; another evaluator's task has its own numbers as well, and those of its parts."""
    own = dict(task.own_estimates(graded)) if isinstance(task, ExternalTask) else {}
    has_verdicts = not isinstance(task, ExternalTask) or task.has_right_and_wrong()
    metrics = [chosen.build("metrics") for chosen in config.metrics] if has_verdicts else []
    ours = [estimate for metric in metrics for estimate in metric.estimate(graded)]
    configured = {chosen.id for chosen in config.tasks}
    parts = {part: list(group) for part, group in own.items() if part not in configured}
    return {name: [*own.get(name, ()), *ours], **parts}


def problems_for(config: EvalConfig, tasks: Mapping[str, Task[Any]]) -> dict[str, list[Problem[Any]]]:
    """What each task is asked: a number of its problems, or chosen ones."""
    problems = {
        name: problems_of(task, config.split, config.problem_seed, config.limit) for name, task in tasks.items()
    }
    return only(problems, config.problems) if config.problems is not None else problems


def problems_of(task: Task[Any], split: Split, seed: int, limit: int | None) -> list[Problem[Any]]:
    """The first problems of a split, all of a finite one."""
    if split == "train" and limit is None:
        raise ConfigError("the train split may be endless: set a limit")
    problems = list(itertools.islice(task.problems(split, seed), limit))
    if not problems:
        raise ConfigError(f"the split {split!r} of this task is empty")
    n_different = len({problem.id for problem in problems})
    if n_different < len(problems):
        raise ConfigError(
            f"the split {split!r} of this task repeats itself: its first {len(problems)} problems are {n_different} "
            "different ones; lower limit"
        )
    return problems
