"""The tuning stage: every arm tries as many settings on a validation split, by one rule, and all are on record.

The test split is read by no choice: its problems and those of the tuning split are compared before anything runs.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.core.config import Tree, merge, parse
from harness.core.errors import ConfigError, RunError
from harness.core.types import Table
from harness.evaluation.config import EvalConfig
from harness.evaluation.select import problems_of
from harness.runs.folder import RunReader
from harness.runs.jsonl import write_whole
from harness.study.arms import Arm, nested
from harness.study.cells import EvalGroup, TrainCell, eval_group, eval_trees, train_cell
from harness.study.config import StudyConfig

FOLDER = "tuning"
FILE = "tuning.json"


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting of one arm."""

    arm: str
    number: int
    settings: Mapping[str, Any]
    """By dotted key."""
    training: TrainCell
    evaluations: EvalGroup

    def value(self, rule: str) -> float | None:
        """Return the mean of an estimate over the tasks; None if the trial has not ended, or failed."""
        found = []
        for evaluation in self.evaluations.evaluations:
            if not (evaluation.folder / "run.json").exists():
                return None
            run = RunReader.read(evaluation.folder)
            if run.status != "done":
                return None
            estimates = {e.name: e.value for e in run.estimates()[evaluation.cell.task]}
            if rule not in estimates:
                raise ConfigError(f"tuning.rule is {rule!r}, and the trials have {', '.join(estimates)}")
            found.append(estimates[rule])
        return math.fsum(found) / len(found)


def trials_of(study: StudyConfig, arms: Sequence[Arm], folder: Path) -> list[Trial]:
    """Return the settings that each arm tries; none without a tuning stage. Raise unless all arms have the budget."""
    if study.tuning.budget == 0:
        return []
    families = {arm.family for arm in arms}
    if unknown := study.tuning.grid.keys() - families:
        raise ConfigError(f"tuning.grid has {min(unknown)!r}, which is not an arm; there is {', '.join(families)}")
    return [trial for arm in arms for trial in _trials(study, arm, folder)]


def _trials(study: StudyConfig, arm: Arm, folder: Path) -> Iterator[Trial]:
    tuning = study.tuning
    grid = {key if "." in key else f"objective.{key}": v for key, v in study.tuning.grid.get(arm.family, {}).items()}
    for key, values in grid.items():
        if not isinstance(values, list) or len({json.dumps(value) for value in values}) < max(1, len(values)):
            raise ConfigError(f"tuning.grid.{arm.family}: {key!r} needs a list of different values, not {values!r}")
    points = list(itertools.product(*grid.values()))
    if len(points) != tuning.budget:
        raise ConfigError(
            f"the arm {arm.name!r} tries {len(points)} settings and tuning.budget is {tuning.budget}: all arms try as "
            f"many, so that none is tuned more; change tuning.grid.{arm.family}"
        )
    steps = tuning.steps if tuning.steps is not None else study.steps
    temperature = tuning.temperature if tuning.temperature is not None else study.temperatures[0]
    small = replace(study, steps=steps, checkpoints=(), temperatures=(temperature,), draws=1)
    small = replace(
        small, tuning=replace(tuning, budget=0, grid={}), split=tuning.split, n=tuning.n, limit=tuning.limit
    )
    for number, point in enumerate(points, 1):
        settings = dict(zip(grid, point, strict=True))
        place = folder / FOLDER / arm.folder_name / f"trial-{number:02d}"
        training = replace(
            train_cell(small, with_settings(arm, settings), tuning.seed, folder),
            folder=place / "train",
            label=f"{arm.name} trial {number}",
        )
        trees = eval_trees(small, training)
        group = eval_group(trees, small, arm.name, training, steps, place.relative_to(folder), folder)
        yield Trial(
            arm.name, number, settings, training, replace(group, label=f"{arm.name} trial {number}, evaluation")
        )


