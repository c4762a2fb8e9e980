"""A task whose problems are rows of published files: reading, checking, ordering, prompting.

A benchmark is a subclass that says where its files are (`SOURCES`), what its card says (`CARD`), how a row becomes a
reference, and with which prompts it may be asked.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Generic, Literal, TypeVar

from harness.core.errors import ConfigError, DataError
from harness.core.protocols import Grader, Split
from harness.core.seeds import derive
from harness.core.types import DataFile, DatasetCard, GoldenCompletion, LoadedData, Message, Problem, Sampling
from harness.data import files as data
from harness.data import fingerprints
from harness.tasks._base.prompts import Prompt

R = TypeVar("R")
FINGERPRINTS = Path(__file__).resolve().parents[1] / "fingerprints"

Slice = Literal["all", "without_errata", "errata"]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a data set. `problem` and `answer` are what the fingerprint covers."""

    id: str
    problem: str
    answer: str
    tags: Mapping[str, str] = field(default_factory=dict)
    more: Any = None
    """Whatever else the reference is made from."""


@dataclass(frozen=True, slots=True)
class Source:
    """One place the rows can be read from. Of several, the first that is at hand is read."""

    files: tuple[DataFile, ...]
    rows: Callable[..., Iterator[Row]]
    """The rows of the files, given their paths."""


def splits(
    *, train: Sequence[Source] = (), validation: Sequence[Source] = (), test: Sequence[Source] = ()
) -> Mapping[Split, tuple[Source, ...]]:
    """Where each split is, of those that exist."""
    every: dict[Split, Sequence[Source]] = {"train": train, "validation": validation, "test": test}
    return {split: tuple(sources) for split, sources in every.items() if sources}


