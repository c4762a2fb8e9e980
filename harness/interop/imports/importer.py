"""`harness import`: completions of another tool as a run folder, which is graded, audited and compared like any other.

The completions are written to a temporary folder, which gets its name when all of them have a problem. They are graded
after that, so that an interrupted import continues with the same command.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from harness.core import config as configs
from harness.core.config import Tree, merge
from harness.core.errors import ConfigError, DataError, RunFolderError
from harness.core.progress import Progress
from harness.core.types import Sampling, Verdict
from harness.data.files import checksum
from harness.evaluation.config import EvalConfig
from harness.evaluation.loop import Evaluation, evaluate_opened
from harness.evaluation.pipeline import Pending, grade_in_order
from harness.evaluation.setup import EvalSetup, resolve
from harness.interop.imports.registry import open_as
from harness.interop.imports.run_files import ImportedFile, ImportRequest, RunFiles
from harness.runs.folder import RunReader, RunWriter, finishing
from harness.runs.index import CompletionIndex, is_open
from harness.runs.jsonl import disk_error

SOURCE = "source"
"""Name of the facts about the files in the run record."""
UNKNOWN_MODEL = "unknown"
UNCOUNTED = 2**31
"""Samples per problem while the files are read."""
MOST_BEGUN = 1024
"""Completions that are held for grading at a time."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A finished import."""

    evaluation: Evaluation
    format: str
    n_skipped: int
    """Rows left out on request: those without a problem, and those of problems that were not selected."""
    unknown: Sequence[str]


def import_completions(request: ImportRequest, progress: Progress) -> Imported:
    """Import the files, or finish an import that was interrupted while it was graded."""
    files = _open_files(request)
    setup = _setup(request, files, progress)
    RunWriter.check(request.out, setup.identity)
    if not (request.out / "run.json").is_file():
        setup = _write_run(request, files, setup, progress)
    stored = RunReader.read(request.out)
    setup = _with_stored(setup, stored)
    _grade(setup, progress)
    done = evaluate_opened(setup, progress)
    facts = stored.record.data[SOURCE]
    return Imported(done, files[0].form.name, facts["rows_left_out"], facts["unknown"])


# --- the files --------------------------------------------------------------------------------------------------


def _open_files(request: ImportRequest) -> list[ImportedFile]:
    """Open every file. Raise unless all have one format and one model, and none is given twice."""
    files: list[ImportedFile] = []
    for path in request.files:
        form, rows, first = open_as(path, request.format, request.columns)
        files.append(ImportedFile(form, rows, form.origin(path, first), checksum(path)))
    for index, file in enumerate(files):
        for other in files[:index]:
            if other.sha256 == file.sha256:
                raise DataError(f"{file.rows.path} and {other.rows.path} have the same content; name one of them")
            if other.form.name != file.form.name:
                raise DataError(
                    f"{other.rows.path} is of the format {other.form.name} and {file.rows.path} of {file.form.name}; "
                    "import each to a run of its own"
                )
            if None not in (other.origin.model, file.origin.model) and other.origin.model != file.origin.model:
                raise DataError(
                    f"{other.rows.path} is by the model {other.origin.model!r} and {file.rows.path} by "
                    f"{file.origin.model!r}; import each to a run of its own"
                )
    return files


def _setup(request: ImportRequest, files: Sequence[ImportedFile], progress: Progress) -> EvalSetup:
    """Return the evaluation that the run will be; its number of samples is known once they are counted."""
    models = [file.origin.model for file in files if file.origin.model is not None]
    model = models[0] if models else UNKNOWN_MODEL
    defaults: Tree = {"model": {"path": model}, "sampling": _common_sampling(files)}
    own: Tree = {"engine": "imported", "n": request.n if request.n is not None else UNCOUNTED}
    if refused := sorted(own.keys() & request.settings.keys()):
        raise ConfigError(f"an import decides {refused[0]!r} by its files; leave it out (--n keeps the first samples)")
    config = configs.parse(EvalConfig, merge(defaults, request.settings, own))
    setup = resolve(config, request.out, progress)
    identity = setup.identity.with_facts("model", {}).with_facts(SOURCE, _facts(files, config))
    return replace(setup, identity=identity)


def _common_sampling(files: Sequence[ImportedFile]) -> Tree:
    """Return the sampling options on which all files agree."""
    first, *others = [file.origin.sampling for file in files]
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


