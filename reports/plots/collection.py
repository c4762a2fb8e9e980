"""All plots of some runs, and their files as SVG and PNG."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from harness.core.errors import UnknownNameError, UsageError
from harness.core.extras import require
from harness.reports.arm_counts import arm_counts
from harness.reports.marked_folder import MarkedFolder
from harness.reports.plots.evaluations import evaluation_plots
from harness.reports.plots.frontier import frontier_svg
from harness.reports.plots.judge import judge_plots
from harness.reports.plots.svg import Plot, document, text
from harness.reports.plots.training import training_plots
from harness.runs.folder import RunReader

MARK = "plots.json"
FORMATS = ("svg", "png")
ZOOM = 2.0
"""Pixels of a PNG for each unit of its SVG."""
SPECIAL = re.compile(r"[^A-Za-z0-9_.-]+")
PROBE = "m"


def all_plots(runs: Sequence[RunReader]) -> list[Plot]:
    """Return every plot that these runs have the values for, in the order of a report. Ids are unique."""
    found = [*evaluation_plots(runs), *_frontiers(runs), *training_plots(runs), *judge_plots(runs)]
    plots: dict[str, Plot] = {}
    for plot in found:
        name = SPECIAL.sub("-", plot.id).strip("-.")  # it becomes a file, and a task may be named by a path
        unique = next(one for one in (name, *(f"{name}-{n}" for n in range(2, len(found) + 2))) if one not in plots)
        plots[unique] = replace(plot, id=unique)
    return list(plots.values())


def _frontiers(runs: Sequence[RunReader]) -> Iterator[Plot]:
    """Yield the frontier of each task whose solutions are identified, where there are several points."""
    for found in arm_counts(runs):
        title = f"Accuracy against diversity on {found.task} ({found.split})"
        title += f", {found.protocol}" if found.protocol else ""
        try:
            curves = found.curves()
        except UsageError:  # the table of the frontier states why
            continue
        yield Plot(f"frontier-{found.task}-{found.split}", title, frontier_svg(curves))


def chosen(plots: Sequence[Plot], ids: Sequence[str] | None) -> list[Plot]:
    """Return the plots of these ids, where `pass-at-k` stands for all whose ids begin with it."""
    if not plots:
        raise UsageError("nothing to plot: these runs have no graded samples, and no training steps")
    if ids is None:
        return list(plots)
    for one in ids:
        if not any(_is(plot, one) for plot in plots):
            raise UnknownNameError("plot", one, [plot.id for plot in plots])
    return [plot for plot in plots if any(_is(plot, one) for one in ids)]


def _is(plot: Plot, plot_id: str) -> bool:
    return plot.id == plot_id or plot.id.startswith(f"{plot_id}-")


# --- files ------------------------------------------------------------------------------------------------------


def write_plots(plots: Sequence[Plot], folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write each plot in each format. The folder must be empty, absent or one of plots, whose former files go."""
    for name in formats:
        if name not in FORMATS:
            raise UnknownNameError("format", name, FORMATS)
    marked = MarkedFolder(folder, MARK, "a folder of plots", tuple(f".{name}" for name in FORMATS))
    former = marked.former_files()
    pictures = {f"{plot.id}.png": png(plot.svg) for plot in plots} if "png" in formats else {}
    drawings = {f"{plot.id}.svg": plot.svg for plot in plots} if "svg" in formats else {}
    marked.replace(former, {**drawings, **pictures})
    return [folder / f"{plot.id}.{name}" for plot in plots for name in formats]


def png(svg: str) -> bytes:
    """Return a picture of an SVG. Raise UsageError if this machine has no font for its texts."""
    resvg = require("plots", "PNG")
    render = resvg.svg_to_bytes
    if render(svg_string=_probe(PROBE)) == render(svg_string=_probe("")):
        raise UsageError("PNG needs a font, and none is installed (Debian: apt install fonts-dejavu-core); write SVG")
    return bytes(render(svg_string=svg, zoom=ZOOM))


def _probe(words: str) -> str:
    return document(40, 20, [text(20, 15, words)], "")