def with_settings(arm: Arm, settings: Mapping[str, Any]) -> Arm:
    return replace(arm, settings=merge(arm.settings, nested(settings)))


def tuned(arms: Sequence[Arm], chosen: Mapping[str, Trial]) -> list[Arm]:
    return [with_settings(arm, chosen[arm.name].settings) if arm.name in chosen else arm for arm in arms]


# --- the choice -------------------------------------------------------------------------------------------------


def choose(trials: Sequence[Trial], rule: str, *, is_final: bool = True) -> dict[str, Trial]:
    """Return the chosen trial of each arm. Where `is_final` is false, arms without a finished trial take the first."""
    chosen: dict[str, Trial] = {}
    for arm, group in itertools.groupby(trials, key=lambda trial: trial.arm):
        of_arm = list(group)
        values = [trial.value(rule) for trial in of_arm]
        known = [(value, -trial.number) for value, trial in zip(values, of_arm, strict=True) if value is not None]
        if not known and is_final:
            raise RunError(f"all trials of the arm {arm!r} failed, so it has no settings; the same command tries again")
        best = -max(known)[1] if known else 1
        chosen[arm] = of_arm[best - 1]
    return chosen


def write_choice(folder: Path, study: StudyConfig, trials: Sequence[Trial], chosen: Mapping[str, Trial]) -> None:
    """Write all settings that were tried, with their values, the rule, and the chosen ones."""
    rows: list[Tree] = [
        {
            "arm": trial.arm,
            "trial": trial.number,
            "settings": dict(trial.settings),
            study.tuning.rule: trial.value(study.tuning.rule),
            "chosen": chosen[trial.arm].number == trial.number,
        }
        for trial in trials
    ]
    tuning = study.tuning
    record = {"rule": f"largest {tuning.rule}", "split": tuning.split, "budget": tuning.budget, "seed": tuning.seed}
    write_whole(folder / FILE, json.dumps({**record, "trials": rows}, indent=1) + "\n")


def tuning_table(study: StudyConfig, trials: Sequence[Trial], chosen: Mapping[str, Trial]) -> Table:
    rule = study.tuning.rule
    rows = tuple(
        (
            trial.arm,
            trial.number,
            ", ".join(f"{key}={value}" for key, value in trial.settings.items()),
            trial.value(rule),
            "chosen" if chosen[trial.arm].number == trial.number else None,
        )
        for trial in trials
    )
    note = (
        f"Each arm tried {study.tuning.budget} settings with seed {study.tuning.seed}; the largest {rule} on the split "
        f"{study.tuning.split!r} was chosen, of equal ones the first. The reported problems were read by no choice."
    )
    failed = [f"{trial.arm} trial {trial.number}" for trial in trials if trial.value(rule) is None]
    notes = (
        (note, f"FAILED, so that these arms had fewer settings to choose from: {', '.join(failed)}.")
        if failed
        else (note,)
    )
    return Table("Tuning", ("arm", "trial", "settings", rule, ""), rows, notes)


# --- splits -----------------------------------------------------------------------------------------------------


def check_splits(trial: Trial, reported: Sequence[Tree]) -> None:
    """Raise if a problem by which settings are chosen is one of those that are reported, by id or by prompt."""
    of_trial = {tuple(seen) for e in trial.evaluations.evaluations for seen in _problems(e.tree)}
    for tree in reported:
        for task, kind, text in _problems(tree):
            if (task, kind, text) in of_trial:
                raise ConfigError(
                    f"tuning reads problems of {task} that the study reports, such as the one with the {kind} "
                    f"{text[:60]!r}; choose another tuning.split, or a task with disjoint splits"
                )


def _problems(tree: Tree) -> Iterator[tuple[str, str, str]]:
    config = parse(EvalConfig, tree)
    for choice in config.tasks:
        for problem in problems_of(choice.build(), config.split, config.problem_seed, config.limit):
            yield choice.id, "id", problem.id
            yield choice.id, "prompt", " ".join(message.content for message in problem.messages)
