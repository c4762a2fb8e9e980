"""Write a report from run folders: report.md, report.html, and each table as CSV, LaTeX or JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import harness
from harness.core import config as configs
from harness.core import registry
from harness.core.errors import UnknownNameError, UsageError
from harness.core.types import Table
from harness.reports.claims import claims_tables
from harness.reports.marked_folder import MarkedFolder
from harness.reports.page.build import Page, remove_page
from harness.reports.render import escape_markdown, to_csv, to_json, to_latex, to_markdown
from harness.reports.run_facts import labels, sandbox_of, unfinished
from harness.runs.folder import RunReader
from harness.runs.search import find_runs

MARK = "report.json"
FIRST_TABLE = "results"
PAGE = "report.md"
FORMATS: Mapping[str, Callable[[Table, str], str]] = {
    "csv": lambda table, _: to_csv(table),
    "tex": to_latex,
    "json": lambda table, _: to_json(table),
}
"""Ending of a file -> the table in it, by its id."""
HTML = "html"
OTHER_FORMATS = ("md", HTML)
"""Of a page with all tables."""
DEFAULT_FORMATS = ("md", "csv", HTML)
WRITTEN = (".csv", ".tex", ".json", ".svg", ".png")
"""Endings of the files that a report may delete when they are no longer part of it."""


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Paths of the files of a report. `markdown` is absent where other formats were asked for."""

    folder: Path
    markdown: Path
    tables: tuple[Path, ...]
    html: Path | None = None

    @property
    def csv(self) -> tuple[Path, ...]:
        return tuple(path for path in self.tables if path.suffix == ".csv")


def write_report(
    run_folders: Sequence[Path],
    out_folder: Path,
    table_ids: Sequence[str] | None = None,
    *,
    formats: Sequence[str] = DEFAULT_FORMATS,
    names: Mapping[str, str] | None = None,
) -> ReportFiles:
    """Write all tables of these runs, or the named ones: as one markdown page, and as files of the other formats.

    Everything is read and built before anything is written. The folder must be empty, absent or a report; files of an
    earlier report that this one does not have are removed. `names` labels runs, by their id or path.
    """
    runs = named_runs(read_runs(run_folders), names if names is not None else {})
    tables = {table_id: build_tables(table_id, runs) for table_id in _chosen(table_ids)}
    if not any(tables.values()):
        raise UsageError(f"nothing to report: these runs have no rows for {', '.join(tables)}")
    page = _page(runs, tables) if "md" in check_formats(formats) else None
    if HTML not in formats:
        files = write_tables(out_folder, tables, formats, page, runs)
        remove_page(out_folder)
        return files
    with report_page(runs, tables) as built:
        files = write_tables(out_folder, tables, formats, page, runs)
        return dataclasses.replace(files, html=built.write(out_folder).html)


def report_page(
    runs: Sequence[RunReader],
    tables: Mapping[str, Sequence[Table]] | None = None,
    warnings: Sequence[str] = (),
    first_chunk: int = 0,
) -> Page:
    """Build the page of these runs with these tables, or all."""
    from harness.reports.plots.collection import all_plots  # numpy

    chosen = tables if tables is not None else {table_id: build_tables(table_id, runs) for table_id in _chosen(None)}
    listed = [named for table_id, group in chosen.items() for named in _file_names(table_id, group)]
    unsafe = _without_sandbox(list(zip(runs, labels(runs), strict=True)))
    return Page(runs, listed, all_plots(runs), [*warnings, *unsafe], first_chunk)


def write_claims(
    name: str,
    run_folders: Sequence[Path],
    out_folder: Path,
    *,
    formats: Sequence[str] = DEFAULT_FORMATS,
    names: Mapping[str, str] | None = None,
) -> ReportFiles:
    """Write the printed numbers of a paper, next to those of runs with the same protocol. There may be no run."""
    runs = named_runs(read_runs(run_folders) if run_folders else [], names if names is not None else {})
    tables = claims_tables(name, runs)
    bodies = [to_markdown(table) for group in tables.values() for table in group]
    page = "\n".join([f"# Claims: {name}\n", *bodies, *([_footer(runs)] if runs else [])])
    files = write_tables(out_folder, tables, formats, page if "md" in check_formats(formats) else None, runs)
    remove_page(out_folder)
    return files