def _facts(files: Sequence[ImportedFile], config: EvalConfig) -> dict[str, Any]:
    """Return the facts that are known before the rows are read. The fingerprint guards the folder."""
    digests = [f"{file.rows.path.name} sha256 {file.sha256}" for file in files]
    tools = dict.fromkeys(file.origin.tool for file in files if file.origin.tool is not None)
    absent = [option.name for option in fields(Sampling) if getattr(config.sampling, option.name) is None]
    unknown = ["prompts", "seeds", *(absent if len(absent) < len(fields(Sampling)) else ["sampling"])]
    unknown += ["model"] if config.model.path == UNKNOWN_MODEL else []
    return {
        "format": files[0].form.name,
        "tool": ", ".join(tools) if tools else "not recorded",
        "files": digests,
        "fingerprint": hashlib.sha256("\n".join(sorted(file.sha256 for file in files)).encode()).hexdigest()[:16],
        "unknown": unknown,
    }


# --- the run folder ---------------------------------------------------------------------------------------------


def _write_run(
    request: ImportRequest, files: Sequence[ImportedFile], setup: EvalSetup, progress: Progress
) -> EvalSetup:
    """Write all completions to a new folder and rename it; nothing is left if a row is refused."""
    there = next(parent for parent in request.out.absolute().parents if parent.is_dir())
    try:
        work = Path(tempfile.mkdtemp(prefix=f".import-{request.out.name}-", dir=there))
    except OSError as error:
        raise disk_error(request.out, error) from error
    try:
        with RunFiles(request, setup, work) as writing:
            for file in files:
                writing.add(file, progress)
            writing.finish()
        setup = _counted(setup, writing)
        folder = work / request.out.name  # the record takes its id from this name
        RunWriter.open(folder, setup.identity).close()
        for name in ("completions.jsonl", "verdicts.jsonl"):
            if (work / name).exists():
                (work / name).rename(folder / name)
        _move(folder, request.out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return setup


def _move(folder: Path, out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(out)  # an empty folder of that name is replaced
    except OSError as error:
        raise RunFolderError(f"{out} can't be made: {error.strerror}; choose another --out") from None


def _counted(setup: EvalSetup, writing: RunFiles) -> EvalSetup:
    """Return the setup with the number of samples, and with the facts that the rows decided."""
    setup = _with_n(setup, max(writing.n_taken.values()))
    facts = dict(setup.identity.data[SOURCE])
    facts["unknown"] = [*facts["unknown"], *writing.unknown()]
    facts |= {"completions": writing.n_stored, "rows_left_out": writing.n_skipped}
    if writing.step is not None:
        facts["step"] = writing.step
    return replace(setup, identity=setup.identity.with_facts(SOURCE, facts))


def _with_n(setup: EvalSetup, n: int) -> EvalSetup:
    try:
        config = replace(setup.config, n=n)
    except ValueError as error:  # a metric that needs more samples
        raise ConfigError(str(error)) from None
    tasks = {name: replace(task, plan=replace(task.plan, n=n)) for name, task in setup.tasks.items()}
    return replace(setup, config=config, tasks=tasks, identity=replace(setup.identity, config=config))


def _with_stored(setup: EvalSetup, stored: RunReader) -> EvalSetup:
    """Return the setup with the number of samples and the facts of the stored run."""
    setup = _with_n(setup, stored.config()["n"])
    return replace(setup, identity=setup.identity.with_facts(SOURCE, stored.record.data[SOURCE]))


# --- grading ----------------------------------------------------------------------------------------------------


def _grade(setup: EvalSetup, progress: Progress) -> None:
    """Grade the stored completions that have no verdict yet, a few at a time: none is kept in memory."""
    writer = RunWriter.open(setup.folder, setup.identity)
    with finishing(writer):
        view = writer.reader()
        graders = {name: task.grader_name for name, task in setup.tasks.items()}
        stored = CompletionIndex(view, graders, with_completions=False).verdicts
        graded = {name: {key for key, verdict in of.items() if not is_open(verdict)} for name, of in stored.items()}
        for task in setup.tasks.values():
            by_id = {problem.id: problem for problem in task.problems}
            pending = (
                Pending(by_id[completion.problem_id], completion)
                for name, completion in view.completions()
                if name == task.id and (completion.problem_id, completion.index) not in graded[name]
            )
            progress.begin(f"grade {task.id}", view.record.data[SOURCE]["completions"][task.id], len(graded[task.id]))
            sink = _Sink(writer, task.id, task.grader_name)
            for _ in grade_in_order(pending, task.grader, sink, most_begun=MOST_BEGUN):
                progress.advance()
            progress.end()


@dataclass(frozen=True, slots=True)
class _Sink:
    writer: RunWriter
    task: str
    grader: str

    def append_verdict(self, completion: Any, verdict: Verdict) -> None:
        self.writer.append_verdict(self.task, completion.problem_id, completion.index, self.grader, verdict)
