"""Base class of tasks made from one's own rows: a question, an answer, and one of four graders, without any Python."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Literal

from harness.core.errors import ConfigError, DataError
from harness.core.protocols import Split
from harness.core.seeds import derive
from harness.core.types import DatasetCard, GoldenCompletion, Message, Problem, Sampling
from harness.data.files import checksum, locate
from harness.data.rows import RowFile
from harness.tasks._base.answer_kinds import KINDS, AnswerKind, OwnColumns, text_cell
from harness.tasks._base.dataset import Dataset, DatasetConfig, Row, Source, content_id
from harness.tasks._base.own_files import SPLIT_WORDS, OwnFiles
from harness.tasks._base.prompts import Prompt

SAMPLING = Sampling(max_tokens=8192, temperature=1.0)
"""Undistorted, so that the rows can be trained on without further settings."""
N_LISTED = 10
N_SHOWN = 10
PLACEHOLDERS = ("{question}", "{problem}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnConfig(DatasetConfig):
    """Options of a task made from rows."""

    question: str = "question"
    """Column of the question."""
    answer: str = "answer"
    """Column of the right answer. For `choice` it is a letter, a number from 0, or the text of an option."""
    key: str = ""
    """Column of the ids; `id` is the id of the task. Default: the column `id` if there is one, else a hash of the
    question."""
    grader: Literal["math", "exact", "choice", "code"] = "math"
    prompt: str = ""
    """A template of the grader's kind, such as `simple`, or a text of one's own with {question}. `choice` fills in
    {options} as well, and `code` {format}."""
    system: str = ""
    """A system message, in place of the template's."""
    extract: Literal["whole", "hashes", "boxed"] = "whole"
    """Which part of the column is the answer: all of it, what follows `####`, or the last box."""
    choices: str = "choices"
    """Column of the options of `choice`, a list."""
    tests: str = "tests"
    """Column of the tests of `code`: a list of `input` and `output`, or lists `inputs` and `outputs`, for stdin and
    stdout; with `fn_name` for the arguments and the value of a function."""
    split: str = ""
    """Column of the split of each row, for one file with several splits."""
    few_shot: int = 0
    """Number of examples from the train split, shown as earlier turns."""
    solution: str = ""
    """Column of the worked solution that an example shows; without it, the answer alone."""

    def __post_init__(self) -> None:
        if self.few_shot < 0:
            raise ValueError("few_shot must not be negative (0 shows none)")
        if self.rows != "all":
            raise ValueError("rows selects by known errata, of which your own rows have none; leave it out")
        if self.few_shot and self.grader == "code" and not self.solution:
            raise ValueError("few_shot needs solution, the column of the programs that the examples show")


