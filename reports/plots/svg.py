"""Panels of lines, points with intervals and cells, written as SVG. The same values give the same bytes.

Lines differ in colour (Okabe and Ito's, which colour-blind readers tell apart), in their dashes and in their marks, so
that grey keeps them apart as well. Texts are escaped, and nothing in the file is a script or a link.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from harness.core.text import printable

PANEL_WIDTH, PANEL_HEIGHT, NARROWEST = 330, 250, 620
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 34, 46
"""Room around a panel for its axes and its title."""
TITLE_HEIGHT, LEGEND_HEIGHT, NOTE_HEIGHT = 34, 20, 16
FONTS = "DejaVu Sans, Helvetica, Arial, sans-serif"
CHARACTER = 6.6
"""The mean width of a character of 12 pixels."""
COLOURS = ("#000000", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("", "6 3", "2 2", "8 3 2 3", "4 4", "12 3", "1 3")
N_TICKS = 5
LONGEST_LABEL = 34


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture of a report."""

    id: str
    title: str
    svg: str


@dataclass(frozen=True, slots=True)
class Series:
    """Values by x, with the ends of an interval or band where they have one."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    lows: Sequence[float] | None = None
    highs: Sequence[float] | None = None
    style: int = 0
    """Its colour, dashes and mark, by the place of its label in the legend."""
    has_marks: bool = False
    is_faint: bool = False
    """Whether it is drawn thin: what another line is compared with."""


@dataclass(frozen=True, slots=True)
class Panel:
    """A pair of axes with its lines."""

    title: str
    x_label: str
    series: Sequence[Series]
    y_label: str = ""
    x_is_log: bool = False
    y_is_log: bool = False
    from_zero: bool = False
    x_names: Sequence[str] | None = None
    """Names of the whole numbers on the x axis, in place of numbers."""
    level: float | None = None
    """A horizontal line to read values against."""


class Axis:
    """A range that ends at round numbers, and the places of its values in the picture."""

    def __init__(self, values: Sequence[float], start: float, length: float, *, is_log: bool = False) -> None:
        finite = [value for value in values if math.isfinite(value) and (value > 0 or not is_log)]
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        self.is_log = is_log and bool(finite)
        self.ticks = _log_ticks(low, high) if self.is_log else _ticks(low, high)
        self._start, self._length = start, length
        self._ends = (self._scaled(self.ticks[0]), self._scaled(self.ticks[-1]))

    def end_at(self, low: float, high: float) -> None:
        """Let the range begin and end at these values, with the ticks between them."""
        if high > low:
            self._ends = (self._scaled(low), self._scaled(high))
            self.ticks = [tick for tick in self.ticks if low <= tick <= high]

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.is_log else value

    def holds(self, value: float) -> bool:
        return math.isfinite(value) and (value > 0 or not self.is_log)

    def place(self, value: float) -> float:
        low, high = self._ends
        return self._start + (self._scaled(value) - low) / (high - low) * self._length


def _ticks(low: float, high: float) -> list[float]:
    width = (high - low) / N_TICKS if high > low else max(abs(high), 1.0) / N_TICKS
    size = 10.0 ** math.floor(math.log10(width))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= width * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{n * step:.12g}") for n in range(first, max(last, first + 1) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    step = max(1, math.ceil((last - first) / N_TICKS))
    return [10.0**power for power in range(first, last + step, step)]


def picture(title: str, panels: Sequence[Panel], *, columns: int = 3, notes: Sequence[str] = ()) -> str:
    """Draw panels in rows with one legend below them."""
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    panel_width = max(PANEL_WIDTH, NARROWEST // columns)
    width: float = columns * panel_width
    legend = list(_legend(panels, width))
    legend_height = LEGEND_HEIGHT * (1 + max((row for row, *_ in legend), default=-1))
    lines = [line for note in notes for line in _wrapped(note, width)]
    height = TITLE_HEIGHT + rows * PANEL_HEIGHT + legend_height + NOTE_HEIGHT * len(lines) + 10
    marks = [text(width / 2, 22, title, size=15)]
    for place, panel in enumerate(panels):
        top = TITLE_HEIGHT + place // columns * PANEL_HEIGHT
        marks += _panel(panel, place % columns * panel_width, top, panel_width)
    for row, x, label, style, has_marks in legend:
        y = TITLE_HEIGHT + rows * PANEL_HEIGHT + LEGEND_HEIGHT * row + 8
        marks.append(_line([(x, y), (x + 28, y)], style))
        marks += [_mark(x + 14, y, style)] if has_marks else []
        marks.append(text(x + 34, y + 4, label, "start"))
    top = TITLE_HEIGHT + rows * PANEL_HEIGHT + legend_height + 12
    marks += [text(12, top + NOTE_HEIGHT * n, line, "start", size=11, colour="#444") for n, line in enumerate(lines)]
    return document(width, height, marks, title)


def document(width: float, height: float, marks: Sequence[str], title: str) -> str:
    """Return the file with its background, and its title for readers that speak."""
    body = "\n".join(marks)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" font-family="{FONTS}">\n'
        f'<title>{_escaped(title)}</title>\n<rect width="100%" height="100%" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _wrapped(note: str, width: float) -> list[str]:
    import textwrap

    return textwrap.wrap(printable(note), int((width - 24) / (CHARACTER * 11 / 12)))


def _legend(panels: Sequence[Panel], width: float) -> Iterator[tuple[int, float, str, int, bool]]:
    """Yield row, x, label, style and whether there are marks, for each label once."""
    seen: dict[str, tuple[int, bool]] = {}
    for panel in panels:
        for series in panel.series:
            if not series.is_faint:
                seen.setdefault(series.label, (series.style, series.has_marks))
    row: int = 0
    x: float = 12.0
    for label, (style, has_marks) in seen.items():
        shown = shortened(label)
        needed = 34 + CHARACTER * len(shown) + 22
        if x + needed > width and x > 12:
            row, x = row + 1, 12.0
        yield row, x, shown, style, has_marks
        x += needed


def shortened(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…"


# --- one panel --------------------------------------------------------------------------------------------------


def _panel(panel: Panel, x: float, y: float, width: float) -> Iterator[str]:
    ys = [value for s in panel.series for part in (s.ys, s.lows, s.highs) if part is not None for value in part]
    ys += [0.0] if panel.from_zero else []
    ys += [panel.level] if panel.level is not None else []
    xs = [value for series in panel.series for value in series.xs]
    inner_width, inner_height = width - LEFT - RIGHT, PANEL_HEIGHT - TOP - BOTTOM
    across = Axis(xs, x + LEFT, inner_width, is_log=panel.x_is_log and panel.x_names is None)
    if panel.x_names is not None:
        across.end_at(-0.5, len(panel.x_names) - 0.5)
    elif panel.x_is_log and xs:
        across.end_at(min(xs) / 1.15, max(xs) * 1.15)
    elif xs:
        across.end_at(min(xs), max(xs))
    up = Axis(ys, y + TOP + inner_height, -inner_height, is_log=panel.y_is_log)
    yield text(x + LEFT + inner_width / 2, y + TOP - 10, panel.title, size=13)
    yield from _axes(panel, across, up, x, y, width)
    if panel.level is not None:
        yield straight(x + LEFT, up.place(panel.level), x + LEFT + inner_width, up.place(panel.level), "#888", "3 3")
    for series in panel.series:
        yield from _band(series, across, up, is_bars=series.has_marks)
    for series in panel.series:
        points = _points(series, across, up)
        if panel.x_names is None:
            yield _line(points, series.style, is_faint=series.is_faint)
        if series.has_marks:
            yield from (_mark(px, py, series.style) for px, py in points)


def _axes(panel: Panel, across: Axis, up: Axis, x: float, y: float, width: float) -> Iterator[str]:
    left, right, top, bottom = x + LEFT, x + width - RIGHT, y + TOP, y + PANEL_HEIGHT - BOTTOM
    for tick in up.ticks:
        yield straight(left, up.place(tick), right, up.place(tick), "#e4e4e4")
        yield text(left - 6, up.place(tick) + 4, f"{tick:g}", "end", size=11)
    yield straight(left, bottom, right, bottom, "#333")
    yield straight(left, bottom, left, top, "#333")
    if panel.x_names is not None:
        for number, name in enumerate(panel.x_names):
            yield text(across.place(number), bottom + 15, shortened(name), size=11)
    else:
        ticks = _power_ticks(panel) if panel.x_is_log else across.ticks
        for tick in ticks:
            yield straight(across.place(tick), bottom, across.place(tick), bottom + 4, "#333")
            yield text(across.place(tick), bottom + 16, f"{tick:g}", size=11)
    yield text((left + right) / 2, bottom + 34, panel.x_label)
    if panel.y_label:
        yield text(x + 14, (top + bottom) / 2, panel.y_label, turn=-90)


def _power_ticks(panel: Panel) -> list[float]:
    """Return the x of the lines, of which a logarithmic axis has few, and every second one where there are many."""
    xs = sorted({value for series in panel.series for value in series.xs if value > 0})
    return xs if len(xs) <= 8 else xs[::2]


def _points(series: Series, across: Axis, up: Axis) -> list[tuple[float, float]]:
    pairs = zip(series.xs, series.ys, strict=True)
    return [(across.place(x), up.place(y)) for x, y in pairs if across.holds(x) and up.holds(y)]


def _band(series: Series, across: Axis, up: Axis, *, is_bars: bool) -> Iterator[str]:
    if series.lows is None or series.highs is None:
        return
    ends = [
        (across.place(x), up.place(low), up.place(high))
        for x, low, high in zip(series.xs, series.lows, series.highs, strict=True)
        if across.holds(x) and up.holds(low) and up.holds(high)
    ]
    colour = COLOURS[series.style % len(COLOURS)]
    if is_bars:
        shift = 2.0 * (series.style % 5 - 2)  # so that bars of several lines do not hide one another
        yield from (straight(x + shift, low, x + shift, high, colour, width=1.2) for x, low, high in ends)
    if len(ends) > 1:
        there = [f"{x:.1f},{high:.1f}" for x, _, high in ends]
        back = [f"{x:.1f},{low:.1f}" for x, low, _ in reversed(ends)]
        yield f'<polygon points="{" ".join([*there, *back])}" fill="{colour}" fill-opacity="0.12"/>'


# --- marks ------------------------------------------------------------------------------------------------------


def _line(points: Sequence[tuple[float, float]], style: int, *, is_faint: bool = False) -> str:
    colour, dash = COLOURS[style % len(COLOURS)], "1 2" if is_faint else DASHES[style % len(DASHES)]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    width = 1.1 if is_faint else 1.8
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dashed}/>'


def _mark(x: float, y: float, style: int) -> str:
    """Return a circle, square, triangle, diamond, or one of these hollow."""
    colour, hollow = COLOURS[style % len(COLOURS)], style % 8 >= 4
    paint = f'fill="{"#ffffff" if hollow else colour}" stroke="{colour}" stroke-width="1.4"'
    shapes = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.6" {paint}/>',
        f'<rect x="{x - 3.4:.1f}" y="{y - 3.4:.1f}" width="6.8" height="6.8" {paint}/>',
        f'<polygon points="{x:.1f},{y - 4.6:.1f} {x + 4.2:.1f},{y + 3.4:.1f} {x - 4.2:.1f},{y + 3.4:.1f}" {paint}/>',
        f'<polygon points="{x:.1f},{y - 4.8:.1f} {x + 4.8:.1f},{y:.1f} {x:.1f},{y + 4.8:.1f} {x - 4.8:.1f},{y:.1f}" '
        f"{paint}/>",
    )
    return shapes[style % 4]


def straight(x1: float, y1: float, x2: float, y2: float, colour: str, dash: str = "", width: float = 1.0) -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width:g}"{dashed}/>'


def text(
    x: float, y: float, words: str, anchor: str = "middle", *, size: int = 12, colour: str = "#111", turn: int = 0
) -> str:
    turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}"'
    return f"<text {place}{turned}>{_escaped(words)}</text>"


def _escaped(words: str) -> str:
    return escape(printable(" ".join(words.split())))
