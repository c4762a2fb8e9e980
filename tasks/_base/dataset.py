"""Base class of tasks whose problems are rows of published files: reads, checks, orders and prompts them.

A benchmark subclasses `Dataset` and gives the files (`SOURCES`), the dataset card (`CARD`), the prompts (`PROMPTS`) and
a function from a row to the grader's reference.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Literal, TypeVar

from harness.core.errors import ConfigError, DataError
from harness.core.protocols import Grader, Split, Task
from harness.core.seeds import derive
from harness.core.types import DataFile, DatasetCard, LoadedData, Message, Problem, Sampling
from harness.data import files as data
from harness.data import fingerprints
from harness.tasks._base.prompts import Prompt

R = TypeVar("R")
FINGERPRINTS = Path(__file__).resolve().parents[1] / "fingerprints"

Slice = Literal["all", "without_errata", "errata"]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a dataset. The fingerprint covers `problem` and `answer`."""

    id: str
    problem: str
    answer: str
    tags: Mapping[str, str] = field(default_factory=dict)
    more: Any = None
    """Other data that the reference is built from."""


@dataclass(frozen=True, slots=True)
class Source:
    """One place to read the rows from. If a split has several, the first whose files are on this machine is read."""

    files: tuple[DataFile, ...]
    rows: Callable[..., Iterator[Row]]
    """Yields the rows, given the paths of the files."""


def splits(
    *, train: Sequence[Source] = (), validation: Sequence[Source] = (), test: Sequence[Source] = ()
) -> Mapping[Split, tuple[Source, ...]]:
    """Return the sources of each split that exists."""
    every: dict[Split, Sequence[Source]] = {"train": train, "validation": validation, "test": test}
    return {split: tuple(sources) for split, sources in every.items() if sources}


