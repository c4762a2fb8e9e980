"""The completions of imported files and the tools' own verdicts, on their way into a run folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.core.config import Tree
from harness.core.errors import DataError
from harness.core.progress import Progress
from harness.core.types import Completion, Tokens, Verdict
from harness.evaluation.config import EvalConfig
from harness.evaluation.select import problems_of
from harness.evaluation.setup import EvalSetup
from harness.interop.imports.base import Format, Origin, Row, RowSource, Sample, row_error
from harness.interop.imports.matching import Key, Matcher, Place, UnmatchedError, questions
from harness.runs.jsonl import JsonlFile
from harness.runs.schema import BAD_ROW, completion_row, verdict_row

N_LISTED = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """The files to import, and how they are read."""

    files: Sequence[Path]
    out: Path
    settings: Tree
    """Of the evaluation: its tasks, split, grader, and sampling options that the files do not have."""
    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    by: Key = "auto"
    n: int | None = None
    """Keep only the first n samples of each problem."""
    allow_missing: bool = False
    """Accept problems without completions, which are then ungraded."""
    skip_unmatched: bool = False
    """Leave out rows that belong to no problem of the tasks, or to several."""


@dataclass(frozen=True, slots=True)
class ImportedFile:
    """An opened file with its format."""

    form: Format
    rows: RowSource
    origin: Origin
    sha256: str


class RunFiles:
    """The completions and the tools' own verdicts on their way into a folder."""

    def __init__(self, request: ImportRequest, setup: EvalSetup, folder: Path) -> None:
        self.n_taken: dict[Place, int] = {}
        """Samples so far of each problem, those without a completion among them."""
        self.n_stored = dict.fromkeys(setup.tasks, 0)
        self.n_skipped = 0
        self.step: int | None = None
        self._has_tokens = self._has_reasons = False
        self._request, self._tasks = request, setup.tasks
        config = setup.config
        known = {
            name: questions(task.task, config.split, _all_problems(config, name, setup))
            for name, task in setup.tasks.items()
        }
        self._matcher = Matcher(known, request.by)
        self._problems = {Place(name, p.id): p for name, task in setup.tasks.items() for p in task.problems}
        self._seeds = {
            place: replace(self._tasks[place.task].plan, n=2**31).seeds(problem)
            for place, problem in self._problems.items()
        }
        self._completions = JsonlFile(folder / "completions.jsonl")
        self._verdicts = JsonlFile(folder / "verdicts.jsonl")
        self._unmatched: dict[str, str] = {}
        """The first rows that match no problem or several, with the reason, by their place."""
        self._last_unmatched = ""
        self._n_unmatched = self._unmatched_rows = self._n_rows = 0

    def __enter__(self) -> RunFiles:
        return self

    def __exit__(self, *_: object) -> None:
        for lines in (self._completions, self._verdicts):
            lines.close()

    def add(self, file: ImportedFile, progress: Progress) -> None:
        """Add the rows of a file."""
        first = dict(self.n_taken)  # the numbers of samples count within a file
        seen: dict[Place, set[int]] = {}
        progress.begin(f"read {file.rows.path.name}", 0)
        try:
            for number, row in file.rows.rows():
                self._n_rows += 1
                for sample in _samples(file, number, row):
                    self._add_sample(file, number, sample, first, seen)
                progress.advance()
        finally:  # end the live line, so that an error gets its own
            progress.end()

    def _add_sample(
        self, file: ImportedFile, number: int, sample: Sample, first: Mapping[Place, int], seen: dict[Place, set[int]]
    ) -> None:
        try:
            place = self._matcher.find(sample.keys)
        except UnmatchedError as error:
            self._n_unmatched += 1
            self._unmatched_rows += 1 if self._last_unmatched != file.rows.at(number) else 0
            self._last_unmatched = file.rows.at(number)
            if len(self._unmatched) < N_LISTED:
                self._unmatched.setdefault(self._last_unmatched, f"{self._last_unmatched} ({sample.keys}): {error}")
            return
        if place not in self._problems:  # a problem that --limit or --problem left out
            self.n_skipped += 1
            return
        self._check_step(file, number, sample)
        if sample.is_repeat:
            index = first.get(place, 0) + (sample.index if sample.index is not None else 0)
            if index < self.n_taken.get(place, 0):
                self._store_verdicts(place, index, sample.verdicts)
            return
        if sample.index is not None:
            if sample.index in seen.setdefault(place, set()):
                raise DataError(
                    f"{file.rows.at(number)} has sample {sample.index} of {place.problem_id} a second time; remove one"
                )
            seen[place].add(sample.index)
        index = self.n_taken.get(place, 0)
        if self._request.n is None or index < self._request.n:
            self.n_taken[place] = index + 1
            self._store(file, number, place, index, sample)

    def _check_step(self, file: ImportedFile, number: int, sample: Sample) -> None:
        if sample.step is None:
            return
        if self.step is not None and self.step != sample.step:
            raise DataError(
                f"{file.rows.at(number)} is of training step {sample.step} and earlier rows of step {self.step}, which "
                "are samples of different policies; import the file of one step at a time"
            )
        self.step = sample.step

    def _store(self, file: ImportedFile, number: int, place: Place, index: int, sample: Sample) -> None:
        seed = next(self._seeds[place])
        if sample.text is None:
            return  # the tool has no completion, and the evaluation will find it missing
        text = self._program(file, number, place, sample) if sample.is_program else sample.text
        self._has_tokens |= sample.n_completion is not None
        self._has_reasons |= sample.finish_reason is not None
        n_prompt, n_completion = (n if n is not None else 0 for n in (sample.n_prompt, sample.n_completion))
        reason = sample.finish_reason if sample.finish_reason is not None else "stop"
        completion = Completion(place.problem_id, index, seed, text, reason, Tokens(n_prompt, n_completion))
        self._completions.append(completion_row(place.task, completion, with_ids=False))
        self._store_verdicts(place, index, sample.verdicts)
        self.n_stored[place.task] += 1

    def _store_verdicts(self, place: Place, index: int, verdicts: Mapping[str, Verdict]) -> None:
        for grader, verdict in verdicts.items():
            self._verdicts.append(verdict_row(place.task, place.problem_id, index, grader, verdict))

    def _program(self, file: ImportedFile, number: int, place: Place, sample: Sample) -> str:
        """Return the program as a fenced block, so that all of it is judged. A continuation gets its beginning."""
        assert sample.text is not None
        program = sample.text
        if sample.continues_prompt:
            begun = getattr(self._problems[place].reference, "prompt", None)
            if begun is None:
                raise DataError(f"{file.rows.at(number)} continues the code of a prompt, and {place.task} has none")
            program = begun + program
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", program)), default=0))
        return f"{fence}python\n{program}\n{fence}"

    def finish(self) -> None:
        """Raise for rows without a problem and problems without a completion."""
        if self._n_unmatched and not self._request.skip_unmatched:
            listed = _listed(list(self._unmatched.values()), self._unmatched_rows)
            raise DataError(
                f"{self._unmatched_rows} of {self._n_rows} rows match no problem of {', '.join(self._tasks)}, or "
                f"several: {listed}. Nothing was imported; correct them, name the right column (--map problem=COLUMN), "
                "or leave them out with --skip-unmatched"
            )
        self.n_skipped += self._n_unmatched
        without = [f"{place.task} {place.problem_id}" for place in self._problems if place not in self.n_taken]
        if without and (not self._request.allow_missing or not any(self.n_stored.values())):
            raise DataError(
                f"{len(without)} of {len(self._problems)} problems have no completion: "
                f"{_listed(without[:N_LISTED], len(without))}. Nothing was imported; choose the problems with --limit "
                "or --problem, or count the missing ones as ungraded with --allow-missing"
            )

    def unknown(self) -> list[str]:
        """Return the facts about the completions that no row has."""
        found = {"tokens": self._has_tokens, "finish reasons": self._has_reasons}
        return [name for name, has in found.items() if not has]


def _samples(file: ImportedFile, number: int, row: Row) -> list[Sample]:
    try:
        return list(file.form.read(row))
    except (*BAD_ROW, AttributeError, IndexError) as error:
        raise row_error(file.rows, number, file.form.name, error) from None


def _all_problems(config: EvalConfig, name: str, setup: EvalSetup) -> Sequence[Any]:
    """Return the problems of the whole split, since a row of a problem that was not selected is not an error."""
    task = setup.tasks[name]
    if (config.limit is None and config.problems is None) or config.split == "train":
        return task.problems
    return problems_of(task.task, config.split, config.problem_seed, None)


def _listed(names: Sequence[str], n_all: int) -> str:
    return "; ".join(names) + (f"; and {n_all - len(names)} more" if n_all > len(names) else "")
