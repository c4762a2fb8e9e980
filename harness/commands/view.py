"""Show runs in the browser while they grow.

The page is that of `harness report`, served on this machine alone. Nothing is written to the run folders.
"""

from __future__ import annotations

import argparse
import os
import sys
import webbrowser
from pathlib import Path

from harness.commands import DONE
from harness.commands.base.arguments import integer, run_label
from harness.commands.base.output import print_remark
from harness.core.progress import Progress
from harness.reports.live import LivePage
from harness.reports.page.serve import PageServer

EXAMPLE = "harness view runs/* --port 8123"
LARGEST_PORT = 65535


class Arguments:
    runs: list[Path]
    port: int
    browser: bool
    label: list[tuple[str, str]] | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, or folders with runs in them")
    parser.add_argument("--port", type=_port, default=0, help="of the page on this machine (default: a free one)")
    parser.add_argument(
        "--no-browser", dest="browser", action="store_false", help="print the address of the page and open nothing"
    )
    parser.add_argument(
        "--label", action="append", type=run_label, help="RUN=NAME, by its id or folder; may be repeated"
    )


def run(args: Arguments) -> int:
    with PageServer(args.port) as server, _page(args) as page:
        print(server.address, flush=True)
        print_remark(
            "the page follows the runs until Ctrl-C; its address is enough to read them, so keep it to yourself"
        )
        if args.browser and _has_display():
            webbrowser.open(server.new_ticket())
        try:
            server.serve(page)
        except KeyboardInterrupt:
            print_remark("the page is no longer served")
    return DONE


def _page(args: Arguments) -> LivePage:
    with Progress().working("building the page"):
        return LivePage(args.runs, dict(args.label if args.label else []))


def _port(text: str) -> int:
    number = integer(text)
    if not 0 <= number <= LARGEST_PORT:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to {LARGEST_PORT}, not {number}")
    return number


def _has_display() -> bool:
    """Return whether a browser would open a window: one in the terminal would keep it."""
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
