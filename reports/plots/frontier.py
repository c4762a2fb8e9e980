"""The accuracy-diversity frontier as plain SVG: points of the arms, their frontiers with bands, and their seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING

from harness.reports.frontier import Curves

if TYPE_CHECKING:
    from harness.stats.frontier import Frontier, Point

WIDTH, HEIGHT, LEFT, TOP, INNER_WIDTH, INNER_HEIGHT = 760, 430, 70, 60, 470, 310
COLOURS = ("#777777", "#c2571a", "#1a6fc2", "#2e8b57", "#8e44ad", "#b8860b", "#c0392b", "#16a2a2")
"""Of the arms in their order, the base first; they repeat after the last."""
BAND_STEPS = 24
N_TICKS = 5


class _Axis:
    """A range of values that begins and ends at round numbers, and the places of its values in the picture."""

    def __init__(self, values: Sequence[float], start: float, length: float) -> None:
        low, high = min(values), max(values)
        width = (high - low) / N_TICKS if high > low else 0.1
        size: float = 10.0 ** math.floor(math.log10(width))
        step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= width)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        self.ticks = [round(n * step, 10) for n in range(first, max(last, first + 1) + 1)]
        self._start, self._length = start, length

    def place(self, value: float) -> float:
        return self._start + (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0]) * self._length


def frontier_svg(curves: Curves, title: str | None = None) -> str:
    """Draw the curves of one task.

    A full mark is the mean of an arm at the highest temperature, a hollow one at a lower one; its area grows with the
    step. The line is the frontier, the band its 95% interval; small dots are seeds.
    """
    drawing = _Drawing(curves)
    words = title if title is not None else f"{curves.task}, {len(curves.problems)} {curves.split} problems"
    marks = [_text(LEFT, 26, words, "start"), *drawing.axes()]
    arms = list(curves.arms)
    for arm in arms:
        marks += drawing.band(arm)
    for arm in arms:
        marks += [*drawing.seeds(arm), *drawing.points(arm)]
    marks += drawing.legend()
    body = "\n".join(marks)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="13">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


class _Drawing:
    def __init__(self, curves: Curves) -> None:
        self.curves = curves
        self.frontiers = {arm: curves.frontier(arm) for arm in curves.arms}
        self.bands = {arm: list(_band(frontier, curves.k)) for arm, frontier in self.frontiers.items()}
        # The base comes first, and the colours of the arms stay when it is left out.
        trained = curves.trained
        self.colours = dict.fromkeys(curves.arms, COLOURS[0])
        self.colours |= {arm: COLOURS[1 + place % (len(COLOURS) - 1)] for place, arm in enumerate(trained)}
        ends = [end for band in self.bands.values() for _, low, high in band for end in (low, high)]
        points = [point for points in curves.arms.values() for point in points]
        by_seed = [values for point in points for values in zip(*_by_seed(point), strict=True)]
        self.x = _Axis([x for x, _ in by_seed], LEFT, INNER_WIDTH)
        self.y = _Axis([0.0, *(y for _, y in by_seed), *ends], TOP + INNER_HEIGHT, -INNER_HEIGHT)
        self.temperatures = sorted({point.temperature for point in points}, reverse=True)
        self.last_step = max(point.step for point in points)

    def axes(self) -> Iterator[str]:
        bottom, right = TOP + INNER_HEIGHT, LEFT + INNER_WIDTH
        yield _line(LEFT, bottom, right, bottom, "#333")
        yield _line(LEFT, bottom, LEFT, TOP, "#333")
        for tick in self.x.ticks:
            yield _line(self.x.place(tick), bottom, self.x.place(tick), bottom + 5, "#333")
            yield _text(self.x.place(tick), bottom + 20, f"{tick:g}")
        for tick in self.y.ticks:
            yield _line(LEFT - 5, self.y.place(tick), LEFT, self.y.place(tick), "#333")
            yield _text(LEFT - 10, self.y.place(tick) + 4, f"{tick:g}", "end")
        middle = TOP + INNER_HEIGHT / 2
        yield _text(LEFT + INNER_WIDTH / 2, HEIGHT - 15, "pass@1")
        turn = f' transform="rotate(-90 24 {middle})"'
        yield _text(24, middle, f"distinct right solutions in {self.curves.k} samples", turn=turn)

    def band(self, arm: str) -> Iterator[str]:
        colour, band = self.colours[arm], self.bands[arm]
        if band:
            there = [f"{self.x.place(x):.1f},{self.y.place(high):.1f}" for x, _, high in band]
            back = [f"{self.x.place(x):.1f},{self.y.place(low):.1f}" for x, low, _ in reversed(band)]
            yield f'<polygon points="{" ".join([*there, *back])}" fill="{colour}" fill-opacity="0.13"/>'
        line = [f"{self.x.place(p.at[0]):.1f},{self.y.place(p.at[1]):.1f}" for p in self.frontiers[arm].points]
        yield f'<polyline points="{" ".join(line)}" fill="none" stroke="{colour}" stroke-width="1.5"/>'

    def seeds(self, arm: str) -> Iterator[str]:
        if len(self.curves.seeds[arm]) > 1:
            for point in self.curves.arms[arm]:
                for x, y in zip(*_by_seed(point), strict=True):
                    yield _circle(self.x.place(x), self.y.place(y), 1.8, self.colours[arm], self.colours[arm])

    def points(self, arm: str) -> Iterator[str]:
        colour = self.colours[arm]
        for point in self.curves.arms[arm]:
            fill = colour if point.temperature == self.temperatures[0] else "white"
            share = point.step / self.last_step if self.last_step > 0 else 1.0
            yield _circle(self.x.place(point.at[0]), self.y.place(point.at[1]), 3 + 3 * share, fill, colour)

    def legend(self) -> Iterator[str]:
        x = LEFT + INNER_WIDTH + 30
        for row, arm in enumerate(self.curves.arms):
            yield _circle(x, TOP + 22 * row, 5, self.colours[arm], self.colours[arm])
            yield _text(x + 14, TOP + 22 * row + 5, arm, "start")
        lines = [f"full: temperature {self.temperatures[0]:g}"]
        if len(self.temperatures) > 1:
            lines.append(f"hollow: {', '.join(f'{t:g}' for t in self.temperatures[1:])}")
        over = "problems and seeds" if self.curves.counts_seeds and self._has_seeds() else "problems"
        lines += ["large: the last step", f"bands: 95% over {over}"]
        lines += ["dots: seeds"] if self._has_seeds() else ["one seed of each arm"]
        for row, line in enumerate(lines):
            yield _text(x - 5, TOP + 22 * len(self.curves.arms) + 20 + 19 * row, line, "start")

    def _has_seeds(self) -> bool:
        return max(map(len, self.curves.seeds.values())) > 1


def _by_seed(point: Point) -> tuple[list[float], list[float]]:
    return point.accuracy.mean(axis=1).tolist(), point.diversity.mean(axis=1).tolist()


def _band(frontier: Frontier, k: int) -> Iterator[tuple[float, float, float]]:
    """Yield accuracies along a frontier, with the interval of the diversity there."""
    low, high = frontier.span
    for step in range(BAND_STEPS + 1) if len(frontier.points) > 1 else ():
        accuracy = min(high, low + (high - low) * step / BAND_STEPS)
        interval = frontier.interval(accuracy)
        yield accuracy, max(0.0, interval.low), min(float(k), interval.high)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _circle(x: float, y: float, radius: float, fill: str, stroke: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{fill}" stroke="{stroke}" stroke-width="1.5"/>'


def _text(x: float, y: float, words: str, anchor: str = "middle", turn: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>{escape(words)}</text>'
