"""IMO-AnswerBench v2: 400 problems of olympiads and their shortlists, altered by experts, with short answers."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from harness.core.errors import DataError
from harness.core.types import DataFile, DatasetCard, Erratum
from harness.tasks._base.dataset import Row, Source, splits
from harness.tasks._base.judged import RulesOrJudge

FILE = DataFile(
    "answerbench_v2.csv",
    url="https://raw.githubusercontent.com/google-deepmind/superhuman/main/imobench/answerbench_v2.csv",
    sha256="275877a9d988d85278fad3a5f8a41d7f83393a60bf259531ec0a5161e6b21cf9",
    mirrored_as="imo_answerbench/answerbench_v2.csv",
)
SHIFTED = "algebra-036"
"""A stray quote joins the answer of this row to its problem, and moves the other fields by one column."""

# Answers that a rule can't compare: prose, cases, sets given by a property, and constants that a reply may name freely.
PROSE = frozenset(
    f"{category}-{number:03}"
    for category, numbers in {
        "algebra": [3, 20, 24, 29, 31, 34, 35, 36, 37, 38, 41, 51, 69, 81, 84, 87, 91, 97, 98, 99],
        "combinatorics": [59, 64, 91],
        "geometry": [78],
        "number_theory": [5, 6, 7, 9, 11, 14, 16, 33, 34, 36, 37, 47, 48, 53, 54, 61, 69, 79, 81],
    }.items()
    for number in numbers
)


def rows(path: Path) -> Iterator[Row]:
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            records = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} can't be read ({type(error).__name__}: {error}); fetch it again") from error
    for record in records:
        key = record["Problem ID"].removeprefix("imo-bench-")
        problem, answer, category = record["Problem"], record["Short Answer"], record["Category"]
        if key == SHIFTED and record["Source"] is None:
            problem, _, answer = problem.rpartition("\n,")
            answer, category = answer.removesuffix('"'), record["Short Answer"]
        yield Row(key, problem.strip(), answer.strip(), {"subject": category})


class ImoAnswerBench(RulesOrJudge):
    """Ids are the source's without its prefix, such as `algebra-001`.

    The authors grade with a judge model. Rules can decide 357 of the 400 answers; `graded_by = "judge"` asks all 400.
    """

    CARD = DatasetCard(
        title="IMO-AnswerBench v2",
        source="google-deepmind/superhuman imobench/answerbench_v2.csv, of 12 February 2026",
        licence="CC-BY 4.0",
        paper="Luong et al., EMNLP 2025 (IMO-Bench)",
        released="2026-02-12",
        sizes={"test": "357 problems, or 400 with a judge"},
        fingerprint="",
        notes="Version 1 is withdrawn for wrong answers. In 43 rows the answer is prose, or has constants that the "
        "problem does not name; without a judge these are left out, so a score is not that of the paper.",
        fields={"Problem": "the statement in LaTeX", "Short Answer": "the answer", "Category": "of four"},
        errata=(Erratum(SHIFTED, "the answer stands in the problem's column; it is read from there"),),
    )
    SOURCES = splits(test=[Source((FILE,), rows)])

    def is_decidable(self, row: Row) -> bool:
        return row.id not in PROSE


TASK = ImoAnswerBench
