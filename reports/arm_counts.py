"""Counts of each problem of evaluation runs, with the arm, seed and step that each run belongs to.

Runs of a study have these in its index, `study.json`. For others an arm is what was trained with equal settings but for
the seed, and the base is a model of no training run.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import RunFolderError, UsageError
from harness.core.types import Table
from harness.models.loading import CHECKPOINT_PREFIX
from harness.reports.frontier import BASE, CELL, Curves, curves_of_task
from harness.reports.methods import flat, with_differences
from harness.reports.run_config import run_config
from harness.reports.run_facts import sampling_setting, trainer_of
from harness.runs.counts import problem_counts
from harness.runs.folder import RunReader

if TYPE_CHECKING:
    import pandas as pd

STUDY_INDEX = "study.json"


@dataclass(frozen=True, slots=True)
class Cell:
    """The place of an evaluation among the arms."""

    arm: str
    seed: int
    step: int
    temperature: float
    draw: int
    split: str


def arm_counts(runs: Sequence[RunReader]) -> pd.DataFrame | None:
    """Return the counts of the finished evaluations on tasks whose solutions are identified; None without any."""
    import pandas as pd

    done = [run for run in runs if run.record.kind == "eval" and run.record.status == "done"]
    arms = _arms(done)
    frames = []
    for run in done:
        cell = _of_study(run)
        counts = problem_counts(run, run_config(run).n)
        named = counts.groupby("task")["solutions"].transform(lambda texts: (texts != "").any())
        for task, of_task in counts[named.astype(bool)].groupby("task"):
            place = cell if cell is not None else _place(run, str(task), arms)
            if place is not None:
                frames.append(of_task.assign(**asdict(place)))
    return pd.concat(frames, ignore_index=True) if frames else None


def _of_study(run: RunReader) -> Cell | None:
    """Return the place that the index of a study gives to a run in its folder."""
    for folder in run.folder.resolve().parents:
        path = folder / STUDY_INDEX
        if path.is_file():
            try:
                rows = json.loads(path.read_text(encoding="utf-8"))["evaluations"]
                found = next((row for row in rows if (folder / row["folder"]).resolve() == run.folder.resolve()), None)
                return Cell(**{name: found[name] for name in Cell.__slots__}) if found is not None else None
            except (OSError, ValueError, TypeError, KeyError) as error:
                raise RunFolderError(f"{path} can't be read: {error!r}; run the study again to write it") from None
    return None


def _place(run: RunReader, task: str, arms: Mapping[Path, str]) -> Cell | None:
    """Return the place of a run from its config and that of its training; None at an unknown temperature."""
    config, trainer = run_config(run), trainer_of(run)
    temperature = sampling_setting(run, task, "temperature")
    if not isinstance(temperature, int | float):
        return None
    draw, split = config.seed if config.seed is not None else 0, config.split if config.split is not None else "test"
    if trainer is None or config.model is None:
        return Cell(BASE, 0, 0, float(temperature), draw, split)
    trained, name = run_config(trainer), Path(config.model).name
    number = name.removeprefix(CHECKPOINT_PREFIX)
    step = int(number) if number.isdigit() else trained.n_steps
    seed = trained.seed if trained.seed is not None else 0
    return Cell(arms[trainer.folder], seed, step if step is not None else 0, float(temperature), draw, split)


def _arms(runs: Sequence[RunReader]) -> dict[Path, str]:
    """Name the arm of each training run: by its objective, and the settings in which arms of one objective differ."""
    trainers = {trainer.folder: trainer for run in runs if (trainer := trainer_of(run)) is not None}
    settings: dict[str, Mapping[str, Any]] = {}
    keys: dict[Path, str] = {}
    objectives: dict[str, str] = {}
    for folder, trainer in trainers.items():
        found = flat(trainer.config(), "")
        keys[folder] = json.dumps(found, sort_keys=True, default=str)
        settings[keys[folder]] = found
        objective = run_config(trainer).objective
        objectives[keys[folder]] = objective.id if objective is not None else "?"
    shared = Counter(objectives.values())
    names = {
        key: name
        if shared[name] == 1
        else with_differences(key, [k for k in objectives if objectives[k] == name], settings, name)
        for key, name in objectives.items()
    }
    return {folder: names[key] for folder, key in keys.items()}


def tables_of_arms(runs: Sequence[RunReader], build: Callable[[Curves], Sequence[Table]]) -> list[Table]:
    """Return the tables of the curves of each task; none where there is a single point and so no curve."""
    counts = arm_counts(runs)
    if counts is None or len(counts[["task", "split", *CELL]].drop_duplicates()) < 2:
        return []
    tables: list[Table] = []
    for (task, split), rows in counts.groupby(["task", "split"], sort=True):
        try:
            tables += build(curves_of_task(str(task), str(split), rows))
        except UsageError as error:
            tables.append(Table(f"Arms on {task}", ("arm",), (), (str(error),)))
    return tables
