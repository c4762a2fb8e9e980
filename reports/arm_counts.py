"""Counts of each problem of evaluation runs, with the arm, seed and step that each run belongs to.

Runs of a study have these in its index, `study.json`. For others an arm is what was trained with equal settings but for
the seed, and a model of no training run is an arm that is not compared. Evaluations under other protocols are in other
frames, as in `harness.reports.suites`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import RunFolderError, UsageError
from harness.core.types import Table
from harness.reports.frontier import BASE, CELL, Curves, curves_of_task
from harness.reports.methods import checkpoint_step, flat, with_differences
from harness.reports.run_config import run_config
from harness.reports.run_facts import model_of, sampling_setting, trainer_of
from harness.reports.suites import protocol_of
from harness.runs.counts import problem_counts
from harness.runs.folder import RunReader

if TYPE_CHECKING:
    import pandas as pd

STUDY_INDEX = "study.json"
OUTSIDE = "outside"
"""The place of a run in the folder of a study that is not one of its evaluations, such as a control or a trial."""
FREE = ("temperature", "samples a problem", "limit")
"""Settings of the protocol that the points of one frontier may differ in: counts are of the fewest samples, and of the
problems that all have."""


@dataclass(frozen=True, slots=True)
class Cell:
    """The place of an evaluation among the arms."""

    arm: str
    seed: int
    step: int
    temperature: float
    draw: int
    split: str


@dataclass(frozen=True, slots=True)
class ArmCounts:
    """The counts of one task, all under one protocol, in two points or more."""

    task: str
    split: str
    counts: pd.DataFrame
    protocol: str
    """The settings in which it differs from other protocols of the task among the runs; empty if there is one."""

    def curves(self) -> Curves:
        """Return the curves. Raise UsageError if the cells can't be compared."""
        return curves_of_task(self.task, self.split, self.counts)


def arm_counts(runs: Sequence[RunReader]) -> list[ArmCounts]:
    """Return the counts of the finished evaluations on tasks whose solutions are identified, by task and protocol."""
    import pandas as pd

    done = [run for run in runs if run.record.kind == "eval" and run.record.status == "done"]
    studies = {run.folder: _of_study(run) for run in done}
    done = [run for run in done if studies[run.folder] != OUTSIDE]
    arms = _arms([run for run in done if studies[run.folder] is None])
    frames: dict[tuple[str, str, str], list[pd.DataFrame]] = {}
    protocols: dict[str, Mapping[str, Any]] = {}
    for run in done:
        found = studies[run.folder]
        counts = problem_counts(run, run_config(run).n)
        named = counts.groupby("task")["solutions"].transform(lambda texts: (texts != "").any())
        for task, of_task in counts[named.astype(bool)].groupby("task"):
            place = found if isinstance(found, Cell) else _place(run, str(task), arms)
            if place is not None:
                shared, own, _ = protocol_of(run, str(task), FREE)
                key = json.dumps([shared, own], default=str)
                protocols[key] = {**shared, **own}
                frames.setdefault((str(task), place.split, key), []).append(of_task.assign(**asdict(place)))
    joined = {key: pd.concat(some, ignore_index=True) for key, some in sorted(frames.items(), key=lambda one: one[0])}
    joined = {key: counts for key, counts in joined.items() if len(counts[CELL].drop_duplicates()) > 1}
    keys = [(task, split) for task, split, _ in joined]
    return [
        ArmCounts(
            task, split, counts, _difference(key, [k for t, s, k in joined if (t, s) == (task, split)], protocols)
        )
        if keys.count((task, split)) > 1
        else ArmCounts(task, split, counts, "")
        for (task, split, key), counts in joined.items()
    ]


def _difference(key: str, keys: Sequence[str], protocols: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the settings in which a protocol differs from the others."""
    names = [name for name in protocols[key] if len({str(protocols[other].get(name)) for other in keys}) > 1]
    return ", ".join(f"{name} {protocols[key][name]}" for name in names)


def _of_study(run: RunReader) -> Cell | str | None:
    """Return the place that the index of a study gives to a run in its folder; None if it is in no such folder."""
    for folder in run.folder.resolve().parents:
        path = folder / STUDY_INDEX
        if path.is_file():
            try:
                rows = json.loads(path.read_text(encoding="utf-8"))["evaluations"]
                found = next((row for row in rows if (folder / row["folder"]).resolve() == run.folder.resolve()), None)
                return Cell(**{name: found[name] for name in Cell.__slots__}) if found is not None else OUTSIDE
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
        return Cell(arms[run.folder], 0, 0, float(temperature), draw, split)
    trained, step = run_config(trainer), checkpoint_step(run, trainer)
    seed = trained.seed if trained.seed is not None else 0
    return Cell(arms[trainer.folder], seed, step if step is not None else 0, float(temperature), draw, split)


def _arms(runs: Sequence[RunReader]) -> dict[Path, str]:
    """Name the arm of each training run: by its objective, and the settings in which arms of one objective differ.

    A model of no training run is `base`, or has its name too if there are several.
    """
    trainers = {trainer.folder: trainer for run in runs if (trainer := trainer_of(run)) is not None}
    models = {run.folder: model_of(run) for run in runs if trainer_of(run) is None}
    several = len(set(models.values())) > 1
    untrained = {folder: f"{BASE} ({model})" if several else BASE for folder, model in models.items()}
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
    return {**untrained, **{folder: names[key] for folder, key in keys.items()}}


def tables_of_arms(runs: Sequence[RunReader], build: Callable[[Curves], Sequence[Table]]) -> list[Table]:
    """Return the tables of the curves of each task and protocol."""
    tables: list[Table] = []
    for found in arm_counts(runs):
        notes = (f"PROTOCOL: {found.protocol}",) if found.protocol else ()
        try:
            built = build(found.curves())
        except UsageError as error:
            built = [Table(f"Arms on {found.task}", ("arm",), (), (str(error),))]
        tables += [replace(table, notes=(*notes, *table.notes)) for table in built]
    return tables
