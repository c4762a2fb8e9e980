"""Draw plots of run folders as SVG and PNG."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.commands import DONE
from harness.commands.base.arguments import JsonArguments, add_json, run_label
from harness.commands.base.output import print_remark, print_result
from harness.runs.search import find_runs

EXAMPLE = "harness plot runs/* --plot pass-at-k --out plots"


class Arguments(JsonArguments):
    runs: list[Path]
    out: Path
    plot: list[str] | None
    format: str
    label: list[tuple[str, str]] | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, or folders with runs in them")
    parser.add_argument("--out", type=Path, default=Path("plots"), help="where the files go")
    parser.add_argument(
        "--plot", action="append", help="only this one, or all whose ids begin so, such as training; may be repeated"
    )
    parser.add_argument("--format", default="svg", help="svg, png (needs the extra plots), or both with a comma")
    parser.add_argument(
        "--label", action="append", type=run_label, help="RUN=NAME, by its id or folder; may be repeated"
    )
    add_json(parser)


def run(args: Arguments) -> int:
    from harness.reports.plots.collection import all_plots, chosen, write_plots  # numpy
    from harness.reports.report import named_runs, read_runs

    found = find_runs(args.runs)
    if (skipped := found.skipped_text()) is not None:
        print_remark(skipped)
    runs = named_runs(read_runs(found.folders), dict(args.label if args.label else []))
    plots = chosen(all_plots(runs), args.plot)
    files = write_plots(plots, args.out, [name.strip() for name in args.format.split(",")])
    print_result(args, {"plots": [str(path) for path in files]}, "\n".join(map(str, files)))
    return DONE