class OwnData(Dataset[Any]):
    """A task whose rows are someone's own. Every row is checked, and a wrong one is named with its line."""

    config: OwnConfig
    naming: ClassVar[str]
    """How the data are named."""

    def __init__(self, config: OwnConfig) -> None:
        self.config, self.sampling = config, SAMPLING
        self.kind: AnswerKind = KINDS[config.grader]()
        self.grader = self.kind.grader
        self.PROMPTS = self.kind.prompts  # type: ignore[misc]  # those of the grader's kind
        self._prompt = _prompt(config, self.kind)
        self._read = functools.cache(self._read_split)

    def own_files(self) -> OwnFiles | None:
        """Return the files of each split; None if none are named."""
        raise NotImplementedError

    @functools.cached_property
    def _files(self) -> OwnFiles:
        found = self.own_files()
        return found if found is not None else OwnFiles({}, "")

    @functools.cached_property
    def card(self) -> DatasetCard:  # type: ignore[override]  # the files are searched on first use
        return DatasetCard(
            title=self.plugin_id,
            source=self._files.source,
            licence="not stated",
            paper="",
            sizes={split: ", ".join(file.path for file in files) for split, files in self._files.splits.items()},
            fingerprint="",
            fields={self.config.question: "the question", **self.kind.fields(self._columns)},
        )

    @property
    def _columns(self) -> OwnColumns:
        c = self.config
        return OwnColumns(c.answer, c.choices, c.tests, c.extract)

    def _source(self, split: Split) -> Source:
        if not self._files.splits:
            raise ConfigError(f"the task {self.plugin_id} names no data; {self.naming}")
        return super()._source(split)

    # --- rows ---------------------------------------------------------------------------------------------------

    def sources(self) -> Mapping[Split, tuple[Source, ...]]:
        splits: Mapping[Split, Any] = self._files.splits
        if self.config.split:  # any of them may be in the column
            together = tuple(dict.fromkeys(file for files in splits.values() for file in files))
            splits = dict.fromkeys(SPLIT_WORDS.values(), together)
        return {split: (Source(files, functools.partial(self._rows, split)),) for split, files in splits.items()}

    def read_rows(self, source: Source, paths: Sequence[Path]) -> list[Row]:
        rows = list(source.rows(*paths))
        if not rows:
            raise DataError(f"{paths[0]} has no rows" + (" of this split" if self.config.split else ""))
        return rows

    def _rows(self, split: Split, *paths: Path) -> Iterator[Row]:
        places: dict[str, str] = {}
        for path in paths:
            file = RowFile.open(path)
            for number, record in file.rows():
                where = file.at(number)
                if self.config.split and self._split_of(record, where) != split:
                    continue
                row = self._row(record, where)
                if row.id in places:
                    raise DataError(
                        f"{where} has the id {row.id!r}, which {places[row.id]} has too; ids must differ"
                        + ("" if self._has_ids(record) else " (they are hashes of the question, which occurs twice)")
                    )
                places[row.id] = where
                yield row

    def _has_ids(self, record: Mapping[str, Any]) -> bool:
        return bool(self.config.key) or "id" in record

    def _split_of(self, record: Mapping[str, Any], where: str) -> Split:
        value = text_cell(record, self.config.split, where).lower()
        if value not in SPLIT_WORDS:
            raise DataError(f"{where} has the split {value!r}; it must be train, validation or test")
        return SPLIT_WORDS[value]

    def _row(self, record: Mapping[str, Any], where: str) -> Row:
        question = text_cell(record, self.config.question, where)
        column = self.config.key if self.config.key else "id"
        key = text_cell(record, column, where) if self._has_ids(record) else content_id(question)
        answer, more = self.kind.parse(record, self._columns, where)
        solution = record.get(self.config.solution) if self.config.solution else None
        return Row(key, question, answer, {}, (more, solution, where))

    def reference(self, row: Row) -> Any:
        more, _, where = row.more
        return self.kind.reference(row.answer, more, where)

    # --- prompts ------------------------------------------------------------------------------------------------

    def messages(self, prompt: Prompt, row: Row) -> tuple[Message, ...]:  # noqa: ARG002
        *system, question = self._asked(row)
        turns = [
            turn
            for example in self._examples(row)
            for turn in (self._asked(example)[-1], Message("assistant", self._shown(example)))
        ]
        return (*system, *turns, question)

    def _problem(self, row: Row) -> Problem[Any]:
        return Problem(row.id, self.plugin_id, self.messages(self._prompt, row), self.reference(row), row.tags)

    def _asked(self, row: Row) -> tuple[Message, ...]:
        return self._prompt.messages(problem=row.problem, question=row.problem, **self.kind.values(row.more[0]))

    def _shown(self, example: Row) -> str:
        """Return the reply that a few-shot example shows."""
        if not self.config.solution:
            return self.kind.reply(example.answer, self._prompt.user)
        _, solution, where = example.more
        return text_cell({self.config.solution: solution}, self.config.solution, where)

    def _examples(self, row: Row) -> Sequence[Row]:
        if not self.config.few_shot:
            return ()
        train, asked = self._files.splits.get("train"), self._files.splits.get("test")
        if not self.config.split and (train is None or train == asked):
            raise ConfigError("few_shot takes its examples from a train split of other rows than the test split")
        pool = [other for other in self._read("train")[0] if other.id != row.id]
        if len(pool) < self.config.few_shot:
            raise ConfigError(f"few_shot is {self.config.few_shot}, and there are {len(pool)} other training rows")
        return Random(derive(0, self.plugin_id, "examples", row.id)).sample(pool, self.config.few_shot)

    # --- what is recorded and shown -----------------------------------------------------------------------------

    def recorded_digests(self, split: Split) -> Mapping[str, str]:  # noqa: ARG002
        return {}

    def expected_rows(self, split: Split, found: Mapping[str, str]) -> Mapping[str, str]:  # noqa: ARG002
        return found  # nobody else has a record of one's own rows

    def test_facts(self, split: Split) -> Mapping[str, str]:
        files = [f"{file.path} sha256 {checksum(locate(file))}" for file in self._source(split).files]
        return {
            "as_on_record": "own data, of which there is no record",
            "own_files": "; ".join(files),
            "prompt": self._prompt.user,
        }

    def answers(self, split: Split) -> Mapping[str, str]:
        """Return how the grader reads the answers: the first ones, their kinds, and those it can't read."""
        if split not in self.sources():
            return {}
        rows = self._read(split)[0]
        found: dict[str, str] = {}
        kinds: dict[str, int] = {}
        unreadable: list[str] = []
        for row in rows:
            try:
                reference = self.reference(row)
            except DataError as error:
                unreadable.append(str(error))
                continue
            kind, shown = self.kind.describe(reference)
            kinds[kind] = kinds.get(kind, 0) + 1
            if len(found) < N_SHOWN:
                found[row.id] = shown
            if not self._accepts(row, reference):
                unreadable.append(f"{row.more[2]}: the answer {row.answer[:60]!r} is not graded as equal to itself")
        counts = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
        more = {"...": f"{len(rows) - N_SHOWN} more"} if len(rows) > N_SHOWN else {}
        return {
            f"{len(rows)} rows": counts,
            **found,
            **more,
            "not readable": "; ".join(unreadable[:N_LISTED])
            + (f"; and {len(unreadable) - N_LISTED} more" if len(unreadable) > N_LISTED else ""),
        }

    def _accepts(self, row: Row, reference: Any) -> bool:
        """Return whether the grader accepts the answer as a reply, where that is quickly decided."""
        from harness.core.types import Completion, Tokens

        if self.config.grader == "code":
            return True
        reply = self.kind.golden(row.answer, reference)
        completion = Completion(row.id, 0, 0, reply, "stop", Tokens(0, 0))
        problem = Problem(row.id, self.plugin_id, (), reference)
        return self.grader.grade(problem, completion).outcome == "correct"

    def golden_completions(self, problem: Problem[Any]) -> Sequence[GoldenCompletion]:
        return self.kind.golden_completions(problem.reference)


def _prompt(config: OwnConfig, kind: AnswerKind) -> Prompt:
    """Return the template that the config names or is."""
    name = config.prompt if config.prompt else kind.default_prompt
    if name in kind.prompts:
        found = kind.prompts[name]
    elif any(placeholder in name for placeholder in PLACEHOLDERS):
        missing = [part for part in kind.required if part not in name]
        if missing:
            raise ConfigError(f"the prompt of a {config.grader} problem must have {missing[0]}, where it is filled in")
        found = Prompt(name, "the config")
    else:
        raise ConfigError(
            f"there is no prompt {name!r} for the grader {config.grader}, only {', '.join(kind.prompts)}; a text of "
            "your own must have {question}, where the question is filled in"
        )
    return replace(found, system=config.system) if config.system else found
