"""The accuracy-diversity frontier: pass@1 against distinct right solutions, by arm, checkpoint and temperature."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.protocols import TableBuilder
from harness.core.types import Table
from harness.reports.arm_counts import tables_of_arms
from harness.reports.frontier_tables import frontier_tables
from harness.runs.folder import RunReader


class Frontier(TableBuilder[RunReader]):
    """One row for each arm, checkpoint and temperature, and one for each seed where there are several.

    An arm is one method of a study, or training runs whose settings differ in the seed alone. Only for tasks whose
    solutions are identified, and from two points on.
    """

    def build(self, runs: Sequence[RunReader]) -> Sequence[Table]:
        return tables_of_arms(runs, frontier_tables)


TABLE = Frontier
