"""Draw docs/demo.svg from the results of a demo: solutions found against share solved, with their intervals.

python tools/draw_demo.py runs/demo/report/results.csv docs/demo.svg
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

import pandas as pd

WIDTH, HEIGHT, LEFT, TOP, INNER_WIDTH, INNER_HEIGHT = 720, 400, 70, 50, 470, 290
X_RANGE, Y_RANGE = (0.2, 1.0), (0.0, 8.0)
COLOURS = {"-": "#777777", "grpo": "#c2571a", "flowrl": "#1a6fc2"}
NAMES = {"-": "base", "grpo": "GRPO", "flowrl": "FlowRL"}


def x_of(value: float) -> float:
    return LEFT + (value - X_RANGE[0]) / (X_RANGE[1] - X_RANGE[0]) * INNER_WIDTH


def y_of(value: float) -> float:
    return TOP + INNER_HEIGHT - (value - Y_RANGE[0]) / (Y_RANGE[1] - Y_RANGE[0]) * INNER_HEIGHT


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def text(x: float, y: float, words: str, anchor: str = "middle", turn: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}>{escape(words)}</text>'


def axes() -> list[str]:
    marks = [line(LEFT, y_of(0), LEFT + INNER_WIDTH, y_of(0), "#333"), line(LEFT, y_of(0), LEFT, TOP, "#333")]
    for tick in (0.2, 0.4, 0.6, 0.8, 1.0):
        marks += [line(x_of(tick), y_of(0), x_of(tick), y_of(0) + 5, "#333"), text(x_of(tick), y_of(0) + 20, f"{tick}")]
    for tick in (0, 2, 4, 6, 8):
        marks.append(line(LEFT - 5, y_of(tick), LEFT, y_of(tick), "#333"))
        marks.append(text(LEFT - 10, y_of(tick) + 4, f"{tick}", "end"))
    middle = TOP + INNER_HEIGHT / 2
    turn = f' transform="rotate(-90 24 {middle})"'
    marks.append(text(LEFT + INNER_WIDTH / 2, HEIGHT - 15, "pass@1"))
    marks.append(text(24, middle, "distinct correct solutions in 64 samples", turn=turn))
    return marks


def point(solved: pd.Series, distinct: pd.Series, objective: str, temperature: float) -> list[str]:
    colour, x, y = COLOURS[objective], x_of(solved["value"]), y_of(distinct["value"])
    fill = colour if temperature == 1 else "white"
    return [
        line(x_of(solved["low"]), y, x_of(solved["high"]), y, colour, 1.5),
        line(x, y_of(distinct["low"]), x, y_of(distinct["high"]), colour, 1.5),
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{fill}" stroke="{colour}" stroke-width="2"/>',
    ]


def legend() -> list[str]:
    x = LEFT + INNER_WIDTH + 30
    marks = []
    for row, (objective, name) in enumerate(NAMES.items()):
        marks += [f'<circle cx="{x}" cy="{TOP + 24 * row}" r="6" fill="{COLOURS[objective]}"/>']
        marks += [text(x + 14, TOP + 24 * row + 5, name, "start")]
    words = ["full: temperature 1", "hollow: temperature 0.6", "bars: 95% intervals", "over problems"]
    return [*marks, *(text(x - 6, TOP + 100 + 20 * row, w, "start") for row, w in enumerate(words))]


def main() -> None:
    rows = pd.read_csv(sys.argv[1]).fillna({"objective": "-"})
    marks = [text(LEFT, 25, "countdown, 96 held-out problems, 160 steps, one seed", "start"), *axes(), *legend()]
    for _, group in rows.groupby("run"):
        by_name = group.set_index("name")
        objective, temperature = group["objective"].iloc[0], float(group["temperature"].iloc[0])
        marks += point(by_name.loc["pass@1"], by_name.loc["distinct@64"], objective, temperature)
    body = "\n".join(marks)
    Path(sys.argv[2]).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif" font-size="13">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n',
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
