"""Write tables from run folders."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands import DONE
from harness.commands.base.arguments import JsonArguments, add_json, run_label
from harness.commands.base.output import print_remark, print_result
from harness.core.errors import UsageError
from harness.reports.report import DEFAULT_FORMATS, check_formats, write_claims, write_report
from harness.runs.search import FoundRuns, find_runs

EXAMPLE = "harness report runs/* --format md,html,tex --out report"


class Arguments(JsonArguments):
    runs: list[Path]
    out: Path
    table: list[str] | None
    format: list[str]
    label: list[tuple[str, str]] | None
    claims: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="*",
        type=Path,
        help="run folders, or folders with runs in them; a train run brings its held-out evaluations",
    )
    parser.add_argument("--out", type=Path, default=Path("report"), help="where the files of the report go")
    parser.add_argument("--table", action="append", help="only this table; may be repeated (default: all)")
    parser.add_argument(
        "--format",
        type=_formats,
        default=list(DEFAULT_FORMATS),
        help="with commas: md, html (a page with every sample); csv, tex, json (a file for each table) "
        "(default: md,csv,html)",
    )
    parser.add_argument(
        "--label", action="append", type=run_label, help="RUN=NAME, by its id or folder; may be repeated"
    )
    parser.add_argument("--claims", help="a paper's printed numbers (flowrl), next to these runs if there are any")
    add_json(parser)


def run(args: Arguments) -> int:
    if args.claims is not None and args.table:
        raise UsageError("--claims writes the tables of a paper; leave --table out")
    found = find_runs(args.runs) if args.runs or args.claims is None else FoundRuns([], [])
    if (skipped := found.skipped_text()) is not None:
        print_remark(skipped)
    names = dict(args.label if args.label else [])
    if args.claims is not None:
        files = write_claims(args.claims, found.folders, args.out, formats=args.format, names=names)
    else:
        tables = args.table if args.table else None
        files = write_report(found.folders, args.out, tables, formats=args.format, names=names)
    main = files.markdown if "md" in args.format else files.folder
    html = {"html": str(files.html)} if files.html is not None else {}
    value = {"report": str(main), **html, "tables": [str(path) for path in files.tables]}
    print_result(args, value, files.html if files.html is not None else main)
    return DONE


def _formats(text: str) -> list[str]:
    return list(check_formats([name.strip() for name in text.split(",")]))