def write_tables(
    out_folder: Path,
    tables: Mapping[str, Sequence[Table]],
    formats: Sequence[str],
    page: str | None,
    runs: Sequence[RunReader] = (),
) -> ReportFiles:
    """Write the files of a report, all or, where one can't be written, with a mark that lists all of them."""
    marked = MarkedFolder(out_folder, MARK, "a report", WRITTEN, unlisted=(PAGE,))
    former = marked.former_files()
    contents = {
        f"{name}.{ending}": FORMATS[ending](table, name)
        for ending in check_formats(formats)
        if ending in FORMATS
        for table_id, group in tables.items()
        for name, table in _file_names(table_id, group)
    }
    pages = {PAGE: page} if page is not None else {}
    read = [{"folder": str(run.folder), "config_digest": run.record.config_digest} for run in runs]
    marked.replace(former, {**contents, **pages}, runs=read)
    return ReportFiles(out_folder, out_folder / PAGE, tuple(out_folder / name for name in contents))


def check_formats(formats: Sequence[str]) -> Sequence[str]:
    """Return the formats, or refuse one that does not exist."""
    for name in formats:
        if name not in (*OTHER_FORMATS, *FORMATS):
            raise UnknownNameError("format", name, (*OTHER_FORMATS, *FORMATS))
    return formats


def tables_of(run_folders: Sequence[Path], table_ids: Sequence[str] | None = None) -> list[Table]:
    """Build the named tables, or all, of these runs."""
    runs = read_runs(run_folders)
    return [table for table_id in _chosen(table_ids) for table in build_tables(table_id, runs)]


def read_runs(run_folders: Sequence[Path]) -> list[RunReader]:
    """Read each run among and below the folders once, and after each train run its held-out evaluations by step."""
    return [RunReader.read(folder) for folder in find_runs(run_folders).folders]


def named_runs(runs: Sequence[RunReader], names: Mapping[str, str]) -> list[RunReader]:
    """Return the runs with the labels that they were given by id, by label or by path."""
    if not names:
        return list(runs)
    known: dict[str, list[int]] = {}
    for place, (run, label) in enumerate(zip(runs, labels(runs), strict=True)):
        for name in {run.record.id, label, str(run.folder), str(run.folder.resolve())}:
            known.setdefault(name, []).append(place)
    named = list(runs)
    for name, label in names.items():
        places = known.get(name) or known.get(str(Path(name).resolve()), [])
        if len(places) != 1:
            if places:
                raise UsageError(f"--label {name}=...: {len(places)} runs have this id; name the folder of one")
            raise UnknownNameError("run", name, known)
        named[places[0]] = dataclasses.replace(named[places[0]], label=label)
    return named


# --- tables -----------------------------------------------------------------------------------------------------


def _chosen(table_ids: Sequence[str] | None) -> list[str]:
    if table_ids is not None:
        return list(dict.fromkeys(table_ids))
    return sorted(registry.entries("tables"), key=lambda table_id: (table_id != FIRST_TABLE, table_id))


def build_tables(table_id: str, runs: Sequence[RunReader]) -> list[Table]:
    """Build the tables of one id."""
    return list(configs.parse_plugin("tables", table_id).build().build(runs))


def _file_names(table_id: str, tables: Sequence[Table]) -> list[tuple[str, Table]]:
    """Name the files of an id: `results`, or `protocol-1`, `protocol-2` where it has several tables."""
    table_id = Path(table_id).stem  # of the path of a file
    if len(tables) == 1 and f"{table_id}.json" != MARK:
        return [(table_id, tables[0])]
    return [(f"{table_id}-{number}", table) for number, table in enumerate(tables, 1)]


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
