"""LiveCodeBench: contest programming problems, selected by release, by increment or by contest date."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal

from harness.core.errors import ConfigError, DataError
from harness.core.protocols import Split
from harness.core.types import CLUSTER_TAG, DataFile, DatasetCard, Erratum
from harness.data.files import read_records
from harness.graders.code.reference import ProgramReference
from harness.tasks._base.dataset import Row, Source, splits
from harness.tasks._base.programs import Programs, ProgramsConfig
from harness.tasks.livecodebench.tests import LineTests, problems_of

HUB = "livecodebench/code_generation_lite"
# One file per increment; from a public run record.
SHA256 = (
    "2bd02b38beb48e8c46b5b9987095d999ff38cd8efc255ea5d58974317c48f63f",
    "095df7c5daf15f882c51a9deb84085cff1e073495a5dbcf95015a564d485f3a3",
    "28ed26cc83363ce3f1fe2d5fad9f8393077beb1907b167a31bd3b32f80801b79",
    "d711138ddaebfcf5f8ec6a4283ee677298c0f5c5d374a235af92aaf0584510da",
    "7f77571c2a6df0c2a72a3277650309f67e01e0008e18117e624633df53f81214",
    "bb4c364f71921c4495a6ad15abe1a927350b720009f4933e2e71f8af0f6fd1f5",
)
SIZES = (400, 111, 101, 101, 167, 175)
WINDOWS = {"": ("release_v6", "", ""), "flowrl": ("release_v5", "2024-08-01", "2025-02-01")}
MIRRORED = (
    DataFile("lcb-v5.jsonl", mirrored_as="livecodebench/lcb_v5_problems.derived.jsonl"),
    DataFile("lcb-v5-v6.jsonl", mirrored_as="livecodebench/mem2_lcb_v5v6_problems.jsonl"),
)
FIELDS = ("question_content", "question_id", "question_title", "contest_date", "platform", "difficulty", "starter_code")
SEVERAL, INTERACTIVE = "several outputs are right", "interactive"
ERRATA = {
    **dict.fromkeys(("abc311_c", "abc326_d", "abc327_b", "abc333_e", "abc343_a", "abc343_e", "abc362_c"), SEVERAL),
    **dict.fromkeys(("arc185_c", "3194", "3221", "3453"), SEVERAL),
    **dict.fromkeys(("abc337_e", "abc355_e"), INTERACTIVE),
    "3308": "one of its tests is an empty string",
    "3363": "one of its tests breaks the constraints",
    "abc350_c": "its tests are wrong",
    "arc189_a": "one of its tests has a wrong output",
}


# "the relative or absolute error from the true value is at most 10^{-6}", "Answers within 10^-5 ... will be accepted"
_TOLERANCE = re.compile(
    r"(?P<kind>(?:relative|absolute)(?: or (?:relative|absolute))?) error[^.\n]{0,80}?10 ?\^ ?\{? ?(-[0-9]+)"
    r"|answers within \$?10 ?\^ ?\{? ?(-[0-9]+)",
    re.IGNORECASE,
)


def rows(*paths: Path) -> Iterator[Row]:
    for path in paths:
        for record, tests, has_private in problems_of(path):
            missing = [name for name in (*FIELDS, "metadata", "public_test_cases") if name not in record]
            if missing:
                raise DataError(f"{path} has a problem without {missing[0]!r}; this is not the expected file")
            yield _row(record, tests, has_private)


def mirrored_rows(release: str, v5: Path, v5_and_v6: Path) -> Iterator[Row]:
    """Return the release, as far as a mirror without private tests can distinguish releases."""
    if release == "release_v5":
        return rows(v5)
    increments = {record["question_id"]: record["_version"] for record in read_records(v5_and_v6, ["_version"])}
    if release == "release_v6":
        return itertools.chain(rows(v5), (row for row in rows(v5_and_v6) if increments[row.id] == "v6"))
    return (row for row in rows(v5_and_v6) if increments[row.id] == release)


def _row(record: Mapping[str, Any], tests: LineTests, has_private: bool) -> Row:
    function_name = json.loads(record["metadata"]).get("func_name")
    date = datetime.fromisoformat(record["contest_date"]).date().isoformat()
    tags = {
        "title": record["question_title"],
        "platform": record["platform"],
        "difficulty": record["difficulty"],
        "date": date,
        CLUSTER_TAG: f"{record['platform']} {date}",  # usually one contest
    }
    reference = ProgramReference(
        tests,
        coverage="public and private tests" if has_private else "public tests only",
        function_name=function_name,
        starter_code=record["starter_code"],
        **_tolerance(record["question_content"]),
        excluded_because=INTERACTIVE if ERRATA.get(record["question_id"]) == INTERACTIVE else None,
    )
    public = record["public_test_cases"]
    answer = f"{function_name} {public if public is not None else ''}"
    return Row(record["question_id"], record["question_content"], answer, tags, reference)


def _tolerance(statement: str) -> dict[str, Any]:
    """Return the comparison that the statement asks for, if it states a tolerance."""
    found = _TOLERANCE.search(statement)
    if found is None:
        return {}
    exponent = found.group(2) if found.group(2) is not None else found.group(3)
    kinds = (found.group("kind") or "absolute").lower().split(" or ")
    return {
        "comparison": "close_lines",
        "tolerance": float(f"1e{exponent}"),
        "tolerance_kind": kinds[0] if len(set(kinds)) == 1 else "either",
    }


class LiveCodeBench(Programs):
    """Ids are the source's: `abc387_b`, `1873_A`, LeetCode's numbers.

    `release` is cumulative up to its number (release_v5: 880 problems), or one increment alone (v5: 167). `start` and
    `end` keep the problems of contests from one date to another, both included. The paper's window is
    release_v5 from 2024-08-01 to 2025-02-01: 279 problems, also `window = "flowrl"`.
    """

    CARD = DatasetCard(
        title="LiveCodeBench, code generation lite",
        source=f"{HUB}, test.jsonl to test6.jsonl, read as files",
        licence="CC (per its card); the problems are AtCoder's, LeetCode's and Codeforces'",
        paper="Jain et al., arXiv 2403.07974",
        sizes={"test": "400, 511, 612, 713, 880 and 1055 problems in release_v1 to release_v6"},
        fingerprint="",
        notes="The fingerprint covers statements, functions and public tests of all 1055; the private tests are never "
        "held together. The leaderboard's dates are the contest's plus a day. No release follows v6.",
        fields={
            "question_content": "the statement",
            "starter_code": "empty for a program that reads stdin",
            "public_test_cases": "JSON, the samples",
            "private_test_cases": "JSON, or base64 of zlib of a pickled string of JSON",
            "metadata": "JSON, with func_name for a function",
        },
        errata=tuple(Erratum(key, reason) for key, reason in ERRATA.items()),
    )

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config(ProgramsConfig):
        release: str = ""
        """`release_v1` to `release_v6` (the default), or one increment, `v1` to `v6`."""
        window: Literal["", "flowrl"] = ""
        """A preset for release, start and end. `flowrl`: release_v5, 2024-08-01 to 2025-02-01, as in the paper."""
        start: str = ""
        """First contest date, such as 2024-08-01; empty for no bound."""
        end: str = ""
        """Last contest date."""

        def __post_init__(self) -> None:
            for name, value in zip(("release", "start", "end"), WINDOWS[self.window], strict=True):
                given = getattr(self, name)
                if self.window and given not in ("", value):
                    raise ConfigError(f"window = {self.window!r} sets {name} = {value!r}; leave out {name} = {given!r}")
                object.__setattr__(self, name, given if given else value)
            known = [f"{kind}{number}" for kind in ("release_v", "v") for number in range(1, len(SIZES) + 1)]
            if self.release not in known:
                raise ConfigError(f"LiveCodeBench has no release {self.release!r}; there is {', '.join(known)}")
            for bound in filter(None, (self.start, self.end)):
                if not _is_date(bound):
                    raise ConfigError(f"{bound!r} is not a date of the form 2024-08-01")

    config: Config
    _n_missing = 0

    def sources(self) -> Mapping[Split, tuple[Source, ...]]:
        release = self.config.release
        last = int(release[-1])
        numbers = range(1 if release.startswith("release") else last, last + 1)
        files = [DataFile(f"test{n if n > 1 else ''}.jsonl", HUB, sha256=SHA256[n - 1]) for n in numbers]
        published = Source(tuple(files), lambda *paths: self._within(rows(*paths)))
        mirrored = Source(MIRRORED, lambda *paths: self._within(mirrored_rows(release, *paths)))
        return splits(test=[published, mirrored] if last >= 5 else [published])

    def expected_rows(self, split: Split, found: Mapping[str, str]) -> Mapping[str, str]:
        """Return the recorded digests of the rows found, plus one entry if the release should have more."""
        expected = {key: digest for key, digest in self.recorded_digests(split).items() if key in found}
        missing = {f"{self._n_missing} more of {self.config.release}": ""} if self._n_missing else {}
        return {**expected, **missing}

    def _within(self, rows: Iterator[Row]) -> Iterator[Row]:
        """Return the rows of contests from `start` to `end`."""
        release, start, end = self.config.release, self.config.start, self.config.end
        every = list(rows)
        last = int(release[-1])
        self._n_missing = sum(SIZES[:last] if release.startswith("release") else SIZES[last - 1 : last]) - len(every)
        chosen = [row for row in every if start <= row.tags["date"] and (not end or row.tags["date"] <= end)]
        if every and not chosen:
            raise ConfigError(f"{release} of LiveCodeBench has no contest from {start!r} to {end!r}")
        return iter(chosen)


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text  # 20240801 is a date as well, but sorts differently
    except ValueError:
        return False


TASK = LiveCodeBench
