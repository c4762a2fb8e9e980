"""Evaluations that belong in one table: the runs of several models or methods under one protocol.

A suite has one sampling (temperature, samples, split ...), and for each benchmark one prompt, grader and version of the
data. Runs that differ in their seeds alone are one row. An evaluation under another protocol is in another suite, so
no table mixes protocols.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.reports.compare import IGNORED, NOTED
from harness.reports.methods import checkpoint_step, flat
from harness.reports.protocol_card import SAMPLING, card
from harness.reports.ranking import Values
from harness.reports.run_config import run_config
from harness.reports.run_facts import Cell, Labelled, labelled, model_of, task_ids, trainer_of
from harness.reports.samples import TaskSamples, samples_of
from harness.runs.folder import RunReader

SHARED = ("samples a problem", *(name.replace("_", " ") for name in SAMPLING), "split", "limit", "problem seed")
"""Settings that all benchmarks of a suite have in common."""
SHOWN = {"samples a problem": "n", "temperature": "T", "top p": "top_p", "top k": "top_k", "max tokens": "max tokens"}
"""Settings in the title of a suite, as they are written there."""
DEFAULTS = {"top p": 1.0, "top k": 0}
Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """A benchmark of a suite, with the settings that it may differ in from the others."""

    task: str
    settings: tuple[Cell, ...] = ()

    @property
    def title(self) -> str:
        return " ".join([self.task, *map(str, self.settings)])


@dataclass(frozen=True, slots=True)
class Row:
    """A model or method: its runs on each benchmark, which differ in their seeds alone."""

    label: str
    runs: Mapping[Column, Sequence[RunReader]]
    settings: Settings
    """Of the training behind it, or the model itself, without seeds; nested keys are joined by dots."""
    trainers: Sequence[RunReader] = ()

    @property
    def all_runs(self) -> list[RunReader]:
        return list({run.folder: run for runs in self.runs.values() for run in runs}.values())

    def samples(self, column: Column) -> list[TaskSamples]:
        found = (samples_of(run).get(column.task) for run in self.runs.get(column, ()))
        return [samples for samples in found if samples is not None]


@dataclass(frozen=True, slots=True)
class Suite:
    settings: Mapping[str, Cell]
    """The shared settings, by their names on the protocol card."""
    cards: Mapping[Column, Mapping[str, Cell]]
    """The other settings of each benchmark that its runs have in common."""
    rows: Sequence[Row]
    free: Sequence[str] = ()

    @property
    def columns(self) -> Sequence[Column]:
        return list(self.cards)

    @property
    def title(self) -> str:
        """The sampling in a few words, such as `n 16, T 0.6, top_p 0.95, max tokens 8192`."""
        shown = [(name, word) for name, word in SHOWN.items() if name not in self.free]
        parts = [f"{word} {self.settings[name]}" for name, word in shown if self._is_set(name)]
        limit = self.settings["limit"]
        return ", ".join([*parts, *([f"limit {limit}"] if limit not in (None, "none") else [])])

    def _is_set(self, name: str) -> bool:
        return self.settings[name] not in (None, DEFAULTS.get(name))


@dataclass(slots=True)
class _Draft:
    settings: Mapping[str, Cell]
    cards: dict[Column, Mapping[str, Cell]] = field(default_factory=dict)
    runs: dict[str, dict[Column, list[Labelled]]] = field(default_factory=dict)


def suites(runs: Sequence[RunReader], *, free: Sequence[str] = ()) -> list[Suite]:
    """Return the suites of these evaluations in order of their first run, of those with samples.

    Settings that are `free` may differ between the columns of a suite.
    """
    drafts: dict[str, list[_Draft]] = {}
    methods: dict[str, Settings] = {}
    for run, label in labelled(runs, "eval"):
        method = method_settings(run)
        key = json.dumps(method, sort_keys=True, default=str)
        methods[key] = method
        for task in task_ids(run):
            if task not in samples_of(run):
                continue
            shared, own, column = protocol_of(run, task, free)
            same = drafts.setdefault(json.dumps(shared, default=str), [])
            draft = next((one for one in same if one.cards.get(column, own) == own), None)
            if draft is None:
                draft = _Draft(shared)
                same.append(draft)
            draft.cards[column] = own
            draft.runs.setdefault(key, {}).setdefault(column, []).append((run, label))
    given = {run.folder.resolve(): run.label for run in runs if run.label is not None}
    return [_suite(draft, methods, given, free) for same in drafts.values() for draft in same]


def protocol_of(run: RunReader, task: str, free: Sequence[str]) -> tuple[dict[str, Cell], dict[str, Cell], Column]:
    """Return the shared settings, the benchmark's own, and its column."""
    settings = card(run, task)
    engine = run_config(run).engine
    shared = {name: settings[name] for name in SHARED if name not in free}
    shared["engine"] = engine.id if engine is not None else None
    others = (*SHARED, *NOTED, *IGNORED, "engine", "sandbox")
    own = {name: value for name, value in settings.items() if name not in others}
    return shared, own, Column(task, tuple(settings[name] for name in free))


