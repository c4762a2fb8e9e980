"""What the maths data sets share: the grader, the prompts, typed references, and the ids of contest problems."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from harness.core.errors import DataError
from harness.core.types import GoldenCompletion, Problem, Sampling
from harness.graders.math import MathGrader
from harness.graders.math.reference import MathReference, typed_reference
from harness.tasks._base.dataset import Dataset, DatasetConfig, Row, Source
from harness.tasks._base.golden_answers import golden_completions
from harness.tasks._base.prompts import MATHS
from harness.tasks._base.row_cache import distilled

# FlowRL's evaluation (section 4); the settings it trains with for the training sets.
EVALUATION = Sampling(max_tokens=8192, temperature=0.6, top_p=0.95)
TRAINING = Sampling(max_tokens=8192, temperature=1.0)

_CONTEST = re.compile(r"(20\d\d)_(AIME|AMC_12)_?(I|II|A|B)_Problems/Problem_(\d+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class MathsConfig(DatasetConfig):
    """Options of a maths data set."""

    prompt: str = "flowrl"


class Maths(Dataset[MathReference]):
    """A data set whose references are typed mathematical answers."""

    Config = MathsConfig
    PROMPTS = MATHS
    SAMPLING: ClassVar[Sampling] = EVALUATION

    def __init__(self, config: MathsConfig) -> None:
        super().__init__(config, MathGrader(MathGrader.Config()), self.SAMPLING)

    def read_rows(self, source: Source, paths: Sequence[Path]) -> list[Row]:
        if not any(path.suffix == ".parquet" for path in paths):
            return super().read_rows(source, paths)
        code = [Path(inspect.getfile(module)) for module in (type(self), Maths, Dataset)]
        read = super().read_rows
        return distilled(self.id, paths, code, lambda: read(source, paths), Row, _fields)

    def reference(self, row: Row) -> MathReference:
        settings: dict[str, Any] = row.more if row.more is not None else {}
        return typed_reference(row.answer, **settings)

    def golden_completions(self, problem: Problem[MathReference]) -> Sequence[GoldenCompletion]:
        return golden_completions(problem.reference)


def _fields(row: Row) -> list[object]:
    return [row.id, row.problem, row.answer, dict(row.tags), row.more]


def contest_id(url: str) -> str:
    """`2024-I-3` or `2023-12A-3`, from the address of a problem's wiki page."""
    match = _CONTEST.search(url)
    if match is None:
        raise DataError(f"{url!r} is not the address of an AIME or AMC 12 problem; the file is not the one expected")
    year, contest, part, number = match.groups()
    return f"{year}-{part if contest == 'AIME' else '12' + part}-{number}"


def last_boxed(solution: str, where: str) -> str:
    """What the last box of a solution holds, braces balanced; also the brace-less `\\boxed 2`."""
    start = max(solution.rfind("\\boxed"), solution.rfind("\\fbox"))
    if start < 0:
        raise DataError(f"{where} has no boxed answer; the file is not the one expected")
    rest = solution[start:].partition("boxed" if solution.startswith("\\boxed", start) else "fbox")[2].lstrip()
    if not rest.startswith("{"):
        return re.split(r"[\s$.]", rest, maxsplit=1)[0]
    depth = 0
    for position, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return rest[1:position]
    raise DataError(f"{where} has a box that never closes; the file is not the one expected")
