"""CodeForces: the 408 problems of 57 contests of 2024 that CodeElo and DeepCoder use."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from harness.core.protocols import Split
from harness.core.types import CLUSTER_TAG, DataFile, DatasetCard, Erratum
from harness.data.files import read_records
from harness.data.fingerprints import read_digests
from harness.graders.code.reference import HeldTests, ProgramReference, TestSource
from harness.tasks._base.dataset import FINGERPRINTS, Row, Source, content_id, splits
from harness.tasks._base.parquet_tests import CellTests, JoinedTests, TableTests, located_rows
from harness.tasks._base.program_tests import tests_of
from harness.tasks._base.programs import Programs, ProgramsConfig
from harness.tasks.codeforces.exclusions import EXCLUSIONS, INTERACTIVE, SEVERAL

HUB = "agentica-org/DeepCoder-Preview-Dataset"
JUDGED = "open-r1/codeforces"
SAMPLES = DataFile("codeforces/test-00000-of-00001.parquet", HUB)
MIRRORED = DataFile("codeforces.json", mirrored_as="codeforces/rllm_codeforces_test.json")
PROBLEMS = (
    *(DataFile(f"data/train-{n:05}-of-00011.parquet", JUDGED) for n in range(11)),
    DataFile("data/test-00000-of-00001.parquet", JUDGED),
)
JUDGED_COLUMNS = (
    "id",
    "rating",
    "tags",
    "time_limit",
    "memory_limit",
    "interaction_format",
    "official_tests_complete",
    "generated_checker",
)
_TIME = re.compile(r"^Time Limit: ([0-9]+) ms$", re.MULTILINE)
_MEMORY = re.compile(r"^Memory Limit: ([0-9]+) MB$", re.MULTILINE)
_TAGS = re.compile(r"^Tags:\n\[(.*)\]$", re.MULTILINE)
_TOLERANCE = re.compile(r"relative or absolute error does not exceed \$10\^\{(-[0-9]+)\}\$")
_ANY_CASE = "in any case"


def rows(path: Path) -> Iterator[Row]:
    """Yield the problems with their sample tests."""
    ids = known_ids()
    for record in read_records(path, ["problem", "tests"]):
        statement = record["problem"]
        key = ids.get(content_id(statement), content_id(statement))
        tests = tests_of(record["tests"], "sample", f"{key} in {path}")
        contest = re.match(r"[0-9]+(?=[A-Z])", key)
        tags = {
            "contest": contest.group() if contest is not None else "",
            "tags": ", ".join(re.findall(r"'([^']*)'", _first(_TAGS, statement))),
        }
        if contest is not None:
            tags[CLUSTER_TAG] = contest.group()
        reference = ProgramReference(
            HeldTests(tests),
            coverage="samples",
            time_limit_s=int(_first(_TIME, statement)) / 1000 if _first(_TIME, statement) else None,
            memory_limit_bytes=int(_first(_MEMORY, statement)) << 20 if _first(_MEMORY, statement) else None,
            excluded_because=EXCLUSIONS.get(key),
            **_comparison(statement),
        )
        answer = "\n".join(f"{test.input}\n{test.output}" for test in tests)
        yield Row(key, statement, answer, tags, reference)


def judged_rows(generated: Mapping[str, Path], samples: Path, *tables: Path) -> Iterator[Row]:
    """Yield the problems with open-r1's ratings, checkers and tests where it has them."""
    judged = {}
    for path in tables:
        for group, place, record in located_rows(path, JUDGED_COLUMNS):
            judged[record["id"].replace("/", "")] = (
                CellTests(path, group, place, "official_tests", "official"),
                record,
            )
    for row in rows(samples):
        yield _judged(row, *judged[row.id], generated) if row.id in judged else row


