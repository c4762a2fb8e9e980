"""Runs grouped into methods: those whose settings, and those of the training behind them, differ in seeds alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.models.loading import CHECKPOINT_PREFIX
from harness.reports.find_trainer import CHECKPOINTS_FOLDER
from harness.reports.run_config import run_config
from harness.reports.run_facts import Labelled, facts_of, model_of, trainer_of
from harness.runs.folder import RunReader

SEEDS = ("seed",)
IGNORED = ("model", "engine", "metrics")
"""Parts of an evaluation's config that the method does not depend on: the model is known by its training and step."""


@dataclass(frozen=True, slots=True)
class Method:
    """A row of a table: one run, or the runs of one method under several seeds."""

    label: str
    runs: tuple[RunReader, ...]


def methods_of(named: Sequence[Labelled]) -> list[Method]:
    """Group evaluations by their settings without seeds, in order of their first run.

    A group of one keeps the label of its run. Groups are named by their objective, and by the settings in which groups
    of one objective differ.
    """
    groups: dict[str, list[Labelled]] = {}
    settings: dict[str, Mapping[str, Any]] = {}
    for run, label in named:
        flat = _settings(run)
        key = json.dumps(flat, sort_keys=True, default=str)
        settings[key] = flat
        groups.setdefault(key, []).append((run, label))
    several = {key: _base_name(members[0][0]) for key, members in groups.items() if len(members) > 1}
    clashing = {name for name, n in Counter(several.values()).items() if n > 1}
    found = []
    for key, members in groups.items():
        label = members[0][1]
        if key in several:
            same = [other for other, name in several.items() if name == several[key]]
            label = (
                several[key] if several[key] not in clashing else with_differences(key, same, settings, several[key])
            )
        found.append(Method(label, tuple(run for run, _ in members)))
    return found


def _base_name(run: RunReader) -> str:
    trainer = trainer_of(run)
    objective = run_config(trainer).objective if trainer is not None else None
    model = model_of(run)
    return objective.id if objective is not None else model if model is not None else "?"


def with_differences(key: str, same: Sequence[str], settings: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """Return the name with the settings in which it differs from the others of the same name."""
    differing = [setting for setting in settings[key] if len({str(settings[other].get(setting)) for other in same}) > 1]
    shown = [f"{setting.rpartition('.')[2]}={settings[key].get(setting)}" for setting in differing[:3]]
    return f"{name} ({', '.join(shown)})"


def _settings(run: RunReader) -> dict[str, Any]:
    """Return the settings of an evaluation, and those of the training of its model, without seeds."""
    trainer = trainer_of(run)
    own = {key: value for key, value in run.config().items() if key not in IGNORED}
    if trainer is None:
        return {**flat(own, "eval."), "train.model": model_of(run)}
    return {**flat(own, "eval."), **flat(trainer.config(), "train."), "step": checkpoint_step(run, trainer)}


def checkpoint_step(run: RunReader, trainer: RunReader) -> int | None:
    """Return the step of the checkpoint that was evaluated.

    Where the run folder itself was named, it is the one that the record has, or else the last of the training.
    """
    path = Path(run_config(run).model or "")
    name = path.name if path.parent.name == CHECKPOINTS_FOLDER else str(facts_of(run, "model").get("name"))
    number = name.removeprefix(CHECKPOINT_PREFIX)
    is_checkpoint = name.startswith(CHECKPOINT_PREFIX) and number.isdigit()
    return int(number) if is_checkpoint else run_config(trainer).n_steps


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings with dots in their keys, without seeds."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if key in SEEDS:
            continue
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found
