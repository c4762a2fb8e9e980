"""Problems x engine x grader -> a stream of graded completions: the only evaluation loop.

`run` is what training, held-out evaluation and `harness eval` all go through. With a ledger, what a run folder holds
already is neither generated nor graded again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from harness.core.choosing import only
from harness.core.config import Chosen, incidental, plugin, sections
from harness.core.errors import ConfigError, EngineError, RunFolderError
from harness.core.models import fingerprint, resolve
from harness.core.progress import Progress
from harness.core.protocols import Engine, Grader, ModelSource, Served, Split, Task, Vetting
from harness.core.records import Records
from harness.core.seeds import derive, derive_each
from harness.core.stopwatch import Stopwatch, timed
from harness.core.store import RunStore, RunView, ending
from harness.core.task_facts import grader_name, judged_by, task_facts
from harness.core.types import (
    CLUSTER_TAG,
    Completion,
    Estimate,
    Failure,
    Graded,
    Problem,
    Request,
    Sampling,
    Tokens,
    Verdict,
)
from harness.grading import Ungraded, in_order
from harness.ledger import LOST, Ledger
from harness.watching import watched


@dataclass(frozen=True, slots=True)
class Plan:
    """How many completions of each problem, drawn how. `stream` names the randomness apart from other uses."""

    n: int
    sampling: Sampling
    seed: int
    stream: tuple[str | int, ...]

    def seeds(self, problem: Problem[Any]) -> Iterator[int]:
        return derive_each(self.seed, *self.stream, problem.task, problem.id, n=self.n)

    def request(self, problem: Problem[Any], index: int, seed: int) -> Request:
        return Request(problem.id, index, problem.messages, seed, self.sampling)


def run(
    problems: Sequence[Problem[Any]], engine: Engine, grader: Grader[Any], plan: Plan, ledger: Ledger | None = None
) -> Iterator[Graded[Any]]:
    """Every problem's completions 0 .. n-1 with their verdicts: those on record first, then the new ones."""
    return in_order(_answers(problems, engine, plan, ledger), grader, ledger)


def _answers(
    problems: Sequence[Problem[Any]], engine: Engine, plan: Plan, ledger: Ledger | None
) -> Iterator[Graded[Any] | Ungraded]:
    """What is on record with a verdict, what is there without one, then what the engine gives."""
    completions = ledger.completions if ledger is not None else {}
    verdicts = ledger.verdicts if ledger is not None else {}
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
            yield Graded(problem, completion, verdicts[problem.id, index])
        else:
            yield problem, completion
    by_id = {problem.id: problem for problem in problems}
    for answer in _generate(engine, missing, ledger.stopwatch if ledger is not None else Stopwatch()):
        if isinstance(answer, Failure):
            yield _lose(by_id[answer.problem_id], answer, ledger)
            continue
        kept = ledger.append_completion(answer) if ledger is not None else answer
        yield by_id[answer.problem_id], kept


def _generate(engine: Engine, requests: Sequence[Request], stopwatch: Stopwatch) -> Iterator[Completion | Failure]:
    """The engine's answers, held to its promise: exactly one for each request."""
    awaited = {(request.problem_id, request.index): request.seed for request in requests}
    for completion in timed(engine.generate(requests), stopwatch):
        key = (completion.problem_id, completion.index)
        if key not in awaited:
            raise EngineError(f"the engine gave a completion nobody asked for, or gave it twice: {key}")
        if completion.seed != awaited.pop(key):
            raise EngineError(f"the engine gave a completion under another seed than was asked: {key}")
        yield completion
    if awaited:
        raise EngineError(f"the engine stopped with {len(awaited)} completions missing, {min(awaited)} among them")


def _lose(problem: Problem[Any], failure: Failure, ledger: Ledger | None) -> Graded[Any]:
    """Nothing to grade: the verdict is on record with its reason, and the place of the completion stays free."""
    verdict = Verdict("ungraded", None, reason=f"no completion: {failure.reason}", details={LOST: True})
    empty = Completion(failure.problem_id, failure.index, failure.seed, "", "failed", Tokens(0, 0))
    if ledger is not None:
        ledger.append_verdict(empty, verdict)
    return Graded(problem, empty, verdict)


