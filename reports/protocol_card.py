"""The protocol card of a task in a run: what was asked, drawn and graded how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.reports.run_facts import Cell, model_of, plugin_id, plugin_options, sampling, setting, task_table
from harness.runs.folder import RunReader
from harness.runs.jsonl import read_lines

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
    "tests": "tests",
    "undecided": "left out, as its tests can't decide",
}
PACKAGES = ("python", "torch", "transformers", "vllm", "math-verify")


def card(run: RunReader, task: str) -> dict[str, Cell]:
    """Every setting by name, always the same names; None is what the run's folder does not tell."""
    config, record = run.config(), run.record
    return {
        **{name: _text(setting(record.data, task, key)) for key, name in CARD.items()},
        "preset": setting(config, "preset"),
        "deviations": _listed(setting(config, "deviations")),
        "task options": plugin_options(task_table(run, task)),
        "split": setting(config, "split"),
        "problems graded": max((estimate.n_problems for estimate in run.estimates().get(task, [])), default=None),
        "limit": _no_limit(config),
        "problem seed": setting(config, "problem_seed"),
        **{key.replace("_", " "): _text(sampling(run, task, key)) for key in SAMPLING},
        "samples a problem": setting(config, "n"),
        "grader": grader_of(run, task),
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
    chosen = _listed(setting(config, "problems"))
    return f"only {chosen}" if chosen is not None else "none" if limit is None else limit


def _listed(texts: Sequence[str] | None) -> str | None:
    return "; ".join(texts) if texts else None


def _model_settings(config: Mapping[str, Any]) -> str | None:
    model = setting(config, "model")
    return plugin_options({key: value for key, value in model.items() if key != "path"}) if model is not None else None


def _with_options(table: Any) -> str | None:
    name, options = plugin_id(table), plugin_options(table)
    return name if options is None else f"{name} ({options})"


def grader_of(run: RunReader, task: str) -> Cell:
    """The grader on record; in folders that do not name it, all that gave verdicts."""
    recorded: Cell = setting(run.record.data, task, "grader")
    if recorded is not None:
        return recorded
    rows = read_lines(run.folder / "verdicts.jsonl")
    graders = sorted({row["grader"] for row in rows if row["task"] == task})
    return ", ".join(graders) if graders else None


def _text(value: Any) -> Cell:
    return value if value is None or isinstance(value, (str, int, float)) else str(value)