def _judged(row: Row, official: TestSource, record: Mapping[str, Any], generated: Mapping[str, Path]) -> Row:
    reference: ProgramReference = row.more
    contest = record["id"].partition("/")[0]
    sources, coverage = [reference.tests, official], "samples and the official tests that the site shows"
    if record["official_tests_complete"]:
        coverage = "samples and all official tests"
    if contest in generated:
        sources.append(TableTests(generated[contest], record["id"], "generated"))
        coverage += ", and generated ones"
    checker = record["generated_checker"] if record["generated_checker"] else None
    because = INTERACTIVE if record["interaction_format"] else reference.excluded_because
    if checker is not None and because == SEVERAL:
        because = None
    tags = {**row.tags, **({"rating": str(record["rating"])} if record["rating"] is not None else {})}
    full = replace(reference, tests=JoinedTests(tuple(sources)), coverage=coverage, checker=checker)
    return replace(row, tags=tags, more=replace(full, excluded_because=because))


def _comparison(statement: str) -> dict[str, Any]:
    """Return the comparison of outputs that the statement asks for."""
    if exponent := _first(_TOLERANCE, statement):
        return {"comparison": "floats", "tolerance": float(f"1e{exponent}")}
    return {"comparison": "words" if _ANY_CASE in statement else "tokens"}


def _first(pattern: re.Pattern[str], statement: str) -> str:
    found = pattern.search(statement)
    return found.group(1) if found is not None else ""


@functools.cache
def known_ids() -> Mapping[str, str]:
    """Return Codeforces' own ids by the hash of the statement: the published rows have no ids."""
    return read_digests(FINGERPRINTS / "codeforces_ids.tsv")


def contests() -> list[str]:
    return sorted({re.match(r"[0-9]+", key).group() for key in known_ids().values()})  # type: ignore[union-attr]


class CodeForces(Programs):
    """Ids are Codeforces' own, such as `1971A`. Contest, limits and tags are read from the statement."""

    CARD = DatasetCard(
        title="CodeForces, 408 problems of contests 1971 to 2036",
        source=f"{HUB}, config codeforces (test); ratings, checkers and more tests from {JUDGED}",
        licence="MIT (DeepCoder), CC-BY-4.0 (open-r1); the problems are Codeforces'",
        paper="Quan et al. (CodeElo), arXiv 2501.01257",
        sizes={"test": "408 problems"},
        fingerprint="",
        notes='With `tests = "samples"` a problem has 1 to 5 tests, 378 of them one: passing is much weaker than being '
        "accepted. Interactive problems are left out, and so are those with several correct outputs unless there is a "
        'checker, which samples never have. `undecided = "judged"` keeps them and compares with the one known output, '
        "as DeepCoder and FlowRL do. The fingerprint covers statements and samples.",
        fields={
            "problem": "the statement with tags and limits, without samples",
            "tests": "the samples",
            "rating": "the problem's rating, from open-r1",
            "generated_checker": "a Python checker written by open-r1, where several outputs are correct",
        },
        exclusions=tuple(Erratum(key, reason) for key, reason in EXCLUSIONS.items()),
    )

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(ProgramsConfig):
        tests: Literal["samples", "official", "generated"] = "samples"
        """`official` adds the tests shown on the site (a download of 2.8 GB); `generated` also adds open-r1's own."""
        undecided: Literal["left_out", "judged"] = "left_out"
        """Whether problems that these tests can't decide are left out or judged by the one known output."""

    config: Config

    def reference(self, row: Row) -> ProgramReference:
        reference = super().reference(row)
        return replace(reference, excluded_because=None) if self.config.undecided == "judged" else reference

    def _selected(self, rows: list[Row]) -> list[Row]:
        return [row for row in super()._selected(rows) if self.reference(row).excluded_because is None]

    def sources(self) -> Mapping[Split, tuple[Source, ...]]:
        if self.config.tests == "samples":
            return splits(test=[Source((SAMPLES,), rows), Source((MIRRORED,), rows)])
        numbers = contests() if self.config.tests == "generated" else []
        files = [DataFile(f"generated_tests/test_cases_{int(number):04}.parquet", JUDGED) for number in numbers]

        def read(samples: Path, *others: Path) -> Iterator[Row]:
            tables = others[: len(PROBLEMS)]
            generated = dict(zip(numbers, others[len(PROBLEMS) :], strict=True))
            return judged_rows(generated, samples, *tables)

        return splits(test=[Source((first, *PROBLEMS, *files), read) for first in (SAMPLES, MIRRORED)])


TASK = CodeForces
