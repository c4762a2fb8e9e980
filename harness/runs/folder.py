"""The run folder: the only link between running and reporting.

    run.json            the record: what ran, with which config, data and code, and how it ended
    config.toml         the resolved config
    completions.jsonl   append-only; the key of a line is task, problem and sample index
    verdicts.jsonl      append-only; the same key, and the grader
    steps.jsonl         one line per optimiser step (training)
    groups.jsonl        a few groups of completions of some steps, with log-probabilities (training)
    rollouts.jsonl      the completions of each step, if the config asks for them (training)
    warnings.jsonl      signs of collapse in the step metrics (training)
    metrics.json        the estimates
    diversity.json      diversity by problem, judgements.jsonl a judge's labels (`harness diversity`)
    clusters.json       the family of each problem, for tasks whose problems come in families
    checkpoints/        policies as Hugging Face models, with the training state (training)
    evals/              held-out evaluations, each a run folder of its own (training)
    log.txt             the events of the run with their times

Opening a folder again resumes its run. Another config is refused with the keys that differ, and a folder that is not a
run is never touched. Only one process at a time can write to a folder.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import os
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from harness.core import config as configs
from harness.core.errors import DiskError, RunFolderError, UsageError
from harness.core.types import (
    Completion,
    Estimate,
    KeptGroup,
    RunRecord,
    Sampling,
    Status,
    StoredCompletion,
    Verdict,
)
from harness.runs import schema
from harness.runs.files import open_regular, read_text, refuse_link, refuse_special
from harness.runs.jsonl import (
    JsonlFile,
    altered_in_use,
    corrupt_file_error,
    disk_error,
    encode_line,
    read_line_at,
    read_lines,
    refuse_altered_line,
    size_of_lines,
    write_whole,
)
from harness.runs.lock import in_use_error, is_held, locked
from harness.runs.provenance import code_version, environment
from harness.runs.schema import BAD_ROW, Key

T = TypeVar("T")
RunKind = Literal["eval", "train", "rollouts"]
Facts = Mapping[str, Mapping[str, Any]]
"""Name of a task, or `model` -> what the run record keeps of it."""

_LINES = ("completions", "verdicts", "steps", "groups", "rollouts", "warnings")
FILES = ("run.lock", "config.toml", "log.txt", "metrics.json", "clusters.json", *(f"{name}.jsonl" for name in _LINES))
FOLDERS = ("checkpoints", "evals")


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """Everything that must agree when a run is resumed: built once, passed whole."""

    kind: RunKind
    config: Any
    """The config's dataclass."""
    settings: Mapping[str, Any]
    """The config as a tree, without the keys that may change on resuming."""
    digest: str
    """Of the settings."""
    seeds: Mapping[str, int]
    data: Facts

    @classmethod
    def of(cls, kind: RunKind, config: Any, *, seeds: Mapping[str, int], data: Facts) -> RunIdentity:
        settings = configs.to_tree(config, identity_only=True)
        return cls(kind, config, settings, configs.digest(settings), seeds, data)

    def with_facts(self, name: str, facts: Mapping[str, Any]) -> RunIdentity:
        """Return the identity with facts that are known only later, such as those of a remote model."""
        return dataclasses.replace(self, data={**self.data, name: facts})


def default_folder(name: str, config: object) -> Path:
    """Return the run folder of a config. The same config always gets the same folder, so that it resumes."""
    return Path("runs") / f"{name}-{configs.digest(configs.to_tree(config, identity_only=True))[:8]}"