def content_id(problem: str) -> str:
    """An id for a row that has none: the same for the same text, white space aside."""
    return hashlib.sha256(" ".join(problem.split()).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def without_repeats(rows: Callable[..., Iterator[Row]]) -> Callable[..., Iterator[Row]]:
    """The first row of each id."""

    def first_of_each(*paths: Path) -> Iterator[Row]:
        seen: set[str] = set()
        for row in rows(*paths):
            if row.id not in seen:
                seen.add(row.id)
                yield row

    return first_of_each


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetConfig:
    """The options of every task that is read from files."""

    prompt: str
    """The preset that a problem is asked with."""
    rows: Slice = "all"
    """`without_errata` leaves out the rows whose reference is known to be wrong, `errata` takes only those."""


class Dataset(Generic[R]):
    """The common part of all data sets. Reading happens when problems are asked for, once."""

    CARD: ClassVar[DatasetCard]
    SOURCES: ClassVar[Mapping[Split, tuple[Source, ...]]]
    PROMPTS: ClassVar[Mapping[str, Prompt]]

    config: DatasetConfig
    grader: Grader[R]
    sampling: Sampling
    card: DatasetCard

    def __init__(self, config: DatasetConfig, grader: Grader[Any], sampling: Sampling) -> None:
        if config.prompt not in self.PROMPTS:
            raise ConfigError(f"{self.id} has no prompt {config.prompt!r}; there is {', '.join(self.PROMPTS)}")
        self.config, self.grader, self.sampling = config, grader, sampling
        self.card = replace(self.CARD, fingerprint=self.expected_fingerprint())
        self._read = functools.cache(self._read_split)

    @property
    def id(self) -> str:
        return type(self).__module__.rpartition(".")[2]

    def reference(self, row: Row) -> R:
        """What the grader compares with."""
        raise NotImplementedError

    def golden_completions(self, problem: Problem[R]) -> Sequence[GoldenCompletion]:
        """Completions whose verdict is known."""
        raise NotImplementedError

    def sources(self) -> Mapping[Split, tuple[Source, ...]]:
        """Where each split is; a task with several editions answers by its config."""
        return self.SOURCES

    def edition(self, split: Split) -> str:
        """The name that the digests of a split are on record under."""
        return f"{self.id}.{split}"

    # --- the protocols: Task, FiledTask, SpecimenTask -------------------------------------------------------------

    def problems(self, split: Split, seed: int) -> Iterator[Problem[R]]:
        """`train`: endless passes, each shuffled anew; the others: one pass in the order of `seed`."""
        rows = self._chosen(self._read(split)[0])
        if not rows:
            raise ConfigError(f"the {split} split of {self.id} has nothing with rows = {self.config.rows!r}")
        passes = itertools.count() if split == "train" else range(1)
        orders = (Random(derive(seed, self.id, split, number)).sample(rows, len(rows)) for number in passes)
        return map(self._problem, itertools.chain.from_iterable(orders))

    def files(self) -> Mapping[Split, tuple[DataFile, ...]]:
        return {split: self._source(split).files for split in self.sources()}

    def statements(self, split: Split) -> Iterator[tuple[str, str]]:
        return ((row.id, row.problem) for row in self._chosen(self._read(split)[0]))

    def loaded(self, split: Split) -> LoadedData:
        return self._read(split)[1]

    def expected_fingerprint(self) -> str:
        """Of the rows on record, split by split; empty where the project has never seen them."""
        on_record = {split: self.on_record(split) for split in self.sources()}
        return ", ".join(f"{split} {fingerprints.fingerprint(rows)}" for split, rows in on_record.items() if rows)

    def on_record(self, split: Split) -> Mapping[str, str]:
        """The digests of the rows as they should be, by id; empty where the project has never seen them."""
        path = FINGERPRINTS / f"{self.edition(split)}.tsv"
        return _on_record(path) if path.exists() else {}

    def digests(self, split: Split) -> Mapping[str, str]:
        """The digests of the rows as they are."""
        return _digests(self._read(split)[0])

    def expected_rows(self, split: Split, found: Mapping[str, str]) -> Mapping[str, str]:  # noqa: ARG002
        """What a load should have found, given what it did."""
        return self.on_record(split)

    # --- behind it --------------------------------------------------------------------------------------------

    def _problem(self, row: Row) -> Problem[R]:
        prompt = self.PROMPTS[self.config.prompt]
        try:
            return Problem(row.id, self.id, self.messages(prompt, row), self.reference(row), row.tags)
        except DataError as error:
            raise DataError(f"{self.id} {row.id}: {error}") from error

    def messages(self, prompt: Prompt, row: Row) -> tuple[Message, ...]:
        return prompt.messages(problem=row.problem)

    def _chosen(self, rows: list[Row]) -> list[Row]:
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
        """All rows of a source, of the form that rows have. Raises DataError."""
        advice = f"fetch it again (`harness fetch {self.id} --again`), or mend the mirror"
        try:
            rows = list(source.rows(*paths))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{paths[0]} has a row that is not of the form expected ({type(error).__name__}: {error}); {advice}"
            ) from error
        if not rows:
            raise DataError(f"{paths[0]} has no rows; {advice}")
        for row in rows:
            if not all(isinstance(text, str) for text in (row.id, row.problem, row.answer)):
                raise DataError(f"row {row.id} of {paths[0]} has no text where one is expected; {advice}")
        return rows

    def _source(self, split: Split) -> Source:
        """The first source whose files are all at hand, else the first that can be downloaded."""
        sources = self.sources()
        if split not in sources:
            raise ConfigError(f"{self.id} has no {split} split, only {' and '.join(sources)}")
        candidates = sources[split]
        for has in (data.mirrored, data.is_at_hand):
            for source in candidates:
                if all(has(file) for file in source.files):
                    return source
        return candidates[0]


def _digests(rows: Sequence[Row]) -> dict[str, str]:
    return {row.id: fingerprints.row_digest(row.problem, row.answer) for row in rows}


@functools.cache
def _on_record(path: Path) -> Mapping[str, str]:
    return fingerprints.read_digests(path)