def _suite(draft: _Draft, methods: Mapping[str, Settings], given: Mapping[Path, str], free: Sequence[str]) -> Suite:
    names = _names({key: methods[key] for key in draft.runs}, draft.runs, given)
    rows = []
    for key, columns in draft.runs.items():
        by_column = {column: [run for run, _ in named] for column, named in columns.items()}
        everything = [run for some in by_column.values() for run in some]
        trainers = {t.folder: t for run in everything if (t := trainer_of(run)) is not None}
        rows.append(Row(names[key], by_column, methods[key], list(trainers.values())))
    tasks = list(dict.fromkeys(column.task for column in draft.cards))
    order = sorted(draft.cards, key=lambda column: (tasks.index(column.task), _sortable(column.settings)))
    return Suite(draft.settings, {column: draft.cards[column] for column in order}, rows, free)


def _sortable(cells: Sequence[Cell]) -> tuple[tuple[bool, float, str], ...]:
    return tuple(
        (True, float(cell), "") if isinstance(cell, (int, float)) else (False, 0.0, str(cell)) for cell in cells
    )


# --- rows -------------------------------------------------------------------------------------------------------


def method_settings(run: RunReader) -> dict[str, Any]:
    """Return the settings of the training behind an evaluation with the step of the checkpoint; else the model's."""
    trainer = trainer_of(run)
    config = run_config(run)
    if trainer is None:
        return {"model": config.model, **{f"model.{key}": value for key, value in config.model_options.items()}}
    return {**flat(trainer.config()), "step": checkpoint_step(run, trainer)}


def _names(
    methods: Mapping[str, Settings], runs: Mapping[str, Mapping[Column, Sequence[Labelled]]], given: Mapping[Path, str]
) -> dict[str, str]:
    """Return a different label for each row: that it was given, or its objective or model and how it differs."""
    bases: dict[str, str] = {}
    for key, settings in methods.items():
        everything = [run for named in runs[key].values() for run, _ in named]
        labels = [label for run in everything if (label := _given(run, given)) is not None]
        bases[key] = labels[0] if labels else _base(settings, everything[0])
    found: dict[str, str] = {}
    for key, base in bases.items():
        same = [other for other, name in bases.items() if name == base]
        found[key] = base if len(same) == 1 else f"{base} ({', '.join(_differences(key, same, methods))})"
    repeated = Counter(found.values())
    return {
        key: name if repeated[name] == 1 else f"{name} #{list(found).index(key) + 1}" for key, name in found.items()
    }


def _given(run: RunReader, given: Mapping[Path, str]) -> str | None:
    trainer = trainer_of(run)
    own = given.get(run.folder.resolve())
    return own if own is not None or trainer is None else given.get(trainer.folder.resolve())


def _base(settings: Settings, run: RunReader) -> str:
    objective = settings.get("objective.id", settings.get("objective"))
    model = model_of(run)
    return str(objective) if objective is not None else str(model) if model is not None else "?"


def _differences(key: str, same: Sequence[str], methods: Mapping[str, Settings]) -> Iterator[str]:
    """Yield at most three settings in which rows of one name differ."""
    differing = differing_settings([methods[other] for other in same])
    for name in differing[:3]:
        value = methods[key].get(name)
        yield f"{name.rpartition('.')[2]} {value if value is not None else 'not set'}"


def differing_settings(methods: Sequence[Settings]) -> list[str]:
    """Return the names of the settings that are not equal in all methods."""
    names = dict.fromkeys(name for settings in methods for name in settings)
    return [name for name in names if len({str(settings.get(name)) for settings in methods}) > 1]


# --- values -----------------------------------------------------------------------------------------------------


def values_of(row: Row, column: Column, measure: Callable[[TaskSamples], Mapping[str, float]]) -> Values | None:
    """Return the values of a row on a benchmark, by problem and run; None where it has none."""
    found = row.samples(column)
    clusters = {problem: family for samples in found for problem, family in samples.clusters.items()}
    n_ungraded = sum(int(samples.n_ungraded.sum()) for samples in found)
    n_graded = sum(samples.n_samples for samples in found) - n_ungraded
    values = Values.of([measure(samples) for samples in found], clusters, n_graded, n_ungraded)
    if values is None:
        return None
    return replace(values, is_complete=all(run.status == "done" for run in row.runs[column]))
