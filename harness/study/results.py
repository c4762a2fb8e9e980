"""The results of a study as tables: each arm at each checkpoint and temperature, over seeds and problems."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.core.types import Estimate, Table
from harness.stats.frontier import distinct_among, seeded_interval
from harness.stats.intervals import Floats, pass_at_k
from harness.study.index import BASE

if TYPE_CHECKING:
    import pandas as pd

KEYS = ["task", "split", "temperature", "step", "arm"]


def results_table(counts: pd.DataFrame) -> Table:
    """Return pass@1, pass@n and distinct@n of every arm, n being the samples of one draw."""
    n = int((counts["n"] - counts["ungraded"]).min()) if len(counts) else 1
    n = max(1, n)
    rows = []
    order = {arm: place for place, arm in enumerate(dict.fromkeys(counts["arm"]))}
    groups = sorted(counts.groupby(KEYS), key=lambda pair: (*pair[0][:4], order[pair[0][4]]))
    for (task, _, temperature, step, arm), cell in groups:
        graded = cell.assign(graded=cell["n"] - cell["ungraded"])
        graded = graded[graded["graded"] >= n]
        graded = graded.assign(
            rate=graded["correct"] / graded["graded"],
            solved=pass_at_k(graded["graded"].tolist(), graded["correct"].tolist(), n),
            distinct=distinct_among(
                graded["graded"].tolist(), [[int(c) for c in text.split()] for text in graded["solutions"]], n
            ),
        )
        per_seed = graded.groupby("seed")["rate"].mean()
        spread = f"{per_seed.min():.3f} to {per_seed.max():.3f}" if len(per_seed) > 1 else None
        has_solutions = bool((graded["solutions"] != "").any())
        rows.append(
            (
                task,
                temperature,
                None if arm == BASE else step,
                arm,
                None if arm == BASE else len(per_seed),
                _estimate(graded, "rate", "pass@1", 1.0),
                spread,
                _estimate(graded, "solved", f"pass@{n}", 1.0),
                _estimate(graded, "distinct", f"distinct@{n}", float(n)) if has_solutions else None,
            )
        )
    columns = ("task", "T", "step", "arm", "seeds", "pass@1", "of the seeds", f"pass@{n}", f"distinct@{n}")
    note = (
        "Intervals are over problems and training seeds. Values are means over the draws; "
        f"distinct@{n}: distinct right solutions among {n} samples of a problem."
    )
    return Table("Results", columns, tuple(rows), (note,))


def _estimate(rows: pd.DataFrame, column: str, name: str, upper: float) -> Estimate:
    values = _by_seed_and_problem(rows, column)
    interval = seeded_interval(values, upper)
    graded, ungraded = int(rows["graded"].sum()), int(rows["ungraded"].sum())
    mean = float(values.mean())
    return Estimate(name, mean, interval.low, interval.high, values.shape[1], graded, ungraded, interval.method)


def _by_seed_and_problem(rows: pd.DataFrame, column: str) -> Floats:
    """Return the means over draws as [seeds, problems], of the problems that every seed has."""
    table = rows.pivot_table(index="seed", columns="problem", values=column, aggfunc="mean").dropna(axis=1)
    values: Floats = table.to_numpy(dtype=float)
    return values