# --- harness eval -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which model: a directory, a train run, a bundled model or a hub id."""

    path: str
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    weights: Literal["pretrained", "random"] = "pretrained"
    """`random` takes the model's shape and tokenizer, and weights drawn from the run's seed."""

    def source(self, random_seed: int, *, is_served: bool = False) -> ModelSource:
        """What an engine opens; of a model that is served elsewhere, the name as it is."""
        if is_served and (self.weights == "random" or self.revision is not None):
            raise ConfigError("model.weights and model.revision are about files; whoever serves a model decides them")
        seed = random_seed if self.weights == "random" else None
        path = self.path if is_served else resolve(self.path)
        return ModelSource(path, self.revision, self.dtype, self.device, seed)


@dataclass(frozen=True, slots=True)
class SamplingConfig:
    """What is set here replaces the task's own default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.temperature is not None and self.temperature < 0:
            raise ValueError("temperature must not be negative (0 is greedy)")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError("top_p must lie in (0, 1]; 1 is off")
        if self.top_k is not None and self.top_k < 0:
            raise ValueError("top_k must not be negative (0 is off)")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError("max_tokens must be at least 1")

    def over(self, default: Sampling) -> Sampling:
        names = ("temperature", "top_p", "top_k", "max_tokens", "stop")
        return replace(default, **{name: v for name in names if (v := getattr(self, name)) is not None})


@dataclass(frozen=True, slots=True)
class TaskSettings(SamplingConfig):
    """What holds for one task alone, and replaces what holds for all."""

    grader: Chosen | None = plugin("graders", is_incidental=True, otherwise=None)
    """Instead of the task's own. Another one grades what is on record again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """Everything an evaluation depends on. `n` and `limit` may grow on resuming."""

    model: ModelConfig
    tasks: tuple[Chosen, ...] = plugin("tasks")
    grader: Chosen | None = plugin("graders", otherwise=None)
    """Of every task, instead of its own."""
    engine: Chosen = plugin("engines", default="hf")
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    per_task: Mapping[str, TaskSettings] = sections()
    preset: str | None = incidental(default=None)
    """The protocol that the settings were taken from (`harness show preset NAME`)."""
    deviations: tuple[str, ...] = incidental(default=())
    """What is not as that protocol says."""
    split: Literal["train", "validation", "test"] = "test"
    n: int = incidental(default=16)
    limit: int | None = incidental(default=None)
    problems: tuple[str, ...] | None = incidental(default=None)
    """Only these: ids, or numbers counted from 0. Every task must have some of them."""
    seed: int = 0
    problem_seed: int = 0
    max_ungraded: float = incidental(default=0.01)
    """The share of ungraded completions above which the command ends with exit code 3."""
    strict_data: bool = incidental(default=False)
    """Refuse data whose fingerprint is not the one on record, instead of saying so."""
    store_ids: bool = incidental(default=False)
    """Keep token ids and log-probabilities with the texts."""
    metrics: tuple[Chosen, ...] = plugin(
        "metrics", default=["avg_at_k", "pass_at_k", "distinct_at_k"], is_incidental=True
    )

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError("n must be at least 1")
        if self.limit is not None and self.limit < 1:
            raise ValueError("limit must be at least 1")
        if not 0 <= self.max_ungraded <= 1:
            raise ValueError("max_ungraded is a share, from 0 to 1")
        if not self.tasks:
            raise ValueError("tasks must name at least one task")
        for chosen in self.metrics:
            largest = max(getattr(chosen.options, "ks", ()), default=0)
            if largest > self.n:
                raise ValueError(
                    f"the metric {chosen.id} needs k = {largest} samples a problem, and n is {self.n}; raise n, or ask "
                    "for other metrics"
                )
        if len({chosen.id for chosen in self.tasks}) < len(self.tasks):
            raise ValueError("tasks names a task twice; give each setting of it a run of its own")
        if unknown := self.per_task.keys() - {chosen.id for chosen in self.tasks}:
            raise ValueError(f"per_task has settings for {min(unknown)!r}, which is none of the tasks")
        if self.problems is not None and self.limit is not None:
            raise ValueError("limit and problems exclude each other: say how many, or which")

    def judge(self, task: str) -> Chosen | None:
        """Who grades a task in place of its own grader."""
        special = self.per_task[task].grader if task in self.per_task else None
        return special if special is not None else self.grader

    def plan(self, name: str, task: Task[Any]) -> Plan:
        """Sampling as it is set for the task, else for all, else as the task would have it."""
        every = self.sampling.over(task.sampling)
        sampling = self.per_task[name].over(every) if name in self.per_task else every
        return Plan(self.n, sampling, self.seed, ("eval",))


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
    """Refuse what can be refused now: data, a folder of another run, a model without a template, long prompts."""
    engine = config.engine.build("engines")
    source = config.model.source(derive(config.seed, "weights"), is_served=isinstance(engine, Served))
    tasks = tasks_of(config)
    problems = problems_for(config, tasks)
    data = data_facts(config, tasks, progress)
    model = {} if isinstance(engine, Served) else {"model": fingerprint(source.path)}
    RunStore.refuse(folder, "eval", config, {**data, **model})
    if isinstance(engine, Vetting):
        engine.vet(source, [config.plan(n, t).request(p, 0, 0) for n, t in tasks.items() for p in problems[n]])
    return Prepared(config, folder, engine, source, tasks, problems, data)


