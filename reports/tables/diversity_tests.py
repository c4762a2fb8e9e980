"""Unit tests of the diversity measures that a report shows: how each fares on runs of known diversity."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from harness.core.protocols import TableBuilder
from harness.core.types import Table
from harness.runs.diversity_file import read_diversity
from harness.runs.folder import RunReader

RESULTS = Path(__file__).resolve().parents[1] / "metric_tests.tsv"


class DiversityTests(TableBuilder[RunReader]):
    """One row for each measure of the runs, with the verdict of `harness validate --metric`.

    The results are those of this version; `python tools/make_metric_tests.py` writes them.
    """

    def build(self, runs: Sequence[RunReader]) -> Sequence[Table]:
        stored = [one for run in runs if run.record.kind == "eval" for one in read_diversity(run.folder).values()]
        shown = {name.rpartition("@")[0] for one in stored for name in one.values}
        with RESULTS.open(encoding="utf-8", newline="") as file:
            columns, *rows = csv.reader(file, delimiter="\t")
        kept = tuple(tuple(cell if cell else None for cell in row) for row in rows if row[0] in shown)
        notes = ("`harness validate --metric all` prints the tests and the rules of the verdicts.",)
        return [Table("Unit tests of diversity metrics on countdown", tuple(columns), kept, notes)] if kept else []


TABLE = DiversityTests
