"""The report of a study: its card, its arms and their differences, tuning, power, results, frontiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.errors import UsageError
from harness.core.types import Table
from harness.reports.frontier import curves_of_task
from harness.reports.frontier_tables import frontier_tables, matched_tables
from harness.reports.render import to_markdown
from harness.reports.report import tables_of, write_tables
from harness.study.exact_table import exact_tables
from harness.study.fairness import arms_table, differences, fairness_table
from harness.study.forecast import forecast
from harness.study.index import BASE
from harness.study.results import results_table
from harness.study.tuning import choose, tuning_table

if TYPE_CHECKING:
    import pandas as pd

    from harness.study.study import Study

FOLDER = "report"


def write_study_report(
    study: Study, counts: pd.DataFrame, failures: Mapping[str, str], versions: Mapping[str, int]
) -> Path:
    """Write report.md and the tables as CSV; return the path of the page."""
    tables = study_tables(study, counts, failures, versions)
    page = "\n".join(
        [f"# {study.config.name}\n", *(to_markdown(table) for group in tables.values() for table in group)]
    )
    return write_tables(study.folder / FOLDER, tables, ("md", "csv"), page).markdown


def study_tables(
    study: Study, counts: pd.DataFrame, failures: Mapping[str, str], versions: Mapping[str, int]
) -> dict[str, list[Table]]:
    config = study.config
    first = [cell for cell in study.cells.trainings if cell.seed == config.seeds[0]]
    tables = {
        "study": [_card(study, versions)],
        "results": [results_table(counts)],
        "forecast": [forecast(counts, config.forecast, len(config.seeds), len(study.arms))],
        "arms": [arms_table(study.arms, first)],
        "differences": [fairness_table(differences(study.arms, first))],
    }
    if study.trials:
        chosen = choose(study.trials, config.tuning.rule)
        tables["tuning"] = [tuning_table(config, study.trials, chosen)]
    if failures:
        tables["failures"] = [Table("Cells that failed", ("cell", "reason"), tuple(failures.items()))]
    tables |= _of_frontier(study.folder, counts)
    done = [control for control in study.cells.controls if control.is_done()]
    found = [_of_arm(control.arm, table) for control in done for table in tables_of([control.folder], ["controls"])]
    return {**tables, "controls": found} if found else tables


def _of_arm(arm: str, table: Table) -> Table:
    return replace(table, title=f"{arm}: {table.title[:1].lower()}{table.title[1:]}")


def _of_frontier(study_folder: Path, counts: pd.DataFrame) -> dict[str, list[Table]]:
    """Return the tables of the frontier and at equal pass@1, for tasks whose solutions are identified.

    Where all right answers are known the exact metrics follow.
    """
    found: dict[str, list[Table]] = {"frontier": [], "matched": [], "exact": []}
    for (task, split), rows in counts.groupby(["task", "split"], sort=True):
        if (rows["solutions"] == "").all() or set(rows["arm"]) == {BASE}:
            continue
        try:
            curves = curves_of_task(str(task), str(split), rows)
            found["frontier"] += frontier_tables(curves)
            found["matched"] += matched_tables(curves)
            found["exact"] += exact_tables(study_folder, curves)
        except UsageError as error:
            found["frontier"].append(Table(f"Arms on {task}", ("arm",), (), (str(error),)))
    return {name: group for name, group in found.items() if group}


def _card(study: Study, versions: Mapping[str, int]) -> Table:
    config, tuning = study.config, study.config.tuning
    steps = ", ".join(map(str, config.evaluated_steps))
    rows: Sequence[tuple[str, str]] = (
        ("base", config.base),
        ("arms", ", ".join(arm.name for arm in study.arms)),
        ("training seeds", ", ".join(map(str, config.seeds))),
        ("steps", str(config.steps)),
        ("checkpoints", f"{steps}; fixed by the study file, and none is chosen by its results"),
        ("evaluations", f"{config.draws} draws of {config.n} samples a problem, on the split {config.split!r}"),
        ("problems", "all" if config.limit is None else f"the first {config.limit}"),
        ("temperatures", ", ".join(f"{t:g}" for t in config.temperatures)),
        (
            "tuning",
            f"{tuning.budget} settings of each arm on the split {tuning.split!r}, by the largest {tuning.rule}"
            if tuning.budget > 0
            else "none: every arm has the settings of its recipe and of the study file",
        ),
        ("code", ", ".join(f"{version} ({n} cells)" for version, n in versions.items())),
    )
    notes = ["FEWER THAN 3 SEEDS: seeds differ by as much as methods do."] if len(config.seeds) < 3 else []
    return Table("Study", ("", "value"), tuple(rows), tuple(notes))
