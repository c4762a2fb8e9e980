"""DeepCoder's training set: about 24,000 programming problems from TACO, PrimeIntellect and LiveCodeBench."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from harness.core.types import DataFile, DatasetCard
from harness.data.files import read_records
from harness.graders.code.reference import HeldTests, ProgramReference
from harness.tasks._base.dataset import Row, Source, content_id, splits, without_repeats
from harness.tasks._base.parquet_tests import CellTests, located_rows
from harness.tasks._base.program_tests import function_name_of, tests_of
from harness.tasks._base.programs import TRAINING, Programs

HUB = "agentica-org/DeepCoder-Preview-Dataset"
PARTS = {"primeintellect": 5, "taco": 4, "lcbv5": 11}
FILES = tuple(
    DataFile(f"{part}/train-{number:05}-of-{count:05}.parquet", HUB)
    for part, count in PARTS.items()
    for number in range(count)
)
COVERAGE = "DeepCoder's selection"
_FUNCTION = re.compile(r'"(?:fn_name|func_name)": "([A-Za-z_][A-Za-z0-9_]*)"')
SAMPLE = DataFile("deepcoder-sample.jsonl", mirrored_as="code_train/areal_deepcoder_sample.jsonl")


def rows(*paths: Path) -> Iterator[Row]:
    """Yield the rows of the hub's tables. Tests are read once, for the name of their function, and not kept."""
    for path in paths:
        for group, row, record in located_rows(path, ["problem", "tests"], optional=["starter_code"]):
            name = _FUNCTION.search(record["tests"])
            starter = record.get("starter_code")
            reference = ProgramReference(
                CellTests(path, group, row, "tests", "official"),
                coverage=COVERAGE,
                function_name=name.group(1) if name is not None else None,
                starter_code=starter if starter is not None else "",
            )
            yield _row(record["problem"], path.parent.name, reference)


def sample_rows(path: Path) -> Iterator[Row]:
    """Yield five rows in another project's format, for tests."""
    for record in read_records(path, ["question", "input_output", "starter_code"]):
        tests = HeldTests(tests_of(record["input_output"], "official", str(path)))
        starter = record["starter_code"] if record["starter_code"] else ""
        name = function_name_of(record["input_output"])
        yield _row(record["question"], "sample", ProgramReference(tests, COVERAGE, name, starter))


def _row(problem: str, part: str, reference: ProgramReference) -> Row:
    return Row(content_id(problem), problem, "", {"part": part}, reference)


class DeepCoder(Programs):
    """Ids are hashes of the problems."""

    CARD = DatasetCard(
        title="DeepCoder preview data, training split",
        source=f"{HUB}, configs primeintellect, taco and lcbv5 (train)",
        licence="MIT",
        paper="Luo et al., DeepCoder (2025)",
        sizes={"train": "about 24,000 problems, as its authors say"},
        fingerprint="",
        notes="Not verified by this project: the hub was not reachable, and only five rows are published elsewhere. "
        "rllm's later copy differs: there every problem has the private tests of a single one.",
        fields={"problem": "the statement", "tests": "JSON: inputs and outputs, or a list of tests"},
    )
    SOURCES = splits(train=[Source(FILES, without_repeats(rows)), Source((SAMPLE,), without_repeats(sample_rows))])
    SAMPLING = TRAINING


TASK = DeepCoder
