"""The cells of a study: the training of each arm and seed, and the evaluations of its checkpoints.

A cell is an ordinary run folder. It is done when its run is, with the settings of the study; everything else is run or
resumed, so a study that has grown runs only what is new.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.config import Tree, merge, parse, to_tree
from harness.core.errors import ConfigError
from harness.evaluation.config import EvalConfig
from harness.evaluation.presets import resolve_config
from harness.models.loading import CHECKPOINT_PREFIX, checkpoint_folders, step_of
from harness.runs.folder import RunIdentity, RunReader, RunWriter
from harness.study.arms import Arm, nested
from harness.study.config import StudyConfig
from harness.study.index import BASE, EvalCell
from harness.study.jobs import CONTROLS_DONE
from harness.trainers.config import TrainConfig

CELLS, CONTROLS = "cells", "controls"
SEEDS_APART = 1000
"""Evaluation seed of a draw: 1000 x the training seed + the draw. Arms share it, and training seeds do not."""


@dataclass(frozen=True, slots=True)
class TrainCell:
    """The training of one arm with one seed."""

    arm: str
    seed: int
    folder: Path
    tree: Tree
    """Resolved settings, as config.toml has them."""
    wanted: tuple[int, ...]
    """Steps whose checkpoints are evaluated."""
    label: str

    @property
    def n_steps(self) -> int:
        return max(self.wanted)

    def is_done(self) -> bool:
        """Return whether all wanted checkpoints are there. Raise if the folder belongs to another config."""
        identity = RunIdentity.of("train", parse(TrainConfig, self.tree), seeds={}, data={})
        RunWriter.check(self.folder, identity)
        if not (self.folder / "run.json").exists():
            return False
        found = {step_of(path) for path in checkpoint_folders(self.folder)}
        is_past = bool(found) and max(found) > self.n_steps
        return found >= set(self.wanted) and (is_past or RunReader.read(self.folder).status == "done")

    def checkpoint(self, step: int) -> Path:
        return self.folder / "checkpoints" / f"{CHECKPOINT_PREFIX}{step:06d}"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation: its place in the study, and its settings."""

    cell: EvalCell
    folder: Path
    tree: Tree

    def is_done(self) -> bool:
        """Return whether it has run with these settings. Raise if the folder belongs to another config."""
        if not self.folder.exists():
            return False
        if (self.folder / "run.json").exists():
            run = RunReader.read(self.folder)
            if run.config() == self.tree:
                return run.status == "done"
        RunWriter.check(self.folder, RunIdentity.of("eval", parse(EvalConfig, self.tree), seeds={}, data={}))
        return False


@dataclass(frozen=True, slots=True)
class EvalGroup:
    """The evaluations of one checkpoint, for which its model is loaded once."""

    arm: str
    seed: int
    step: int
    evaluations: tuple[Evaluation, ...]
    after: TrainCell | None
    """The training that makes the checkpoint; None for the base."""
    label: str


