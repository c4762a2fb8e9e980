"""The run folder: the only link between running and reporting.

    run.json            the record: what ran, with what, and how it ended
    config.toml         the resolved config
    completions.jsonl   append-only, keyed by task, problem and sample index
    verdicts.jsonl      append-only, same key, plus the grader
    steps.jsonl         one line an optimiser step (training)
    rollouts.jsonl      what was sampled to learn from, where it is to be kept (training)
    warnings.jsonl      what its figures said was going wrong (training)
    metrics.json        the estimates
    clusters.json       the family of each problem, where a task's problems come in families
    checkpoints/        policies in Hugging Face form, with the training state (training)
    evals/              held-out evaluations, each a run folder of its own (training)
    log.txt             what happened when

Opening a folder again resumes it; another config is refused with the keys that differ; a folder that is not a run
is never touched. One process at a time holds a folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from harness.core import config as configs
from harness.core.errors import DiskError, RunFolderError, UsageError
from harness.core.types import Completion, Estimate, RunRecord, Status, Verdict
from harness.runs.jsonl import JsonlFile, altered, disk_error, read_lines, write_whole
from harness.runs.provenance import code_version, environment
from harness.runs.schema import Key, completion_of, completion_row, verdict_of, verdict_row

T = TypeVar("T")
Place = tuple[Path, int]
"""A file, and the byte at which a line of it begins."""

FORMAT = 1
BAD_ROW = (KeyError, TypeError, ValueError)
_TRIES, _BETWEEN_S = 4, 0.05


class RunWriter:
    """A run folder open for writing, held by this process alone."""

    def __init__(self, folder: Path, record: RunRecord, lock: int) -> None:
        self.folder = folder
        self.record = record
        self._lock = lock
        self._completions = JsonlFile(folder / "completions.jsonl")
        self._verdicts = JsonlFile(folder / "verdicts.jsonl")
        self._steps = JsonlFile(folder / "steps.jsonl")
        self._warnings = JsonlFile(folder / "warnings.jsonl")
        self._journals = (self._completions, self._verdicts, self._steps, self._warnings)

    @classmethod
    def open(
        cls,
        folder: Path,
        kind: Literal["eval", "train", "rollouts"],
        config: Any,
        *,
        seeds: Mapping[str, int],
        data: Mapping[str, Mapping[str, Any]],
    ) -> RunWriter:
        """Create the folder, or resume it when its config has the same identity."""
        digest = configs.digest(configs.to_tree(config, identity_only=True))
        _former_run(folder, kind, config, digest, data)  # before anything is written
        lock = _lock(folder)
        try:
            # Once more: another process may have begun this folder, and left it, in between.
            former = _former_run(folder, kind, config, digest, data)
            write_whole(folder / "config.toml", configs.to_toml(config))
            record = _new_record(folder, kind, digest, seeds, data)
            if former is not None:  # another grader, or other words on a card
                record = dataclasses.replace(former, data=dict(data))
            store = cls(folder, record, lock)
            store._set(status="running", error=None)
            store.log(f"{'created' if former is None else 'resumed'} by version {code_version()}")
        except BaseException:
            os.close(lock)
            raise
        return store

    @staticmethod
    def refuse(folder: Path, kind: str, config: Any, data: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise what `open` would, without touching the folder. What `data` does not have yet is not compared."""
        _former_run(folder, kind, config, configs.digest(configs.to_tree(config, identity_only=True)), data)
        if is_held(folder):
            raise _in_use(folder)

    # --- completions and verdicts

    def append_completion(self, task: str, completion: Completion, *, with_ids: bool = False) -> Place:
        """Returns where its line is. Token ids and log-probabilities take most of the room; they must be asked for."""
        return self._completions.path, self._completions.append(completion_row(task, completion, with_ids=with_ids))

    def append_verdict(self, task: str, problem_id: str, index: int, grader: str, verdict: Verdict) -> None:
        self._verdicts.append(verdict_row(task, problem_id, index, grader, verdict))

    # --- training

    def append_step(self, row: Mapping[str, Any]) -> None:
        self._steps.append(row)

    def append_warning(self, row: Mapping[str, Any]) -> None:
        self._warnings.append(row)

    def rewind_steps(self, last_step: int) -> list[dict[str, Any]]:
        """Drop the records of steps after `last_step`, which are done again; return those that are kept."""
        kept = [row for row in read_lines(self._steps.path) if row["step"] <= last_step]
        self._steps.rewrite(iter(kept))
        return kept

    def replace_warnings(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._warnings.rewrite(iter(rows))

    # --- the run as a whole

    def note_regrading(self, task: str, grader: str, facts: Mapping[str, str]) -> None:
        """All verdicts of this grader on this task are of this version of the code now."""
        of_task = {**self.record.regraded.get(task, {}), grader: {"code": code_version(), **facts}}
        self._set(regraded={**self.record.regraded, task: of_task})

    def sync(self) -> None:
        """Everything written so far outlasts a power cut, and not only a kill."""
        for journal in self._journals:
            journal.sync()

    def view(self) -> RunReader:
        return RunReader(self.folder, self.record)

    def write_clusters(self, clusters: Mapping[str, Mapping[str, str]]) -> None:
        """The family of each problem of each task."""
        write_whole(self.folder / "clusters.json", json.dumps(clusters, indent=1) + "\n")

    # --- the end

    def write_metrics(self, estimates: Mapping[str, Sequence[Estimate]]) -> None:
        rows = {task: [dataclasses.asdict(estimate) for estimate in group] for task, group in estimates.items()}
        write_whole(self.folder / "metrics.json", json.dumps(rows, indent=1) + "\n")

    def finish(self, status: Literal["done", "failed", "interrupted"], error: str | None = None) -> None:
        """Record how the run ended and let go of the folder."""
        try:
            if status == "done":
                self.sync()
            for journal in self._journals:
                journal.close()
            self._set(status=status, error=error)
            self.log(status if error is None else f"{status}: {error}")
        finally:
            os.close(self._lock)

    def log(self, text: str) -> None:
        try:
            with (self.folder / "log.txt").open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{_now()} {text}\n")
        except OSError as error:
            raise disk_error(self.folder / "log.txt", error) from error

    def _set(self, **changes: Any) -> None:
        self.record = dataclasses.replace(self.record, **changes)
        write_whole(self.folder / "run.json", json.dumps(dataclasses.asdict(self.record), indent=1) + "\n")


@contextlib.contextmanager
def ending(store: RunWriter) -> Iterator[None]:
    """Whatever happens inside, the folder ends with a status and is let go."""
    try:
        yield
    except KeyboardInterrupt:
        store.finish("interrupted")
        raise
    except BaseException as error:
        with contextlib.suppress(DiskError):  # the disk may be what failed; the first error is the one to show
            store.finish("failed", f"{type(error).__name__}: {error}")
        raise
    store.finish("done")


@dataclass(frozen=True, slots=True)
class RunReader:
    """A run folder open for reading; it may still be growing."""

    folder: Path
    record: RunRecord

    @classmethod
    def read(cls, folder: Path) -> RunReader:
        record = _read_record(folder)
        if record is None:
            raise RunFolderError(f"{folder} is no run folder: it has no run.json")
        return cls(folder, record)

    @property
    def status(self) -> Status:
        """As recorded; but a run that says it is running, and that no process holds, was killed: it is interrupted."""
        is_dead = self.record.status == "running" and not is_held(self.folder)
        return "interrupted" if is_dead else self.record.status

    def config(self) -> Mapping[str, Any]:
        path = self.folder / "config.toml"
        try:
            return tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RunFolderError(f"{path} can't be read: {error}") from None

    def completions(self) -> Iterator[tuple[str, Completion]]:
        return _read_rows(self.folder / "completions.jsonl", completion_of)

    def verdicts(self, grader: str) -> dict[Key, Verdict]:
        """The last verdict of a grader for each key."""
        rows = _read_rows(self.folder / "verdicts.jsonl", verdict_of)
        return {key: verdict for key, owner, verdict in rows if owner == grader}

    def graders(self) -> list[str]:
        """The graders that have verdicts here, in the order in which they came."""
        return list(dict.fromkeys(owner for _, owner, _ in _read_rows(self.folder / "verdicts.jsonl", verdict_of)))

    def steps(self) -> list[dict[str, Any]]:
        return list(read_lines(self.folder / "steps.jsonl"))

    def warnings(self) -> list[dict[str, Any]]:
        """What the run was warned of: step, name and text."""
        return list(read_lines(self.folder / "warnings.jsonl"))

    def clusters(self) -> dict[str, dict[str, str]]:
        """The family of each problem by task; empty where no task has any."""
        path = self.folder / "clusters.json"
        try:
            found: dict[str, dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
            return found
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise RunFolderError(f"{path} can't be read: {error}; run the evaluation again to write it") from None

    def estimates(self) -> dict[str, list[Estimate]]:
        """Estimates by task; empty while the run has not come that far."""
        path = self.folder / "metrics.json"
        try:
            rows = json.loads(path.read_text(encoding="utf-8"))
            return {task: [Estimate(**row) for row in group] for task, group in rows.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise RunFolderError(f"{path} can't be read: {error}; run the evaluation again to write it") from None


def _read_rows(path: Path, build: Callable[[dict[str, Any]], T]) -> Iterator[T]:
    for number, row in enumerate(read_lines(path), 1):
        try:
            yield build(row)
        except BAD_ROW as error:
            raise misunderstood(path, number, error) from None


def misunderstood(path: Path, number: int, error: Exception) -> RunFolderError:
    """For a line that is JSON and no row of this file: one of BAD_ROW came of it."""
    return altered(path, number, f"can't be understood ({type(error).__name__}: {error})")


def _read_record(folder: Path) -> RunRecord | None:
    path = folder / "run.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields["format"] != FORMAT:
            raise RunFolderError(f"{folder} has run format {fields['format']}, this version reads {FORMAT}")
        return RunRecord(**fields)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunFolderError(f"{path} can't be read as a run record: {error}; choose another folder") from None


def _former_run(
    folder: Path, kind: str, config: Any, digest: str, data: Mapping[str, Mapping[str, Any]]
) -> RunRecord | None:
    """The record of the run to resume, none when the folder is new; anything else is refused. Writes nothing."""
    record = _read_record(folder)
    if record is not None:
        _refuse_another_config(RunReader(folder, record), kind, config, digest)
        _refuse_other_data(folder, record, data)
    elif not _is_new(folder):
        raise RunFolderError(f"{folder} exists and is not a run folder (no run.json); choose another --out")
    return record


def _is_new(folder: Path) -> bool:
    try:
        names = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return True
    except OSError as error:  # a file, or a folder that can't be read
        if isinstance(error, NotADirectoryError) and not folder.exists():
            raise RunFolderError(f"{folder} would lie inside of a file; choose another --out") from None
        return False
    # A kill between the making of the folder and the first run.json leaves the lock, these, and nothing else.
    return not names or (
        "run.lock" in names and names <= {"run.lock", "config.toml", "config.toml.tmp", "run.json.tmp"}
    )


def _refuse_another_config(former: RunReader, kind: str, config: Any, digest: str) -> None:
    where = former.folder
    if former.record.kind != kind:
        raise RunFolderError(f"{where} holds a run of kind {former.record.kind!r}, not {kind!r}; choose another --out")
    removed = _removed_keys(former, type(config))
    if removed:
        raise RunFolderError(
            f"{where} was begun by version {former.record.code}, and this version does not have the "
            f"key{'s' * (len(removed) > 1)} {', '.join(map(repr, removed))} of its config; choose another --out"
        )
    if former.record.config_digest == digest:
        return
    if removed := configs.unknown_keys(type(config), former.config()):
        raise RunFolderError(
            f"{where} can't be resumed: version {former.record.code} began it with keys that this version does not "
            f"have ({', '.join(removed)}); resume it with that version, or choose another --out"
        )
    try:
        old = configs.to_tree(configs.parse(type(config), former.config()), identity_only=True)
    except UsageError as error:
        raise RunFolderError(f"{where} holds a config that can't be read: {error}; choose another --out") from None
    changes = configs.differences(old, configs.to_tree(config, identity_only=True))
    if not changes:  # settings that this version added are part of the digest
        raise RunFolderError(f"{where} was begun by another version, {former.record.code}; choose another --out")
    raise RunFolderError(f"{where} belongs to another config; choose another --out, or undo: " + "; ".join(changes))


def _removed_keys(former: RunReader, schema: Any) -> list[str]:
    """The digest does not cover incidental keys, so that a removed one is looked for by name."""
    try:
        stored = former.config()
    except RunFolderError:  # the digest decides; where it is the same, the file is written again
        return []
    return configs.unknown_keys(schema, stored)


def _refuse_other_data(folder: Path, former: RunRecord, data: Mapping[str, Mapping[str, Any]]) -> None:
    recorded = {name: facts for name, facts in former.data.items() if name in data}
    changes = configs.differences(_decisive(recorded), _decisive(data))
    if changes:
        raise RunFolderError(
            f"{folder} was begun with another model or other data; choose another --out, or restore: "
            + "; ".join(changes)
        )


def _decisive(data: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    """What completions depend on; the grader may change, and the wording of a card."""
    keys = ("fingerprint", "name", "sampling")
    return {name: {key: facts[key] for key in keys if key in facts} for name, facts in data.items()}


def _new_record(
    folder: Path,
    kind: Literal["eval", "train", "rollouts"],
    digest: str,
    seeds: Mapping[str, int],
    data: Mapping[str, Mapping[str, Any]],
) -> RunRecord:
    return RunRecord(
        id=folder.resolve().name,
        kind=kind,
        created=_now(),
        config_digest=digest,
        code=code_version(),
        environment=environment(),
        data=dict(data),
        seeds=dict(seeds),
        status="running",
        format=FORMAT,
    )


def _lock(folder: Path) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "run.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except (FileExistsError, PermissionError) as error:
        raise RunFolderError(f"{folder} can't be a run folder: {error.strerror}; choose another --out") from None
    except OSError as error:
        raise disk_error(folder, error) from error
    try:
        _take(descriptor)
    except OSError as error:
        os.close(descriptor)
        if not isinstance(error, BlockingIOError):
            raise RunFolderError(f"{folder} can't be locked: {error.strerror}; choose another --out") from None
        raise _in_use(folder) from None
    return descriptor


def _take(descriptor: int) -> None:
    """The lock, or BlockingIOError. A reader who asks whether it is held (`is_held`) has it for an instant."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(BlockingIOError):
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(_BETWEEN_S)
    return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _in_use(folder: Path) -> RunFolderError:
    return RunFolderError(f"{folder} is being written by another harness process; wait for it, or end it")


def is_held(folder: Path) -> bool:
    """Whether a process has this folder open for writing, as far as this machine can tell."""
    try:
        descriptor = os.open(folder / "run.lock", os.O_RDONLY)
    except OSError:  # none was ever there, or the folder was copied without it
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
