"""The index of a study, `study.json`: which folder holds which evaluation.

The folder of a study:

    study.toml          the study file as it was run last
    study.json          this index
    log.txt             when which file was run by which version, and which cells failed
    cells/ARM/...       run folders: seed-1/train, seed-1/step-000080/TASK-T0.6-draw-1
    tuning/ARM/...      run folders of the settings that were tried
    counts.csv          counts of each problem in each evaluation
    report/             the tables
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.core.errors import RunFolderError
from harness.runs.jsonl import write_whole

FILE = "study.json"
FORMAT = 1
BASE = "base"
"""The arm that is not trained. Its seed and step are 0."""


@dataclass(frozen=True, slots=True, order=True)
class EvalCell:
    """One evaluation: a checkpoint of an arm and seed on one task, at one temperature, in one draw of samples."""

    arm: str
    seed: int
    step: int
    """Training step of the checkpoint; 0 is the base."""
    temperature: float
    draw: int
    task: str
    split: str
    folder: str
    """From the folder of the study."""


def write_index(study_folder: Path, name: str, cells: Sequence[EvalCell]) -> None:
    index = {"format": FORMAT, "name": name, "evaluations": [asdict(cell) for cell in cells]}
    write_whole(study_folder / FILE, json.dumps(index, indent=1) + "\n")


def read_index(study_folder: Path) -> list[EvalCell]:
    """Return the evaluations of a study, done or not."""
    path = study_folder / FILE
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if index["format"] != FORMAT:
            raise RunFolderError(f"{path} has format {index['format']}, and this version reads {FORMAT}")
        return [EvalCell(**row) for row in index["evaluations"]]
    except FileNotFoundError:
        raise RunFolderError(f"{study_folder} is not the folder of a study: it has no {FILE}") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunFolderError(f"{path} can't be read: {error!r}; run the study again to write it") from None
