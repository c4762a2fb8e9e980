"""Counts of each problem in each evaluation of a study, as one frame and as `counts.csv`.

The file is small enough to be committed with a study, and every accuracy, coverage and comparison can be computed from
it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.errors import DataError
from harness.runs.counts import problem_rows
from harness.runs.folder import RunReader
from harness.runs.jsonl import disk_error
from harness.study.index import EvalCell, read_index

if TYPE_CHECKING:
    import pandas as pd

FILE = "counts.csv"
TYPES = {
    "arm": str,
    "seed": int,
    "step": int,
    "temperature": float,
    "draw": int,
    "task": str,
    "split": str,
    "problem": str,
    "n": int,
    "correct": int,
    "ungraded": int,
    "solutions": str,
}
"""Column -> type of its values."""


def study_counts(study_folder: Path) -> pd.DataFrame:
    """Return a row for each problem of each finished evaluation of a study.

    `n` counts all samples, `correct` and `ungraded` some of them. `solutions` holds the numbers of samples of each
    distinct right solution, the largest first ("5 3 1"), and is empty where the grader identifies none.
    """
    return group_counts(study_folder, read_index(study_folder))


def group_counts(study_folder: Path, cells: Sequence[EvalCell]) -> pd.DataFrame:
    """Return the rows of some evaluations."""
    import pandas as pd

    rows = [row for cell in sorted(cells) for row in _rows(study_folder, cell)]
    return pd.DataFrame(rows, columns=list(TYPES)).astype(TYPES)


def _rows(study_folder: Path, cell: EvalCell) -> list[tuple[object, ...]]:
    folder = study_folder / cell.folder
    if not (folder / "run.json").exists():
        return []
    run = RunReader.read(folder)
    if run.record.status != "done":
        return []
    place = (cell.arm, cell.seed, cell.step, cell.temperature, cell.draw)
    return [(*place, task, cell.split, *of_problem) for task, *of_problem in sorted(problem_rows(run))]


def write_counts(counts: pd.DataFrame, path: Path) -> None:
    """Write the frame as CSV; a path that ends in .gz is compressed."""
    try:
        counts.to_csv(path, index=False)
    except OSError as error:
        raise disk_error(path, error) from error


def read_counts(path: Path) -> pd.DataFrame:
    """Read what `write_counts` wrote, every column with its type."""
    import pandas as pd

    try:
        frame = pd.read_csv(path, dtype=TYPES, keep_default_na=False, na_filter=False)
        return frame[list(TYPES)]
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from None
    except (ValueError, KeyError) as error:
        raise DataError(f"{path} does not hold the counts of a study: {error}") from None