@dataclass(frozen=True, slots=True)
class Controls:
    """The controls of one trained checkpoint."""

    arm: str
    folder: Path
    tree: Tree
    """The evaluation of the checkpoint."""
    after: TrainCell

    @property
    def label(self) -> str:
        return f"{self.arm} controls"

    def is_done(self) -> bool:
        try:
            done: Tree = json.loads((self.folder / CONTROLS_DONE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return done == self.tree


@dataclass(frozen=True, slots=True)
class Cells:
    """All cells of a study: trainings seed by seed, so that a study that is stopped has whole seeds."""

    trainings: Sequence[TrainCell]
    groups: Sequence[EvalGroup]
    controls: Sequence[Controls]

    @property
    def evaluations(self) -> list[Evaluation]:
        return [evaluation for group in self.groups for evaluation in group.evaluations]


def cells_of(study: StudyConfig, arms: Sequence[Arm], folder: Path) -> Cells:
    """Return the cells of a study in `folder`. Every config is parsed here, so a wrong setting is an error now."""
    trainings = [train_cell(study, arm, seed, folder) for seed in study.seeds for arm in arms]
    trees = eval_trees(study, trainings[0])
    groups = [eval_group(trees, study, BASE, None, 0, Path(CELLS) / BASE, folder)]
    for cell in trainings:
        for step in cell.wanted:
            place = cell.folder.parent.relative_to(folder) / f"{CHECKPOINT_PREFIX}{step:06d}"
            groups.append(eval_group(trees, study, cell.arm, cell, step, place, folder))
    controls = [controls_of(study, cell, trees, folder) for cell in trainings if cell.seed == study.seeds[0]]
    return Cells(trainings, groups, controls if study.controls.evaluation else [])


def controls_of(study: StudyConfig, cell: TrainCell, trees: EvalTrees, folder: Path) -> Controls:
    """Return the controls of the last checkpoint of a training, on all tasks at the first temperature."""
    at_first = [tree for (_, temperature), tree in trees.items() if temperature == study.temperatures[0]]
    tasks = [task for tree in at_first for task in tree["tasks"]]
    per_task: Tree = merge(*(tree.get("per_task", {}) for tree in at_first))
    own: Tree = {"model": {"path": str(cell.checkpoint(cell.n_steps))}, "tasks": tasks, "seed": SEEDS_APART * cell.seed}
    tree = merge(at_first[0], own, {"per_task": per_task} if per_task else {})
    return Controls(cell.arm, folder / CONTROLS / cell.folder.parent.parent.name, tree, cell)


# --- training ---------------------------------------------------------------------------------------------------


def train_cell(study: StudyConfig, arm: Arm, seed: int, folder: Path) -> TrainCell:
    wanted = study.evaluated_steps
    of_study = {"model": {"path": study.base}, "seed": seed, "loop": {"steps": max(wanted)}}
    try:
        config = parse(TrainConfig, merge(arm.tree(study.common), of_study))
        tree = merge(to_tree(config), {"checkpoint": checkpoint_settings(config, wanted)})
    except ConfigError as error:
        raise ConfigError(f"the arm {arm.name!r}: {error}") from None
    place = folder / CELLS / arm.folder_name / f"seed-{seed}" / "train"
    return TrainCell(arm.name, seed, place, tree, wanted, f"{arm.name} seed {seed}")


def checkpoint_settings(config: TrainConfig, wanted: Sequence[int]) -> Tree:
    """Return how often to save checkpoints and how many to keep, so that the wanted ones stay.

    The interval is the largest divisor of all wanted steps up to the recipe's own. Where that would be too often,
    `segments` trains from one wanted step to the next, since the last step of a training is always saved.
    """
    own = config.checkpoint.interval(max(wanted))
    common = math.gcd(*wanted)
    divisor = max(d for d in range(1, min(own, common) + 1) if common % d == 0)
    every = divisor if 2 * divisor >= min(own, min(wanted)) else own
    saved = {*range(every, max(wanted) + 1, every), *wanted}
    n_kept = sum(step >= min(wanted) for step in saved)
    return {"every_steps": every, "keep": max(n_kept, config.checkpoint.keep)}


def segments(cell: TrainCell) -> Iterator[int]:
    """Yield the numbers of steps to train up to, one after the other: one, if every wanted checkpoint is due anyway."""
    every = cell.tree["checkpoint"]["every_steps"]
    yield from (step for step in cell.wanted[:-1] if step % every != 0)
    yield cell.wanted[-1]


# --- evaluation -------------------------------------------------------------------------------------------------


EvalTrees = Mapping[tuple[str, float], Tree]
"""Resolved settings of an evaluation by task and temperature, still without the model and the seed.

Resolving a config takes milliseconds, and a study has hundreds of evaluations.
"""


def eval_trees(study: StudyConfig, cell: TrainCell) -> EvalTrees:
    """Return the settings of each task and temperature. The model is loaded as for training."""
    tasks = [to_tree(chosen) for chosen in study.tasks] if study.tasks else [cell.tree["task"]]
    model = {key: value for key, value in cell.tree["model"].items() if key in ("dtype", "device", "revision")}
    own: Tree = {"n": study.n, "split": study.split} | ({"limit": study.limit} if study.limit is not None else {})
    trees: dict[tuple[str, float], Tree] = {}
    for task in tasks:
        for temperature in study.temperatures:
            asked = {"model": {"path": study.base}, "tasks": [task], "sampling": {"temperature": temperature}}
            try:
                config = resolve_config(merge({"model": model}, nested(study.evaluation), own, asked))
            except ConfigError as error:
                raise ConfigError(f"evaluation: {error}") from None
            trees[task["id"], temperature] = to_tree(config)
    return trees


def eval_group(
    trees: EvalTrees, study: StudyConfig, arm: str, after: TrainCell | None, step: int, place: Path, folder: Path
) -> EvalGroup:
    """Return the evaluations of one checkpoint, or of the base, in the folder `place` of the study."""
    model, seed = (str(after.checkpoint(step)), after.seed) if after is not None else (study.base, 0)
    evaluations = []
    for (task, temperature), tree in trees.items():
        for draw in range(1, study.draws + 1):
            name = place / f"{task}-T{temperature:g}-draw-{draw}"
            cell = EvalCell(arm, seed, step, temperature, draw, task, study.split, str(name))
            filled = merge(tree, {"model": {"path": model}, "seed": SEEDS_APART * seed + draw})
            evaluations.append(Evaluation(cell, folder / name, filled))
    label = f"{arm} seed {seed} step {step}" if after is not None else BASE
    return EvalGroup(arm, seed, step, tuple(evaluations), after, label)
