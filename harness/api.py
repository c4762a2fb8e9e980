"""The Python API behind `import harness`: grade, evaluate, train, read runs as data frames, compare.

Each function takes the settings of the command of the same name and raises a `HarnessError` where the command prints
one line.
"""

from __future__ import annotations

import functools
import glob
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from harness.core.config import Tree, merge, parse, parse_plugin, read_toml
from harness.core.errors import RunFolderError, UnknownNameError, UsageError
from harness.core.progress import Progress
from harness.core.protocols import Grader, Split, Task
from harness.core.recipes import find_config
from harness.core.types import Completion, Estimate, Problem, Tokens, Verdict
from harness.evaluation.config import DEFAULT_METRICS
from harness.evaluation.metric_names import metric_settings
from harness.evaluation.pipeline import verdict_of
from harness.evaluation.select import find_problem
from harness.evaluation.sweep import eval_runs, evaluate_runs
from harness.interop.imports import importer
from harness.interop.imports.matching import Key
from harness.interop.imports.run_files import ImportRequest
from harness.reports import compare as comparisons
from harness.reports.render import to_frame
from harness.reports.report import build_tables, named_runs
from harness.reports.run_facts import labels, model_of
from harness.runs import frames
from harness.runs.folder import RunReader, default_folder
from harness.runs.search import find_runs

if TYPE_CHECKING:
    import pandas as pd

StrPath = str | Path
Settings = Mapping[str, Any]
"""Keys of a config file, nested (`{"loop": {"steps": 40}}`) or with dots (`{"loop.steps": 40}`)."""

# --- grading ----------------------------------------------------------------------------------------------------


@overload
def grade(
    text: str,
    *,
    task: str,
    problem: str | int,
    split: Split = "test",
    grader: str | Settings | None = None,
    truncated: bool = ...,
) -> Verdict: ...


@overload
def grade(text: str, *, reference: object, grader: str | Settings = "math", truncated: bool = ...) -> Verdict: ...


def grade(
    text: str,
    *,
    task: str | None = None,
    problem: str | int | None = None,
    reference: object = None,
    grader: str | Settings | None = None,
    split: Split = "test",
    truncated: bool = False,
) -> Verdict:
    """Grade one completion: of a task's problem, by id or number, or against a reference answer.

    `truncated` means that the token limit cut the completion off.
    """
    if (task is None) == (reference is None):
        raise UsageError("grade takes a task and a problem, or a reference: one of the two")
    if task is not None and problem is None:
        raise UsageError(f"grade needs a problem of {task}: an id, or a number counted from 0")
    if task is not None:
        of_task = _problem(task, split, str(problem))
        own = _grader(grader) if grader is not None else _task(task).grader
    else:
        grader = grader if grader is not None else "math"
        of_task = Problem("reference", "reference", (), reference)
        own = _grader(grader)
    completion = Completion(of_task.id, 0, 0, text, "length" if truncated else "stop", Tokens(0, 0))
    verdict = verdict_of(own, of_task, completion)
    if task is None and verdict.reason == "reference unreadable":
        raise UsageError(
            f"the grader {own.plugin_id!r} can't read the reference {reference!r}: give its own reference type, or a "
            "task and a problem"
        )
    return verdict


@functools.cache
def _task(name: str) -> Task[Any]:
    task: Task[Any] = parse_plugin("tasks", name).build()
    return task


def _grader(chosen: str | Settings) -> Grader[Any]:
    return _built_grader(json.dumps(chosen, sort_keys=True))


@functools.cache
def _built_grader(chosen: str) -> Grader[Any]:
    grader: Grader[Any] = parse_plugin("graders", json.loads(chosen), "grader").build()
    return grader


@functools.cache
def _problems(task: str, split: Split) -> Sequence[Problem[Any]]:
    if split == "train":
        raise UsageError("the train split may be endless; grade problems of the test or validation split")
    return list(_task(task).problems(split, 0))


def _problem(task: str, split: Split, name: str) -> Problem[Any]:
    problems = _problems(task, split)
    found = find_problem(problems, name)
    if found is None:
        raise UnknownNameError(f"problem of {task}", name, (problem.id for problem in problems))
    return found


# --- runs -------------------------------------------------------------------------------------------------------


