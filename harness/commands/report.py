"""Write tables from run folders."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands import DONE
from harness.commands.base.arguments import JsonArguments, add_json
from harness.commands.base.output import print_remark, print_result
from harness.reports.report import write_report
from harness.runs.search import find_runs

EXAMPLE = "harness report runs/* --out report"


class Arguments(JsonArguments):
    runs: list[Path]
    out: Path
    table: list[str] | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        help="run folders, or folders with runs in them; a train run brings its held-out evaluations",
    )
    parser.add_argument("--out", type=Path, default=Path("report"), help="where report.md and the CSV files go")
    parser.add_argument("--table", action="append", help="only this table; may be repeated (default: all)")
    add_json(parser)


def run(args: Arguments) -> int:
    found = find_runs(args.runs)
    if (skipped := found.skipped_text()) is not None:
        print_remark(skipped)
    files = write_report(found.folders, args.out, args.table if args.table else None)
    print_result(args, {"report": str(files.markdown), "tables": [str(path) for path in files.csv]}, files.markdown)
    return DONE