class RunWriter:
    """A run folder open for writing, locked by this process."""

    def __init__(self, folder: Path, record: RunRecord, lock: int) -> None:
        self.folder = folder
        self.record = record
        self._lock = lock
        self._completions = JsonlFile(folder / "completions.jsonl")
        self._verdicts = JsonlFile(folder / "verdicts.jsonl")
        self._steps = JsonlFile(folder / "steps.jsonl")
        self._warnings = JsonlFile(folder / "warnings.jsonl")
        self._groups = JsonlFile(folder / "groups.jsonl")
        self._files = (self._completions, self._verdicts, self._steps, self._warnings, self._groups)
        self._completion_reader = CompletionFile(self._completions.path)

    @classmethod
    def open(cls, folder: Path, identity: RunIdentity, read: Callable[[RunReader], object] | None = None) -> RunWriter:
        """Create the folder, or resume the run in it if that has the same identity.

        `read` gets a run that is resumed before anything is written, so that what it can't read stays as it is.
        """
        resumed = _resumable_record(folder, identity)  # before anything is written
        with locked(folder) as lock:
            if _read_record(folder) != resumed:  # another process has used the folder in between
                resumed = _resumable_record(folder, identity)
            if resumed is not None and read is not None:
                read(_resumed_view(folder, resumed))
            config = configs.to_toml(identity.config)
            if resumed is None:
                write_whole(folder / "config.toml", config)
                record = _new_record(folder, identity)
            else:  # another grader, or another wording of a dataset card
                record = dataclasses.replace(resumed, data=dict(identity.data))
            writer = cls(folder, record, lock)
            writer._update(status="running", error=None, files=writer._files_with("config.toml", config), sizes={})
            if resumed is not None:
                write_whole(folder / "config.toml", config)
            writer.log(f"{'created' if resumed is None else 'resumed'} by version {code_version()}")
        return writer

    @classmethod
    def reopen(cls, folder: Path, data: Facts) -> RunWriter:
        """Open a run as it is, to add verdicts to it. Its config and status stay; its data must be the same.

        The config is not compared: a later version may have removed keys that do not matter to a grader.
        """
        record = RunReader.read(folder).record
        _refuse_special_files(folder)
        _refuse_other_data(folder, record, data)
        with locked(folder) as lock:
            writer = cls(folder, RunReader.read(folder).record, lock)
            writer._update(data={**writer.record.data, **data})
        return writer

    @staticmethod
    def check(folder: Path, identity: RunIdentity) -> None:
        """Raise the error that `open` would raise, without touching the folder.

        Facts that the identity lacks so far, such as those of a remote model, are not compared.
        """
        _resumable_record(folder, identity)
        if is_held(folder):
            raise in_use_error(folder)

    # --- completions and verdicts

    def append_completion(self, task: str, completion: Completion, *, with_ids: bool = False) -> StoredCompletion:
        """Append it to completions.jsonl; return a handle that reads it back on demand.

        Token ids and log-probabilities take most of the room, so they are stored only with `with_ids`.
        """
        offset = self._completions.append(schema.completion_row(task, completion, with_ids=with_ids))
        return self._completion_reader.handle(completion, offset)

    def append_verdict(self, task: str, problem_id: str, index: int, grader: str, verdict: Verdict) -> None:
        self._verdicts.append(schema.verdict_row(task, problem_id, index, grader, verdict))

    def record_regrading(self, task: str, grader: str, facts: Mapping[str, str]) -> None:
        """Record that all verdicts of this grader on this task are by this version of the code."""
        of_task = {**self.record.regraded.get(task, {}), grader: {"code": code_version(), **facts}}
        self._update(regraded={**self.record.regraded, task: of_task})

    # --- training

    def append_step(self, row: Mapping[str, Any]) -> None:
        self._steps.append(row)

    def append_warning(self, row: Mapping[str, Any]) -> None:
        self._warnings.append(row)

    def rewind_steps(self, last_step: int) -> list[dict[str, Any]]:
        """Drop the rows of steps after `last_step`, which will run again; return the rows that are kept."""
        kept = [row for row in self.reader().steps() if row["step"] <= last_step]
        self._steps.rewrite(kept)
        return kept

    def append_group(self, group: KeptGroup, most_bytes: int) -> int:
        """Append a group; return its size in bytes, or 0 if that is above `most_bytes` and it was not written."""
        line = encode_line(schema.group_row(group))
        if len(line) > most_bytes:
            return 0
        self._groups.append_encoded(line)
        return len(line)

    def rewind_groups(self, last_step: int) -> int:
        """Drop the groups of steps after `last_step`; return the bytes of those that are kept."""
        if not self._groups.path.exists():
            return 0
        self._groups.rewrite(schema.group_row(group) for group in self.reader().groups() if group.step <= last_step)
        return size_of_lines(self._groups.path)

    def replace_warnings(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._warnings.rewrite(rows)

    # --- the run as a whole

    def sync(self) -> None:
        """Flush everything to the disk, so that it survives a power cut and not only a kill."""
        for file in self._files:
            file.sync()

    def reader(self) -> RunReader:
        return RunReader(self.folder, self.record)

    def write_clusters(self, clusters: Mapping[str, Mapping[str, str]]) -> None:
        """Write the family of each problem of each task."""
        self._write_known("clusters.json", schema.clusters_to_json(clusters))

    def write_metrics(self, estimates: Mapping[str, Sequence[Estimate]]) -> None:
        self._write_known("metrics.json", schema.estimates_to_json(estimates))

    def log(self, text: str) -> None:
        try:
            descriptor = open_regular(self.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            with open(descriptor, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{_now()} {text}\n")
        except OSError as error:
            raise disk_error(self.folder / "log.txt", error) from error

    def finish(self, status: Literal["done", "failed", "interrupted"], error: str | None = None) -> None:
        """Record how the run ended and release the folder."""
        try:
            if status == "done":
                self.sync()
            self._close_files()
            self._update(status=status, error=error, sizes=self._sizes())
            self.log(status if error is None else f"{status}: {error}")
        finally:
            os.close(self._lock)

    def close(self) -> None:
        """Release the folder; its status stays."""
        try:
            self.sync()
            self._close_files()
            if self.record.sizes:
                self._update(sizes=self._sizes())
        finally:
            os.close(self._lock)

    def _sizes(self) -> dict[str, int]:
        return {file.path.name: size_of_lines(file.path) for file in self._files if file.path.is_file()}

    def _close_files(self) -> None:
        for file in self._files:
            file.close()

    def _write_known(self, name: str, text: str) -> None:
        """Write a file whose digest run.json keeps. Both digests are there first, so that a kill in between is none."""
        self._update(files=self._files_with(name, text))
        write_whole(self.folder / name, text)

    def _files_with(self, name: str, text: str) -> Mapping[str, Sequence[str]]:
        """Return the recorded digests with the file's new one, and its former one behind it."""
        former = [digest for digest in self.record.files.get(name, [])[:1] if digest != schema.digest(text)]
        return {**self.record.files, name: [schema.digest(text), *former]}

    def _update(self, **changes: Any) -> None:
        self.record = dataclasses.replace(self.record, **changes)
        write_whole(self.folder / "run.json", schema.record_to_json(self.record))


@contextlib.contextmanager
def finishing(writer: RunWriter) -> Iterator[None]:
    """Record the status of the run at the end of the block, whether or not it raises, and release the folder."""
    try:
        yield
    except KeyboardInterrupt:
        writer.finish("interrupted")
        raise
    except BaseException as error:
        with contextlib.suppress(DiskError):  # a full disk may be the cause; raise the first error
            writer.finish("failed", f"{type(error).__name__}: {error}")
        raise
    writer.finish("done")


@dataclass(frozen=True, slots=True)
class CompletionFile:
    """The completions.jsonl of a run, from which stored completions are loaded."""

    path: Path

    def handle(self, completion: Completion, offset: int) -> StoredCompletion:
        """Return the handle of a completion whose line begins at this byte."""
        c, tokens = completion, schema.counts_of(completion.tokens)
        return StoredCompletion(c.problem_id, c.index, c.seed, c.finish_reason, tokens, c.engine_s, self, offset)

    def read(self, offset: int) -> Completion:
        """Read the completion whose line begins at this byte."""
        row = read_line_at(self.path, offset)
        try:
            return schema.completion_from_row(row)[1]
        except BAD_ROW as error:
            raise altered_in_use(self.path, offset, error) from None


@dataclass(frozen=True, slots=True)
class RunReader:
    """A run folder open for reading; it may still be growing."""

    folder: Path
    record: RunRecord
    label: str | None = None
    """A name for tables, in place of the id."""

    @classmethod
    def read(cls, folder: Path) -> RunReader:
        record = _read_record(folder)
        if record is None:
            raise RunFolderError(f"{folder} is not a run folder: it has no run.json")
        return cls(folder, record)

    @property
    def status(self) -> Status:
        """The recorded status; but a run that is `running` and that no process holds was killed: `interrupted`."""
        is_dead = self.record.status == "running" and not is_held(self.folder)
        return "interrupted" if is_dead else self.record.status

    def config(self) -> Mapping[str, Any]:
        path = self.folder / "config.toml"
        try:
            return tomllib.loads(self._known_text("config.toml"))
        except (OSError, ValueError, RecursionError) as error:
            raise RunFolderError(f"{path} can't be read: {error}") from None

    def lines(self, name: str) -> Path:
        """Return the path of a file of lines. Raise if it has lost what it had when the run ended."""
        path = self.folder / name
        if _is_short(self.record, path):
            current = _read_record(self.folder)  # the run may have been resumed since
            if current is None or _is_short(current, path):
                with contextlib.suppress(FileNotFoundError):
                    refuse_altered_line(path)  # an edit that made a line shorter
                raise RunFolderError(
                    f"{path} has lost its end: it is shorter than when the run ended; restore it, or run the command "
                    "of the run again to generate what is missing"
                )
        return path

    def completions(self) -> Iterator[tuple[str, Completion]]:
        """Yield every completion with its task, oldest first."""
        return _read_rows(self.lines("completions.jsonl"), schema.completion_from_row)

    def verdicts(self, grader: str) -> dict[Key, Verdict]:
        """Return the last verdict of a grader for each key."""
        rows = _read_rows(self.lines("verdicts.jsonl"), schema.verdict_from_row)
        return {key: verdict for key, owner, verdict in rows if owner == grader}

    def graders(self, task: str | None = None) -> list[str]:
        """Return the graders that have verdicts here, or on a task, in the order of their first verdicts."""
        rows = _read_rows(self.lines("verdicts.jsonl"), schema.verdict_from_row)
        return list(dict.fromkeys(owner for key, owner, _ in rows if task in (None, key[0])))

    def steps(self) -> list[dict[str, Any]]:
        """Return the step metrics of a training."""
        return list(_read_rows(self.lines("steps.jsonl"), schema.step_from_row))

    def groups(self) -> Iterator[KeptGroup]:
        """Yield the groups that a training kept, in the order of its steps."""
        return _read_rows(self.lines("groups.jsonl"), schema.group_from_row)

    def warnings(self) -> list[dict[str, Any]]:
        """Return the warnings of a training: step, name and text."""
        return list(_read_rows(self.lines("warnings.jsonl"), schema.warning_from_row))

    def clusters(self) -> dict[str, dict[str, str]]:
        """Return the family of each problem by task; empty if no task has families."""
        found = self._read_json("clusters.json", schema.clusters_from_json)
        return found if found is not None else {}

    def estimates(self) -> dict[str, list[Estimate]]:
        """Return the estimates by task; empty while the run has not computed them."""
        found = self._read_json("metrics.json", schema.estimates_from_json)
        return found if found is not None else {}

    def _read_json(self, name: str, parse: Callable[[str], T]) -> T | None:
        path = self.folder / name
        try:
            return parse(self._known_text(name))
        except FileNotFoundError:
            return None
        except (OSError, AttributeError, *BAD_ROW) as error:
            raise RunFolderError(f"{path} can't be read: {error}; run the evaluation again to write it") from None

    def _known_text(self, name: str) -> str:
        """Return the text of a file. Raise ValueError if run.json has other digests; earlier versions kept none."""
        text = read_text(self.folder / name)
        if not _is_known(self.record, name, text):
            current = _read_record(self.folder)  # a writer may have replaced both since
            if current is None or not _is_known(current, name, read_text(self.folder / name)):
                raise ValueError("it does not fit its digest in run.json, so one of the two was altered")
        return text


def _is_known(record: RunRecord, name: str, text: str) -> bool:
    return name not in record.files or schema.digest(text) in record.files[name]


def _is_short(record: RunRecord, path: Path) -> bool:
    """Return whether a file has lost lines since the run ended, or its last newline."""
    expected = record.sizes.get(path.name, 0)
    if expected == 0:
        return False
    try:
        with open(open_regular(path, os.O_RDONLY), "rb") as file:
            size = file.seek(-1, os.SEEK_END) + 1
            return size < expected or (size == expected and file.read() != b"\n")
    except FileNotFoundError:
        return True
    except OSError:  # empty, or refused where it is read
        return path.stat().st_size < expected


def _read_rows(path: Path, build: Callable[[dict[str, Any]], T]) -> Iterator[T]:
    for number, row in enumerate(read_lines(path), 1):
        try:
            yield build(row)
        except BAD_ROW as error:
            raise bad_row_error(path, number, error) from None


def bad_row_error(path: Path, number: int, error: Exception) -> RunFolderError:
    """Return the error for a line that is JSON but not a row of this file: building it raised one of BAD_ROW."""
    return corrupt_file_error(path, number, f"can't be understood ({type(error).__name__}: {error})")


# --- records ----------------------------------------------------------------------------------------------------


def _read_record(folder: Path) -> RunRecord | None:
    path = folder / "run.json"
    try:
        found = schema.record_from_json(read_text(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, AttributeError, *BAD_ROW) as error:
        raise RunFolderError(f"{path} can't be read as a run record: {error}; choose another folder") from None
    if isinstance(found, RunRecord):
        return found
    raise RunFolderError(f"{folder} has run format {found}, this version reads {schema.FORMAT}")


def _new_record(folder: Path, identity: RunIdentity) -> RunRecord:
    return RunRecord(
        id=folder.resolve().name,
        kind=identity.kind,
        created=_now(),
        config_digest=identity.digest,
        code=code_version(),
        environment=environment(),
        data=dict(identity.data),
        seeds=dict(identity.seeds),
        status="running",
        format=schema.FORMAT,
    )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _refuse_special_files(folder: Path) -> None:
    """Raise for links, pipes and devices in place of files, before anything is written."""
    for name in FILES:
        with contextlib.suppress(OSError):  # absent, or found to be unreadable when it is read
            refuse_special(folder / name, os.lstat(folder / name).st_mode, "written")
    for name in FOLDERS:
        refuse_link(folder / name)


# --- which folders can be resumed -------------------------------------------------------------------------------


def _resumable_record(folder: Path, identity: RunIdentity) -> RunRecord | None:
    """Return the record of the run to resume, None for a new folder, or raise. Writes nothing."""
    record = _read_record(folder)
    if record is not None:
        _refuse_special_files(folder)
        _refuse_another_config(RunReader(folder, record), identity)
        _refuse_other_data(folder, record, identity.data)
        view = _resumed_view(folder, record)
        for read in (view.steps, view.groups, view.warnings):
            collections.deque(read(), maxlen=0)  # which raises for a row that can't be read
    elif not _is_new(folder):
        raise RunFolderError(f"{folder} exists and is not a run folder (no run.json); choose another --out")
    return record


def _resumed_view(folder: Path, record: RunRecord) -> RunReader:
    """Return the run as it is read on resuming, which makes up for lines that a file has lost at its end."""
    return RunReader(folder, dataclasses.replace(record, sizes={}))


def _is_new(folder: Path) -> bool:
    try:
        names = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return True
    except OSError as error:  # a file, or a folder without permission to read
        if isinstance(error, NotADirectoryError) and not folder.exists():
            raise RunFolderError(f"{folder} would be inside a file; choose another --out") from None
        return False
    # A run that was killed before its first run.json leaves the lock and nothing but these.
    return not names or (
        "run.lock" in names and names <= {"run.lock", "config.toml", "config.toml.tmp", "run.json.tmp"}
    )


def _refuse_another_config(stored: RunReader, identity: RunIdentity) -> None:
    where, record = stored.folder, stored.record
    if record.kind != identity.kind:
        raise RunFolderError(
            f"{where} holds a run of kind {record.kind!r}, not {identity.kind!r}; choose another --out"
        )
    removed = _removed_keys(stored, type(identity.config))
    if removed:
        raise RunFolderError(
            f"{where} was begun by version {record.code}, and this version does not have the "
            f"key{'s' * (len(removed) > 1)} {', '.join(map(repr, removed))} of its config; choose another --out"
        )
    if record.config_digest == identity.digest:
        return
    try:
        old = configs.to_tree(configs.parse(type(identity.config), stored.config()), identity_only=True)
    except UsageError as error:
        raise RunFolderError(f"{where} holds a config that can't be read: {error}; choose another --out") from None
    changes = configs.differences(old, identity.settings)
    if not changes:  # the digest covers settings that this version has added
        raise RunFolderError(f"{where} was begun by another version, {record.code}; choose another --out")
    raise RunFolderError(f"{where} belongs to another config; choose another --out, or undo: " + "; ".join(changes))


def _removed_keys(stored: RunReader, schema: Any) -> list[str]:
    """Return the keys that this version does not have; also those outside the digest, which can't show them."""
    try:
        config = stored.config()
    except RunFolderError:  # if the digest is the same, the file will be written again
        return []
    return configs.unknown_keys(schema, config)


def _refuse_other_data(folder: Path, stored: RunRecord, data: Facts) -> None:
    recorded = {name: facts for name, facts in stored.data.items() if name in data}
    changes = configs.differences(_decisive(recorded), _decisive(data))
    if changes:
        raise RunFolderError(
            f"{folder} was begun with another model or other data; choose another --out, or restore: "
            + "; ".join(changes)
        )


def _decisive(data: Facts) -> Facts:
    """Return the facts that completions depend on. The grader and the wording of a card may change."""
    kept = {name: {key: facts[key] for key in ("fingerprint", "name") if key in facts} for name, facts in data.items()}
    for name, facts in data.items():
        if "sampling" in facts:
            kept[name]["sampling"] = {**_SAMPLING_DEFAULTS, **facts["sampling"]}
    return kept


# A record of a version without some sampling field was drawn as that field's default says.
_SAMPLING_DEFAULTS = {
    field.name: list(field.default) if isinstance(field.default, tuple) else field.default
    for field in dataclasses.fields(Sampling)
    if field.default is not dataclasses.MISSING
}