class Runs(Sequence["Run"]):
    """Several runs, with the files of all of them as data frames."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = list(runs)

    @overload
    def __getitem__(self, index: int) -> Run: ...

    @overload
    def __getitem__(self, index: slice) -> Runs: ...

    def __getitem__(self, index: int | slice) -> Run | Runs:
        return Runs(self._runs[index]) if isinstance(index, slice) else self._runs[index]

    def __len__(self) -> int:
        return len(self._runs)

    def __repr__(self) -> str:
        return "\n".join(map(repr, self._runs)) if self._runs else "no runs"

    def completions(self) -> pd.DataFrame:
        """Return a row for each completion, with its text and token counts."""
        return frames.completions(self._labelled())

    def verdicts(self) -> pd.DataFrame:
        """Return a row for the last verdict of each grader on each completion."""
        return frames.verdicts(self._labelled())

    def steps(self) -> pd.DataFrame:
        """Return a row for each training step, with a column for each step metric."""
        return frames.steps(self._labelled())

    def estimates(self) -> pd.DataFrame:
        """Return a row for each estimate of each task: value, interval, counts and method."""
        return frames.estimates((run, label, model_of(run)) for run, label in self._labelled())

    def tables(self, table_id: str, names: Mapping[str, str] | None = None) -> list[pd.DataFrame]:
        """Return a table of a report: its data frames, with title and notes in `attrs`. `names` labels runs by id."""
        readers = named_runs([RunReader.read(run.folder) for run in self._runs], names if names is not None else {})
        return [to_frame(table) for table in build_tables(table_id, readers)]

    def _labelled(self) -> Iterator[tuple[RunReader, str]]:
        readers = [RunReader.read(run.folder) for run in self._runs]
        return zip(readers, labels(readers), strict=True)


@dataclass(frozen=True, slots=True)
class Run:
    """One run folder, read again at each call."""

    folder: Path

    @property
    def id(self) -> str:
        return self._reader().record.id

    @property
    def kind(self) -> str:
        """`eval`, `train` or `rollouts`."""
        return self._reader().record.kind

    @property
    def status(self) -> str:
        """`running`, `done`, `failed` or `interrupted`."""
        return self._reader().status

    @property
    def config(self) -> Mapping[str, Any]:
        """The resolved config."""
        return self._reader().config()

    def completions(self) -> pd.DataFrame:
        """Return a row for each completion, with its text and token counts."""
        return Runs([self]).completions()

    def verdicts(self) -> pd.DataFrame:
        """Return a row for the last verdict of each grader on each completion."""
        return Runs([self]).verdicts()

    def steps(self) -> pd.DataFrame:
        """Return a row for each training step, with a column for each step metric."""
        return Runs([self]).steps()

    def estimates(self) -> pd.DataFrame:
        """Return a row for each estimate of each task: value, interval, counts and method."""
        return Runs([self]).estimates()

    def _reader(self) -> RunReader:
        return RunReader.read(self.folder)


def load_runs(paths: StrPath | Sequence[StrPath]) -> Runs:
    """Find the runs at and below paths or patterns such as `runs/*`. A train run brings its held-out evaluations."""
    named = [paths] if isinstance(paths, (str, Path)) else list(paths)
    found = [match for path in named for match in _matches(path)]
    return Runs([Run(folder) for folder in find_runs(found).folders])


def _matches(path: StrPath) -> list[Path]:
    if isinstance(path, Path) or not glob.has_magic(path):
        return [Path(path)]
    matches = sorted(Path(match) for match in glob.glob(path))
    if not matches:
        raise RunFolderError(f"nothing matches {path}")
    return matches


# --- evaluating and training ------------------------------------------------------------------------------------


def evaluate(
    model: StrPath,
    tasks: str | Sequence[str],
    *,
    out: StrPath | None = None,
    n: int | None = None,
    limit: int | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    engine: str | Settings | None = None,
    grader: str | Settings | None = None,
    metrics: Sequence[str] | None = None,
    preset: str | None = None,
    seed: int | None = None,
    settings: Settings | None = None,
    quiet: bool = False,
) -> Run:
    """Evaluate a model as `harness eval` does, or resume that run. `settings` are further keys of its config."""
    if metrics is not None:
        settings = merge({"metrics": metric_settings([*DEFAULT_METRICS, *metrics])}, _tree(settings))
    given = {
        "model": {"path": str(model)},
        "tasks": [tasks] if isinstance(tasks, str) else list(tasks),
        **_without_none(n=n, limit=limit, engine=engine, grader=grader, preset=preset, seed=seed),
        "sampling": _without_none(temperature=temperature, max_tokens=max_tokens),
    }
    runs = eval_runs(
        [merge(_plugins_as_tables(given), _tree(settings))],
        Path(out) if out is not None else None,
        lambda config: default_folder(f"eval-{Path(config.model.path).name}", config),
    )
    (done,) = evaluate_runs(runs, Progress(quiet=quiet))
    return Run(done.run.folder)


def train(
    config: StrPath,
    *,
    out: StrPath | None = None,
    engine: str | Settings | None = None,
    settings: Settings | None = None,
    quiet: bool = False,
) -> Run:
    """Train as `harness train` does, from a recipe or a TOML file, or resume that run."""
    from harness.trainers.config import TrainConfig
    from harness.trainers.train import train as train_run  # imports torch

    path = find_config(str(config))
    flags = _plugins_as_tables(_without_none(engine=engine))
    parsed = parse(TrainConfig, merge(read_toml(path), flags, _tree(settings)))
    folder = Path(out) if out is not None else default_folder(f"train-{path.stem}", parsed)
    return Run(train_run(parsed, folder, Progress(quiet=quiet)).folder)


def import_completions(
    files: StrPath | Sequence[StrPath],
    tasks: str | Sequence[str],
    *,
    out: StrPath,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    match: Key = "auto",
    model: str | None = None,
    grader: str | Settings | None = None,
    n: int | None = None,
    limit: int | None = None,
    allow_missing: bool = False,
    skip_unmatched: bool = False,
    settings: Settings | None = None,
    quiet: bool = False,
) -> Run:
    """Make a run of completions that another tool wrote, as `harness import` does. `columns` are those of `--map`."""
    flags = {
        "tasks": [tasks] if isinstance(tasks, str) else list(tasks),
        **_without_none(grader=grader, limit=limit),
        **({"model": {"path": model}} if model is not None else {}),
    }
    request = ImportRequest(
        files=[Path(path) for path in ([files] if isinstance(files, (str, Path)) else files)],
        out=Path(out),
        settings=merge(_plugins_as_tables(flags), _tree(settings)),
        format=format,
        columns=columns if columns is not None else {},
        by=match,
        n=n,
        allow_missing=allow_missing,
        skip_unmatched=skip_unmatched,
    )
    return Run(importer.import_completions(request, Progress(quiet=quiet)).evaluation.run.folder)


def _without_none(**settings: Any) -> Tree:
    return {key: value for key, value in settings.items() if value is not None}


def _plugins_as_tables(settings: Tree) -> Tree:
    ids = {key: {"id": settings[key]} for key in ("engine", "grader") if isinstance(settings.get(key), str)}
    return {**settings, **ids}


def _tree(settings: Settings | None) -> Tree:
    """Return nested settings; a key with dots is a path."""
    found: Tree = {}
    for key, value in settings.items() if settings is not None else ():
        for part in reversed(key.split(".")):
            value = {part: value}
        found = merge(found, value)
    return found


# --- comparing --------------------------------------------------------------------------------------------------


def compare(
    first: StrPath | Run | Sequence[StrPath | Run],
    second: StrPath | Run | Sequence[StrPath | Run],
    *,
    metric: str | None = None,
    grader: str | None = None,
    anyway: bool = False,
) -> pd.DataFrame:
    """Compare two evaluations, or groups of them, problem by problem: a row for each task and metric.

    The columns are those of `harness compare`, with `low` and `high` of the difference; `attrs["notes"]` holds its
    notes.
    """
    import pandas as pd

    table = comparisons.compare(_folders(first), _folders(second), metric=metric, grader=grader, anyway=anyway)
    rows = [_flat(dict(zip(table.columns, row, strict=True))) for row in table.rows]
    frame = pd.DataFrame(rows)
    frame.attrs["notes"] = list(table.notes)
    return frame


def _folders(runs: StrPath | Run | Sequence[StrPath | Run]) -> list[Path]:
    several = [runs] if isinstance(runs, (str, Path, Run)) else runs
    return [run.folder if isinstance(run, Run) else Path(run) for run in several]


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row with the interval of an estimate in columns of its own."""
    found: dict[str, Any] = {}
    for name, cell in row.items():
        if isinstance(cell, Estimate):
            found |= {name: cell.value, "low": cell.low, "high": cell.high}
        else:
            found[name] = cell
    return found
