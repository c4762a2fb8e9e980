"""The numbers of the committed studies are those of their committed counts."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from harness.reports.frontier import read_curves
from harness.stats.frontier import level_in, matched, overlap
from harness.stats.paired_tests import holm
from harness.study.counts import read_counts

COUNTS = sorted((Path(__file__).parents[2] / "docs" / "studies").glob("*/counts.csv.gz"))
ROW = re.compile(
    r"\| `(?P<first>[^`]+)` \| `(?P<second>[^`]+)` \| (?P<cells>[^|]+\|[^|]+\|[^|]+\|[^|]+\|[^|]+\|[^|]+) \|"
)


def rows_of(page: str) -> list[list[re.Match[str]]]:
    """Return the comparisons of each table of a page."""
    found = [[ROW.fullmatch(line) for line in part.splitlines()] for part in page.split("\n\n")]
    return [rows for part in found if (rows := [row for row in part if row])]


@pytest.mark.parametrize("path", COUNTS, ids=[path.parent.name for path in COUNTS])
def test_the_comparisons_of_a_study_follow_from_its_counts(path: Path) -> None:
    page = path.with_name("index.md").read_text(encoding="utf-8")
    assert hashlib.sha256(path.read_bytes()).hexdigest() in page
    (curves,) = read_curves(read_counts(path))
    tables = rows_of(page)
    assert tables, "a study without comparisons"
    for rows in tables:
        found = []
        for row in rows:
            one, other = curves.frontier(row["first"]), curves.frontier(row["second"])
            span = overlap(one, other)
            assert span is not None
            found.append(matched(one, other, level_in(span)))
        assert all(result.p is not None for result in found)
        adjusted = holm([float(result.p.p) for result in found if result.p is not None])
        for row, result, corrected in zip(rows, found, adjusted, strict=True):
            low, high = result.ratio_interval.low, result.ratio_interval.high
            cells = f"{result.accuracy:.3f} | {result.first:.2f} | {result.second:.2f} | "
            cells += f"{result.ratio:.2f} [{low:.2f}, {high:.2f}] | {result.p.p:.2g} | {corrected:.2g}"
            assert row["cells"] == cells, (row["first"], row["second"])
