"""The protocol card of each task: what was asked, drawn and graded how, and where runs differ in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.journal import read_lines
from harness.core.protocols import TableBuilder
from harness.core.store import RunView
from harness.core.types import Table
from harness.reports.runs import (
    Cell,
    Labelled,
    labelled,
    model_of,
    plugin_id,
    plugin_options,
    sampling,
    setting,
    task_ids,
    task_table,
)

DIFFERS = "differs"
SAMPLING = ("temperature", "top_p", "top_k", "max_tokens", "stop")
CARD = {
    "title": "task",
    "source": "source",
    "licence": "licence",
    "paper": "paper",
    "fingerprint": "data fingerprint",
    "rows": "data rows",
    "as_on_record": "data as on record",
    "prompt": "prompt form",
}
PACKAGES = ("python", "torch", "transformers", "vllm", "math-verify")


class Protocol:
    """One table a task: a setting that is equal in all its runs stands once, one that differs stands by run."""

    @dataclass(frozen=True, slots=True)
    class Config:
        pass

    def __init__(self, config: Config) -> None:
        self.config = config

    def build(self, runs: Sequence[RunView]) -> Sequence[Table]:
        named = labelled(runs, "eval")
        tasks = dict.fromkeys(task for run, _ in named for task in task_ids(run))
        return [_table(task, [(run, label) for run, label in named if task in task_ids(run)]) for task in tasks]


def _table(task: str, named: Sequence[Labelled]) -> Table:
    cards = [_card(run, task) for run, _ in named]
    rows = [(name, [card[name] for card in cards]) for name in cards[0]]
    if all(_is_one(values) for _, values in rows):
        return Table(f"Protocol: {task}", ("setting", "all runs"), tuple((name, values[0]) for name, values in rows))
    cells = tuple(
        (name, values[0], *[""] * len(named)) if _is_one(values) else (name, DIFFERS, *values) for name, values in rows
    )
    return Table(f"Protocol: {task}", ("setting", "all runs", *(label for _, label in named)), cells)


def _is_one(values: Sequence[Cell]) -> bool:
    return all(value == values[0] for value in values)


def _card(run: RunView, task: str) -> dict[str, Cell]:
    """Every setting by name, always the same names; None is what the run's folder does not tell."""
    config, record = run.config(), run.record
    return {
        **{name: _text(setting(record.data, task, key)) for key, name in CARD.items()},
        "task options": plugin_options(task_table(run, task)),
        "split": setting(config, "split"),
        "problems graded": max((estimate.n_problems for estimate in run.estimates().get(task, [])), default=None),
        "limit": _no_limit(config),
        "problem seed": setting(config, "problem_seed"),
        **{key.replace("_", " "): _text(sampling(run, task, key)) for key in SAMPLING},
        "samples a problem": setting(config, "n"),
        "grader": _grader(run, task),
        "sandbox": setting(record.data, task, "judging", "sandbox"),
        "engine": _with_options(setting(config, "engine")),
        "model": model_of(run),
        "model fingerprint": setting(record.data, "model", "fingerprint"),
        "model settings": _model_settings(config),
        "seed": setting(config, "seed"),
        "code": record.code,
        **{package: setting(record.environment, package) for package in PACKAGES},
    }


def _no_limit(config: Mapping[str, Any]) -> Cell:
    # The resolved config leaves out what is None.
    limit: Cell = setting(config, "limit")
    return "none" if limit is None else limit


def _model_settings(config: Mapping[str, Any]) -> str | None:
    model = setting(config, "model")
    return plugin_options({key: value for key, value in model.items() if key != "path"}) if model is not None else None


def _with_options(table: Any) -> str | None:
    name, options = plugin_id(table), plugin_options(table)
    return name if options is None else f"{name} ({options})"


def _grader(run: RunView, task: str) -> Cell:
    """The grader on record; in folders that do not name it, all that gave verdicts."""
    recorded: Cell = setting(run.record.data, task, "grader")
    if recorded is not None:
        return recorded
    rows = read_lines(run.folder / "verdicts.jsonl")
    graders = sorted({row["grader"] for row in rows if row["task"] == task})
    return ", ".join(graders) if graders else None


def _text(value: Any) -> Cell:
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


TABLE: type[TableBuilder] = Protocol