def content_id(problem: str) -> str:
    """Return an id for a row that has none: a hash of its text without regard to white space."""
    return hashlib.sha256(" ".join(problem.split()).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def without_repeats(rows: Callable[..., Iterator[Row]]) -> Callable[..., Iterator[Row]]:
    """Wrap a reader of rows so that it keeps the first row of each id."""

    def first_of_each(*paths: Path) -> Iterator[Row]:
        seen: set[str] = set()
        for row in rows(*paths):
            if row.id not in seen:
                seen.add(row.id)
                yield row

    return first_of_each


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetConfig:
    """Options of every task that reads files."""

    prompt: str
    """Id of the prompt template, one of the task's `PROMPTS`."""
    rows: Slice = "all"
    """`without_errata` drops the rows whose reference is known to be wrong; `errata` keeps only those."""


class Dataset(Task[R]):
    """Base class of dataset tasks. Files are read once, when problems are first requested."""

    CARD: ClassVar[DatasetCard]
    SOURCES: ClassVar[Mapping[Split, tuple[Source, ...]]]
    PROMPTS: ClassVar[Mapping[str, Prompt]]

    config: DatasetConfig
    grader: Grader[R]
    sampling: Sampling
    card: DatasetCard

    def __init__(self, config: DatasetConfig, grader: Grader[Any], sampling: Sampling) -> None:
        if config.prompt not in self.PROMPTS:
            raise ConfigError(f"{self.plugin_id} has no prompt {config.prompt!r}; there is {', '.join(self.PROMPTS)}")
        self.config, self.grader, self.sampling = config, grader, sampling
        self.card = replace(self.CARD, fingerprint=self.expected_fingerprint())
        self._read = functools.cache(self._read_split)

    def reference(self, row: Row) -> R:
        """Return the reference that the grader compares a completion with."""
        raise NotImplementedError

    def sources(self) -> Mapping[Split, tuple[Source, ...]]:
        """Return the sources of each split; a task with several editions overrides this by its config."""
        return self.SOURCES

    def edition(self, split: Split) -> str:
        """Return the name of the file of row digests of a split."""
        return f"{self.plugin_id}.{split}"

    # --- public ------------------------------------------------------------------------------------------------

    def problems(self, split: Split, seed: int) -> Iterator[Problem[R]]:
        """Yield `train` in endless, reshuffled passes, and the other splits once in the order of `seed`."""
        rows = self._selected(self._read(split)[0])
        if not rows:
            raise ConfigError(f"the {split} split of {self.plugin_id} has no rows with rows = {self.config.rows!r}")
        passes = itertools.count() if split == "train" else range(1)
        orders = (Random(derive(seed, self.plugin_id, split, number)).sample(rows, len(rows)) for number in passes)
        return map(self._problem, itertools.chain.from_iterable(orders))

    def prompts(self) -> Sequence[str]:
        return tuple(self.PROMPTS)

    def files(self) -> Mapping[Split, tuple[DataFile, ...]]:
        return {split: self._source(split).files for split in self.sources()}

    def statements(self, split: Split) -> Iterator[tuple[str, str]]:
        return ((row.id, row.problem) for row in self._selected(self._read(split)[0]))

    def loaded(self, split: Split) -> LoadedData:
        return self._read(split)[1]

    def expected_fingerprint(self) -> str:
        """Return the fingerprint of the recorded rows by split; empty if this project has never seen the data."""
        recorded = {split: self.recorded_digests(split) for split in self.sources()}
        return ", ".join(f"{split} {fingerprints.fingerprint(rows)}" for split, rows in recorded.items() if rows)

    def recorded_digests(self, split: Split) -> Mapping[str, str]:
        """Return the recorded digest of each row by id; empty if this project has never seen the data."""
        path = FINGERPRINTS / f"{self.edition(split)}.tsv"
        return _recorded_digests(path) if path.exists() else {}

    def digests(self, split: Split) -> Mapping[str, str]:
        """Return the digest of each row of the file that was read, by id."""
        return _digests(self._read(split)[0])

    def expected_rows(self, split: Split, found: Mapping[str, str]) -> Mapping[str, str]:  # noqa: ARG002
        """Return the digests that a load should have found; a task may narrow them by the digests `found`."""
        return self.recorded_digests(split)

    # --- helpers -----------------------------------------------------------------------------------------------

    def _problem(self, row: Row) -> Problem[R]:
        prompt = self.PROMPTS[self.config.prompt]
        try:
            return Problem(row.id, self.plugin_id, self.messages(prompt, row), self.reference(row), row.tags)
        except DataError as error:
            raise DataError(f"{self.plugin_id} {row.id}: {error}") from error

    def messages(self, prompt: Prompt, row: Row) -> tuple[Message, ...]:
        return prompt.messages(problem=row.problem)

    def _selected(self, rows: list[Row]) -> list[Row]:
        if self.config.rows == "all":
            return rows
        wrong = {erratum.problem_id for erratum in self.CARD.errata}
        return [row for row in rows if (row.id in wrong) == (self.config.rows == "errata")]

    def _read_split(self, split: Split) -> tuple[list[Row], LoadedData]:
        source = self._source(split)
        paths = [data.locate(file) for file in source.files]
        rows = self.read_rows(source, paths)
        fingerprints.unique((row.id for row in rows), str(paths[0]))
        found = _digests(rows)
        expected = self.expected_rows(split, found)
        return rows, LoadedData(
            split=split,
            n_rows=len(rows),
            fingerprint=(fingerprint := fingerprints.fingerprint(found)),
            expected=fingerprint if found == expected else fingerprints.fingerprint(expected) if expected else "",
            differing=fingerprints.differences(found, expected) if expected and found != expected else (),
            files=tuple(map(str, paths)),
        )

    def read_rows(self, source: Source, paths: Sequence[Path]) -> list[Row]:
        """Read and check all rows of a source. Raises DataError."""
        advice = f"fetch it again (`harness fetch {self.plugin_id} --again`), or repair the mirror"
        try:
            rows = list(source.rows(*paths))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{paths[0]} has a row of an unexpected form ({type(error).__name__}: {error}); {advice}"
            ) from error
        if not rows:
            raise DataError(f"{paths[0]} has no rows; {advice}")
        for row in rows:
            if not all(isinstance(text, str) for text in (row.id, row.problem, row.answer)):
                raise DataError(f"row {row.id} of {paths[0]} has a field that is not text; {advice}")
        return rows

    def _source(self, split: Split) -> Source:
        """Return the first source whose files are all on this machine, else the first source."""
        sources = self.sources()
        if split not in sources:
            raise ConfigError(f"{self.plugin_id} has no {split} split, only {' and '.join(sources)}")
        candidates = sources[split]
        for has in (data.mirrored, data.is_local):
            for source in candidates:
                if all(has(file) for file in source.files):
                    return source
        return candidates[0]


def _digests(rows: Sequence[Row]) -> dict[str, str]:
    return {row.id: fingerprints.row_digest(row.problem, row.answer) for row in rows}


@functools.cache
def _recorded_digests(path: Path) -> Mapping[str, str]:
    return fingerprints.read_digests(path)
