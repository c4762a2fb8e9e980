"""Base class of maths datasets (grader, prompts, typed references), and `math_task` for plain benchmarks."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from harness.core.errors import DataError
from harness.core.protocols import Task
from harness.core.types import DataFile, DatasetCard, GoldenCompletion, Problem, Sampling
from harness.data.files import read_records
from harness.graders.math import MathGrader
from harness.graders.math.reference import MathReference, typed_reference
from harness.tasks._base.dataset import Dataset, DatasetConfig, Row, Source, content_id, splits
from harness.tasks._base.golden_answers import golden_completions
from harness.tasks._base.prompts import MATHS, Prompt
from harness.tasks._base.row_cache import cached_rows

# FlowRL, section 4: sampling for evaluation, and for the training sets.
EVALUATION = Sampling(max_tokens=8192, temperature=0.6, top_p=0.95)
TRAINING = Sampling(max_tokens=8192, temperature=1.0)

_CONTEST = re.compile(r"(20\d\d)_(AIME|AMC_12)_?(I|II|A|B)_Problems/Problem_(\d+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class MathsConfig(DatasetConfig):
    """Options of a maths dataset."""

    prompt: str = "flowrl"


class Maths(Dataset[MathReference]):
    """A dataset whose references are typed mathematical answers."""

    Config = MathsConfig
    PROMPTS: ClassVar[Mapping[str, Prompt]] = MATHS
    SAMPLING: ClassVar[Sampling] = EVALUATION
    COLUMNS: ClassVar[tuple[str, ...]] = ()
    """The columns of a plain benchmark, see `math_task`; part of the key of the row cache."""

    def __init__(self, config: MathsConfig) -> None:
        super().__init__(config, MathGrader(MathGrader.Config()), self.SAMPLING)

    def read_rows(self, source: Source, paths: Sequence[Path]) -> list[Row]:
        if not any(path.suffix == ".parquet" for path in paths):
            return super().read_rows(source, paths)
        code = [Path(inspect.getfile(module)) for module in (type(self), Maths, Dataset)]
        read = super().read_rows
        return cached_rows(
            "-".join((self.plugin_id, *self.COLUMNS)), paths, code, lambda: read(source, paths), Row, _fields
        )

    def reference(self, row: Row) -> MathReference:
        settings: dict[str, Any] = row.more if row.more is not None else {}
        return typed_reference(row.answer, **settings)

    def golden_completions(self, problem: Problem[MathReference]) -> Sequence[GoldenCompletion]:
        return golden_completions(problem.reference)


def math_task(
    repo: str,
    *,
    title: str,
    file: str = "data/train-00000-of-00001.parquet",
    question: str = "problem",
    answer: str = "answer",
    id: str | None = None,
    licence: str = "not stated",
    paper: str = "",
    size: str = "",
    released: str = "",
    mirrored_as: str | None = None,
) -> type[Task[MathReference]]:
    """Return the task of a plain maths benchmark: one file on the hub with a question and an answer column.

    Without a column `id`, the id of a problem is a hash of its text. A dataset that needs more subclasses `Maths`.
    """
    columns = (question, answer) if id is None else (question, answer, id)

    def rows(path: Path) -> Iterator[Row]:
        for record in read_records(path, columns):
            key = content_id(record[question]) if id is None else str(record[id])
            yield Row(key, record[question], str(record[answer]))

    fields = {question: "the statement", answer: "the final answer"}
    card = DatasetCard(title, repo, licence, paper, {"test": size}, fingerprint="", fields=fields, released=released)
    source = Source((DataFile(file, repo, mirrored_as=mirrored_as),), rows)
    members = {"__module__": __name__, "CARD": card, "COLUMNS": columns, "SOURCES": splits(test=[source])}
    return type("MathTask", (Maths,), members)


def _fields(row: Row) -> list[object]:
    return [row.id, row.problem, row.answer, dict(row.tags), row.more]


def contest_id(url: str) -> str:
    """Return the id in the URL of a problem's wiki page: `2024-I-3` or `2023-12A-3`."""
    match = _CONTEST.search(url)
    if match is None:
        raise DataError(f"{url!r} is not the URL of an AIME or AMC 12 problem; this is not the expected file")
    year, contest, part, number = match.groups()
    return f"{year}-{part if contest == 'AIME' else '12' + part}-{number}"


def last_boxed(solution: str, where: str) -> str:
    """Return the content of the last `\\boxed{...}` of a solution, braces balanced; `\\boxed 2` is read as well."""
    start = max(solution.rfind("\\boxed"), solution.rfind("\\fbox"))
    if start < 0:
        raise DataError(f"{where} has no boxed answer; this is not the expected file")
    rest = solution[start:].partition("boxed" if solution.startswith("\\boxed", start) else "fbox")[2].lstrip()
    if not rest.startswith("{"):
        return re.split(r"[\s$.]", rest, maxsplit=1)[0]
    depth = 0
    for position, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return rest[1:position]
    raise DataError(f"{where} has a box without a closing brace; this is not the expected file")
