"""Arms at equal pass@1: the ratio of their distinct right solutions, with sentences; differences at the last step."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.protocols import TableBuilder
from harness.core.types import Table
from harness.reports.arm_counts import tables_of_arms
from harness.reports.frontier_tables import matched_tables
from harness.runs.folder import RunReader


class Matched(TableBuilder[RunReader]):
    """One row for each pair of trained arms and each pass@1 at which they are compared.

    The arms are those of the table `frontier`. Intervals and p-values count seeds, and Holm's method adjusts for pairs.
    """

    def build(self, runs: Sequence[RunReader]) -> Sequence[Table]:
        return tables_of_arms(runs, matched_tables)


TABLE = Matched
