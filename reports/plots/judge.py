"""Plot of how far a judge of strategies can be believed: its agreement with itself and with known solutions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from harness.reports.plots.svg import Panel, Plot, Series, picture
from harness.reports.run_facts import labelled
from harness.runs.diversity_file import read_diversity
from harness.runs.folder import RunReader

PREFIX = "adjusted Rand "
INTERVAL = re.compile(r"(-?\d+\.\d+) \[(-?\d+\.\d+), (-?\d+\.\d+)\]")


def judge_plots(runs: Sequence[RunReader]) -> Iterator[Plot]:
    """Yield the agreements on the card of each judge, once for runs that were judged together."""
    by_task: dict[str, list[dict[str, object]]] = {}
    for run, _ in labelled(runs, "eval"):
        for task, stored in read_diversity(run.folder).items():
            card = dict(stored.cards.get("judge", {}))
            if card and card not in by_task.setdefault(task, []):
                by_task[task].append(card)
    for task, found in by_task.items():
        series = [line for style, card in enumerate(found) if (line := _line(card, style)) is not None]
        if series:
            names = list(dict.fromkeys(name for card in found for name in _agreements(card)))
            title = f"Reliability of the judge on {task}"
            panel = Panel("", "", series, y_label="adjusted Rand index", from_zero=True, x_names=names, level=1.0)
            note = (
                "1: the same groups of solutions; 0: no more alike than chance. Bars: 95% over problems. A judge that "
                "disagrees with itself between orders or wordings measures its own noise."
            )
            yield Plot(f"judge-{task}", title, picture(title, [panel], notes=[note]))


def _agreements(card: dict[str, object]) -> dict[str, tuple[float, float, float]]:
    """Return the agreements of a card with their intervals, by name."""
    found = {}
    for name, value in card.items():
        match = INTERVAL.fullmatch(str(value))
        if name.startswith(PREFIX) and match is not None:
            found[name.removeprefix(PREFIX)] = (float(match[1]), float(match[2]), float(match[3]))
    return found


def _line(card: dict[str, object], style: int) -> Series | None:
    values = list(_agreements(card).values())
    if not values:
        return None
    means, lows, highs = zip(*values, strict=True)
    return Series(str(card.get("model", "judge")), range(len(values)), means, lows, highs, style, has_marks=True)
