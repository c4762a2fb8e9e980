"""Curves of the arms of a study, pass@1 against distinct right solutions, from counts of each problem.

The counts are a frame with the columns arm, seed, step, temperature, draw, task, split, problem, n, correct, ungraded
and solutions (the numbers of samples of each distinct right solution, joined by spaces), as a study writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.core.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from harness.stats.frontier import Frontier, Point
    from harness.stats.intervals import Floats

BASE = "base"
"""The arm that is not trained."""
CELL = ["arm", "seed", "step", "temperature"]
Place = tuple[int, float]
"""A step and a temperature."""


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """The arms of one task: points with the values of each seed and problem, all on the same problems."""

    task: str
    split: str
    problems: Sequence[str]
    k: int
    """The number of samples that solutions are counted among: the smallest number of graded ones of any cell."""
    arms: Mapping[str, Sequence[Point]]
    """[seeds, problems] each, by rising step and falling temperature."""
    seeds: Mapping[str, Sequence[int]]
    solved: Mapping[tuple[str, Place], Floats]
    """pass@k, by arm and place: [seeds, problems]."""
    counts_seeds: bool
    """Whether intervals are over seeds too, or over problems only."""
    notes: Sequence[str] = ()

    @property
    def trained(self) -> list[str]:
        """The arms that are compared. The base is shown only."""
        return [arm for arm, points in self.arms.items() if any(point.step > 0 for point in points)]

    def counted(self, values: Floats) -> Floats:
        """Return values as intervals count them: [seeds, problems], or [1, problems] of means over seeds."""
        found: Floats = values if self.counts_seeds else values.mean(axis=0, keepdims=True)
        return found

    def frontier(self, arm: str) -> Frontier:
        from harness.stats.frontier import Frontier

        points = self.arms[arm]
        return Frontier.of(
            [replace(p, accuracy=self.counted(p.accuracy), diversity=self.counted(p.diversity)) for p in points]
        )

    def last(self, arm: str, temperature: float) -> Point | None:
        """Return the last checkpoint at a temperature."""
        return next((p for p in reversed(self.arms[arm]) if p.temperature == temperature), None)


# --- from counts ------------------------------------------------------------------------------------------------


def read_curves(counts: pd.DataFrame, *, counts_seeds: bool = True) -> list[Curves]:
    """Return the curves of each task and split. Raise if the frame has none.

    Draws of one cell are averaged: which solutions they share is not known from counts.
    """
    found = [
        curves_of_task(str(task), str(split), rows, counts_seeds=counts_seeds)
        for (task, split), rows in counts.groupby(["task", "split"], sort=True)
    ]
    if not found:
        raise UsageError("there are no counts to compare: no evaluation has finished")
    return found


def curves_of_task(task: str, split: str, rows: pd.DataFrame, *, counts_seeds: bool = True) -> Curves:
    """Return the curves of one task. Raise if its cells have no problem in common, or if one was evaluated twice."""
    twice = rows[rows.duplicated([*CELL, "draw", "problem"])]
    if len(twice):
        arm, seed, step, temperature, draw = twice.iloc[0][[*CELL, "draw"]]
        raise UsageError(
            f"two evaluations of {arm} (seed {seed}, step {step}, T = {temperature:g}) have the seed {draw}, so they "
            "are not independent; leave one of them out"
        )
    rows = rows.assign(graded=rows["n"] - rows["ungraded"])
    rows = rows[rows["graded"] > 0]
    all_cells = {tuple(cell) for cell in rows[CELL].drop_duplicates().itertuples(index=False)}
    complete = {str(arm): _complete(of_arm) for arm, of_arm in rows.groupby("arm", sort=False)}
    seeds = {arm: list(found) for arm, (found, places) in complete.items() if places}
    kept = {(arm, seed, *place) for arm, (found, places) in complete.items() for seed in found for place in places}
    rows = rows[[cell in kept for cell in zip(*(rows[key] for key in CELL), strict=True)]]
    n_cells = rows.groupby([*CELL, "draw"]).ngroups
    shared = rows.groupby("problem")["graded"].count()
    problems = sorted(shared.index[shared == n_cells])
    if not problems:
        raise UsageError(f"the arms have no problem of {task} ({split}) in common; evaluate them on the same problems")
    rows = rows[rows["problem"].isin(problems)]
    k = int(rows["graded"].min())
    values = _values(rows, k).groupby(["arm", "step", "temperature", "seed", "problem"], sort=True).mean()
    points = {arm: [_point(values, arm, place) for place in complete[arm][1]] for arm in seeds}
    solved = {(arm, place): _array(values.loc[(arm, *place), "solved"]) for arm in seeds for place in complete[arm][1]}
    notes = [*_unfinished(complete, all_cells)]
    if n_ungraded := int(rows["ungraded"].sum()):
        notes.append(f"UNGRADED samples, in no number: {n_ungraded} of {int(rows['n'].sum())}.")
    if n_lost := len(shared) - len(problems):
        notes.append(f"{n_lost} of {len(shared)} problems are left out: not every cell has graded samples of them.")
    return Curves(task, split, problems, k, points, seeds, solved, counts_seeds, notes)


def _complete(rows: pd.DataFrame) -> tuple[list[int], list[Place]]:
    """Return seeds and places of an arm such that each of the seeds has all of the places.

    Those are the seeds that have every place of the arm; if none has, all seeds, and the places that they share.
    """
    had = {
        int(seed): {(int(step), float(t)) for step, t in zip(part["step"], part["temperature"], strict=True)}
        for seed, part in rows.groupby("seed")
    }
    every = set[Place]().union(*had.values())
    whole = [seed for seed, places in had.items() if places == every]
    places = every if whole else set.intersection(*had.values())
    return whole if whole else list(had), sorted(places, key=lambda place: (place[0], -place[1]))


def _unfinished(
    complete: Mapping[str, tuple[Sequence[int], Sequence[Place]]], cells: set[tuple[str, int, int, float]]
) -> list[str]:
    """Note the cells of an arm that its points do not use, since other seeds lack a checkpoint or temperature."""
    n_unused = {
        arm: sum(cell[0] == arm for cell in cells) - len(seeds) * len(places)
        for arm, (seeds, places) in complete.items()
    }
    return [
        f"UNFINISHED: {n} evaluations of {arm} are left out, because not all of its seeds have the same ones."
        for arm, n in n_unused.items()
        if n
    ]


def _values(rows: pd.DataFrame, k: int) -> pd.DataFrame:
    from harness.stats.frontier import distinct_among
    from harness.stats.intervals import pass_at_k

    graded, solutions = rows["graded"].tolist(), [[int(c) for c in text.split()] for text in rows["solutions"]]
    return rows.assign(
        accuracy=rows["correct"] / rows["graded"],
        diversity=distinct_among(graded, solutions, k),
        solved=pass_at_k(graded, rows["correct"], k),
    ).drop(columns=["task", "split", "draw", "solutions", "n", "correct", "ungraded", "graded"])


def _point(values: pd.DataFrame, arm: str, place: Place) -> Point:
    from harness.stats.frontier import Point

    cell = values.loc[(arm, *place)]
    return Point(*place, _array(cell["accuracy"]), _array(cell["diversity"]))


def _array(column: pd.Series) -> Floats:
    found: Floats = column.unstack("problem").to_numpy(dtype="float64")
    return found