def evaluate(config: EvalConfig, folder: Path, progress: Progress) -> RunView:
    """`harness eval`: look at everything, load the model, open or resume the run folder, fill it, write its metrics."""
    (view,) = evaluate_prepared([prepare(config, folder, progress)], progress)
    return view


def evaluate_prepared(several: Sequence[Prepared], progress: Progress) -> Iterator[RunView]:
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
) -> RunView:
    """The same with an engine that holds the model already."""
    problems, data = problems_for(config, tasks), data_facts(config, tasks, progress)
    return _fill(Prepared(config, folder, engine, ModelSource(model_path), tasks, problems, data), progress)


def _fill(one: Prepared, progress: Progress) -> RunView:
    progress.label = one.label
    path, engine, seeds = one.source.path, one.engine, {"run": one.config.seed}
    model = engine.facts(path) if isinstance(engine, Served) else fingerprint(path)
    store = RunStore.open(one.folder, "eval", one.config, seeds=seeds, data={**one.data, "model": model})
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
    store: RunStore,
    config: EvalConfig,
    tasks: dict[str, Task[Any]],
    problems: dict[str, list[Problem[Any]]],
    engine: Engine,
    progress: Progress,
) -> dict[str, list[Estimate]]:
    """Complete an open run folder and estimate every metric of every task."""
    metrics = [chosen.build("metrics") for chosen in config.metrics]
    clusters = {name: _clusters(problems[name]) for name in tasks}
    if any(clusters.values()):
        store.write_clusters(clusters)
    records = Records(store.view(), {name: grader_name(task, config.judge(name)) for name, task in tasks.items()})
    estimates = {}
    for name, task in tasks.items():
        plan = config.plan(name, task)
        ledger = Ledger(store, name, grader_name(task, config.judge(name)), with_ids=config.store_ids, records=records)
        ids = {problem.id for problem in problems[name]}
        on_record = {key for key in ledger.completions if key[0] in ids and key[1] < plan.n}
        stream = run(problems[name], engine, task.grader, plan, ledger)
        graded = list(watched(stream, name, len(ids) * plan.n, on_record, progress))
        if ledger.stopwatch.n_completions:
            store.log(f"{name}: {ledger.stopwatch}")
        estimates[name] = [estimate for metric in metrics for estimate in metric.estimate(graded)]
    return estimates


def _clusters(problems: Sequence[Problem[Any]]) -> dict[str, str]:
    return {problem.id: problem.tags[CLUSTER_TAG] for problem in problems if CLUSTER_TAG in problem.tags}


@dataclass(frozen=True, slots=True)
class Shortfall:
    """What a run asked for and has no verdict of right or wrong on."""

    n_asked: int
    n_ungraded: int
    n_lost: int
    """Of the ungraded those that the engine could not have; the same command asks for them again."""

    def is_above(self, share: float) -> bool:
        return self.n_ungraded > share * self.n_asked


def shortfall(config: EvalConfig, view: RunView) -> Shortfall:
    """Of the samples below n under each task's own grader."""
    graders = {chosen.id: grader_name(chosen.build("tasks"), config.judge(chosen.id)) for chosen in config.tasks}
    records = Records(view, graders, with_completions=False)
    found = [v for verdicts in records.verdicts.values() for (_, index), v in verdicts.items() if index < config.n]
    ungraded = [verdict for verdict in found if verdict.outcome == "ungraded"]
    return Shortfall(len(found), len(ungraded), sum(LOST in verdict.details for verdict in ungraded))


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
