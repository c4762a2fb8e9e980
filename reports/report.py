"""Write report.md and CSV files from run folders, with the runs and their digests in the footer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import harness
from harness.core import config as configs
from harness.core import registry
from harness.core.errors import UsageError
from harness.core.types import Table
from harness.reports.render import escape_markdown, to_csv, to_markdown
from harness.reports.run_facts import labels, sandbox_of, unfinished
from harness.runs.folder import RunReader
from harness.runs.jsonl import disk_error, write_whole
from harness.runs.search import find_runs

MARK = "report.json"
MARK_FORMAT = 1
FIRST_TABLE = "results"


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Paths of the files of a report."""

    folder: Path
    markdown: Path
    csv: tuple[Path, ...]


def write_report(run_folders: Sequence[Path], out_folder: Path, table_ids: Sequence[str] | None = None) -> ReportFiles:
    """Write all tables of these runs, or the named ones, as one markdown page and a CSV file each.

    Everything is read and built before anything is written. The folder must be empty, absent or a report; files of an
    earlier report that this one does not have are removed.
    """
    runs = read_runs(run_folders)
    tables = {table_id: _build(table_id, runs) for table_id in _chosen(table_ids)}
    if not any(tables.values()):
        raise UsageError(f"nothing to report: these runs have no rows for {', '.join(tables)}")
    former = _former_files(out_folder)
    contents = {
        name: to_csv(table) for table_id, group in tables.items() for name, table in _csv_names(table_id, group)
    }
    _write_mark(out_folder, runs, [*former, *contents])
    for name, text in contents.items():
        write_whole(out_folder / name, text)
    write_whole(out_folder / "report.md", _page(runs, tables))
    for name in sorted(set(former) - set(contents)):
        (out_folder / name).unlink(missing_ok=True)
    _write_mark(out_folder, runs, list(contents))
    return ReportFiles(out_folder, out_folder / "report.md", tuple(out_folder / name for name in contents))


def tables_of(run_folders: Sequence[Path], table_ids: Sequence[str] | None = None) -> list[Table]:
    """Build the named tables, or all, of these runs."""
    runs = read_runs(run_folders)
    return [table for table_id in _chosen(table_ids) for table in _build(table_id, runs)]


def read_runs(run_folders: Sequence[Path]) -> list[RunReader]:
    """Read each run among and below the folders once, and after each train run its held-out evaluations by step."""
    return [RunReader.read(folder) for folder in find_runs(run_folders).folders]


# --- tables -----------------------------------------------------------------------------------------------------


def _chosen(table_ids: Sequence[str] | None) -> list[str]:
    if table_ids is not None:
        return list(dict.fromkeys(table_ids))
    return sorted(registry.entries("tables"), key=lambda table_id: (table_id != FIRST_TABLE, table_id))


def _build(table_id: str, runs: Sequence[RunReader]) -> list[Table]:
    return list(configs.parse_plugin("tables", table_id).build().build(runs))


def _csv_names(table_id: str, tables: Sequence[Table]) -> list[tuple[str, Table]]:
    """Name the CSV files: `results.csv`, or `protocol-1.csv`, `protocol-2.csv` where an id has several tables."""
    table_id = Path(table_id).stem  # of the path of a file
    if len(tables) == 1:
        return [(f"{table_id}.csv", tables[0])]
    return [(f"{table_id}-{number}.csv", table) for number, table in enumerate(tables, 1)]


# --- the page ---------------------------------------------------------------------------------------------------


def _page(runs: Sequence[RunReader], tables: dict[str, list[Table]]) -> str:
    named = list(zip(runs, labels(runs), strict=True))
    warnings = [f"**{escape_markdown(line)}**\n" for line in (*unfinished(named), *_without_sandbox(named))]
    bodies = [to_markdown(table) for group in tables.values() for table in group]
    empty = [
        f"(These runs have nothing for the table `{table_id}`.)\n" for table_id, group in tables.items() if not group
    ]
    return "\n".join(["# Report\n", *warnings, *bodies, *empty, _footer(runs)])


def _without_sandbox(named: Sequence[tuple[RunReader, str]]) -> list[str]:
    """Return a line for each run whose programs ran without a sandbox, so that its verdicts may be forged."""
    judged = [
        (f"{label} ({task})", sandbox_of(facts))
        for run, label in named
        for task, facts in sorted(run.record.data.items())
    ]
    judged_again = [
        (f"{label} ({task}, graded again by {grader})", facts.get("sandbox"))
        for run, label in named
        for task, graders in sorted(run.record.regraded.items())
        for grader, facts in sorted(graders.items())
    ]
    return [
        f"UNSAFE: the programs in {label} were run without a sandbox, with limits only."
        for label, level in judged + judged_again
        if level == "limits"
    ]


def _footer(runs: Sequence[RunReader]) -> str:
    columns = ("run", "kind", "status", "id", "created", "config digest", "code", "data")
    rows = tuple(
        (label, r.kind, _status(run.status), r.id, r.created, r.config_digest, r.code, _data(run))
        for run, label in zip(runs, labels(runs), strict=True)
        for r in (run.record,)
    )
    return to_markdown(Table("Runs", columns, rows, (f"Made by harness {harness.__version__}.",)))


def _status(status: str) -> str:
    return status if status == "done" else status.upper()


def _data(run: RunReader) -> str:
    prints = {name: entry.get("fingerprint") for name, entry in sorted(run.record.data.items())}
    return ", ".join(f"{name} {value if value is not None else '-'}" for name, value in prints.items())


# --- the folder -------------------------------------------------------------------------------------------------


def _former_files(folder: Path) -> list[str]:
    """Return the CSV files of the report in this folder; refuse a folder with other files."""
    if not folder.exists():
        return []
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file; choose another --out")
    if not (folder / MARK).exists():
        if any(path.name != MARK + ".tmp" for path in folder.iterdir()):
            raise UsageError(f"{folder} has files in it and is not a report (no {MARK}); choose another --out")
        return []
    try:
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
        if mark["format"] != MARK_FORMAT:
            raise UsageError(
                f"{folder} is a report of format {mark['format']}, not {MARK_FORMAT}; choose another --out"
            )
        return [name for name in mark["files"] if Path(name).name == name and name.endswith(".csv")]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{folder / MARK} is not the mark of a report: {error!r}; choose another --out") from None


def _write_mark(folder: Path, runs: Sequence[RunReader], csv_names: Sequence[str]) -> None:
    mark = {
        "format": MARK_FORMAT,
        "harness": harness.__version__,
        "runs": [{"folder": str(run.folder), "config_digest": run.record.config_digest} for run in runs],
        "files": list(dict.fromkeys(csv_names)),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(folder, error) from error
    write_whole(folder / MARK, json.dumps(mark, indent=1) + "\n")
