"""Plots of evaluations: pass@k by method, and the solve rate of each problem by method."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial

from harness.reports.plots.svg import CHARACTER, Panel, Plot, Series, document, picture, shortened, straight, text
from harness.reports.ranking import Values
from harness.reports.samples import pass_rates, powers_of_two, rates
from harness.reports.suites import Column, Row, Suite, suites, values_of
from harness.runs.folder import RunReader

MOST_COLUMNS = 200
"""With more problems, neighbours of like difficulty are drawn together."""
CELL_HEIGHT, WIDTH = 26, 760
SHADES = 10


def evaluation_plots(runs: Sequence[RunReader]) -> Iterator[Plot]:
    """Yield pass@k and solve rates of each benchmark of each protocol."""
    for number, suite in enumerate(suites(runs), 1):
        for column in suite.columns:
            rows = [row for row in suite.rows if row.samples(column)]
            name = f"{column.task}-{number}"
            if (plot := _pass_at_k(suite, column, rows)) is not None:
                yield Plot(f"pass-at-k-{name}", f"pass@k on {column.title}", plot)
            if len(rows) > 1:
                yield Plot(f"solve-rates-{name}", f"Solve rates on {column.title}", _solve_rates(suite, column, rows))


# --- pass@k -----------------------------------------------------------------------------------------------------


def _pass_at_k(suite: Suite, column: Column, rows: Sequence[Row]) -> str | None:
    most = min((samples.fewest for row in rows for samples in row.samples(column)), default=0)
    if most < 2:
        return None
    lines = [_line(row, column, powers_of_two(most), place) for place, row in enumerate(rows)]
    n_problems = max(len(samples.problems) for row in rows for samples in row.samples(column))
    panel = Panel("", "k, samples", lines, y_label="pass@k, percent", x_is_log=True)
    note = f"Bars and bands: 95% over {n_problems} problems, and over runs where there are several. {suite.title}."
    return picture(f"pass@k on {column.title}", [panel], notes=[note])


def _line(row: Row, column: Column, ks: Sequence[int], style: int) -> Series:
    cells = [(k, values.estimate("")) for k in ks if (values := values_of(row, column, partial(pass_rates, k=k)))]
    return Series(
        _named(row, column),
        [k for k, _ in cells],
        [100 * cell.value for _, cell in cells],
        [100 * cell.low for _, cell in cells],
        [100 * cell.high for _, cell in cells],
        style=style,
        has_marks=True,
    )


def _named(row: Row, column: Column) -> str:
    n_runs = len(row.runs[column])
    return row.label if n_runs == 1 else f"{row.label} ({n_runs} runs)"


# --- solve rates ------------------------------------------------------------------------------------------------


def _solve_rates(suite: Suite, column: Column, rows: Sequence[Row]) -> str:
    """Draw a cell for each problem and row, problems by the mean of their rates, the hardest first."""
    found = {row.label: values for row in rows if (values := values_of(row, column, rates)) is not None}
    shared = sorted(set.intersection(*(set(values.problems) for values in found.values())))
    by_row = {label: values.on(shared).mean(axis=0).tolist() for label, values in found.items()}
    order = sorted(range(len(shared)), key=lambda p: (sum(of_row[p] for of_row in by_row.values()), shared[p]))
    groups = _groups(order)
    left = 16 + CHARACTER * max(len(shortened(label)) for label in by_row)
    inner = WIDTH - left - 70
    title = f"Solve rates on {column.title}: {len(shared)} problems, the hardest first"
    marks = [text(WIDTH / 2, 22, title, size=15)]
    for number, (label, values) in enumerate(by_row.items()):
        y = 40 + number * CELL_HEIGHT
        marks.append(text(left - 8, y + CELL_HEIGHT / 2 + 4, shortened(label), "end"))
        marks += _cells([sum(values[p] for p in group) / len(group) for group in groups], left, y, inner)
        marks.append(text(WIDTH - 62, y + CELL_HEIGHT / 2 + 4, _mean(found[label]), "start", size=11))
    bottom = 40 + len(by_row) * CELL_HEIGHT
    marks += _scale(left, bottom + 18)
    together = f" A column is about {len(shared) / len(groups):.1f} problems." if len(groups) < len(shared) else ""
    least = min(samples.fewest for row in rows for samples in row.samples(column))
    note = f"Each cell is a share of {least} samples or more of each run; right: the mean.{together} {suite.title}."
    marks.append(text(12, bottom + 56, note, "start", size=11, colour="#444"))
    return document(WIDTH, bottom + 68, marks, title)


def _groups(order: Sequence[int]) -> list[list[int]]:
    n = min(MOST_COLUMNS, len(order))
    ends = [round(place * len(order) / n) for place in range(n + 1)]
    return [list(order[start:end]) for start, end in itertools.pairwise(ends)]


def _cells(shares: Sequence[float], left: float, y: float, inner: float) -> Iterator[str]:
    """Yield one rectangle for each run of cells of one shade."""
    width, start = inner / len(shares), 0
    shades = [_shade(share) for share in shares]
    for place in range(1, len(shades) + 1):
        if place == len(shades) or shades[place] != shades[start]:
            x, length = left + start * width, (place - start) * width
            box = f'x="{x:.2f}" y="{y:.1f}" width="{length:.2f}" height="{CELL_HEIGHT - 3}"'
            yield f'<rect {box} fill="{shades[start]}"/>'
            start = place


def _shade(share: float) -> str:
    """Return a colour from pale yellow (never solved) to dark blue, whose lightness falls evenly, as grey does."""
    step = min(SHADES, int(share * SHADES + 0.5))
    ends = ((255, 250, 214), (8, 29, 88))
    middle = (65, 182, 196)
    at = step / SHADES
    (low, high), part = ((ends[0], middle), at * 2) if at <= 0.5 else ((middle, ends[1]), at * 2 - 1)
    return "#" + "".join(f"{round(a + (b - a) * part):02x}" for a, b in zip(low, high, strict=True))


def _scale(left: float, y: float) -> Iterator[str]:
    for step in range(SHADES + 1):
        yield f'<rect x="{left + 24 * step:.1f}" y="{y}" width="24" height="10" fill="{_shade(step / SHADES)}"/>'
    for share in (0.0, 0.5, 1.0):
        yield text(left + 24 * (SHADES * share + 0.5), y + 23, f"{share:.0%}", size=11)
    yield straight(left, y, left + 24 * (SHADES + 1), y, "#999", width=0.5)


def _mean(values: Values) -> str:
    return f"{100 * values.mean:.1f} %"
