"""The protocol card of a task in a run: how it was prompted, sampled and graded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from harness.core.types import Sampling
from harness.reports.run_config import RunConfig, options_text, run_config, subtable
from harness.reports.run_facts import (
    UNKNOWN,
    Cell,
    control_of,
    facts_of,
    import_of,
    model_of,
    sampling_setting,
    sandbox_of,
)
from harness.runs.folder import RunReader

SAMPLING = tuple(option.name for option in fields(Sampling))
CARD = {
    "title": "task",
    "source": "source",
    "licence": "licence",
    "paper": "paper",
    "released": "data released",
    "fingerprint": "data fingerprint",
    "rows": "data rows",
    "as_on_record": "data as recorded",
    "prompt": "prompt form",
    "tests": "tests",
    "undecided": "left out, as its tests can't decide",
}
PROMPT = ("user", "system", "plain")
"""Changes of the task's prompts that a config can set."""
PACKAGES = ("python", "torch", "transformers", "vllm", "math-verify")


def card(run: RunReader, task: str) -> dict[str, Cell]:
    """Return every setting by name, always with the same names. None is what the run folder does not record."""
    config, record, facts = run_config(run), run.record, facts_of(run, task)
    imported = import_of(run)
    return {
        **{name: _cell(facts.get(key)) for key, name in CARD.items()},
        "preset": config.preset,
        "deviations": _joined(config.deviations),
        "control": _control(control_of(run), task),
        "imported from": _files(imported),
        "not in those files": _joined(imported.get("unknown", [])),
        "task options": _options(config, task, without=("prompt",) if imported else ()),
        "chat template": _cell(config.model_options.get("chat_template")),
        **{f"prompt {key}": _text(config.prompt_of(task, key)) for key in PROMPT},
        "split": config.split,
        "problems graded": max((estimate.n_problems for estimate in run.estimates().get(task, [])), default=None),
        "limit": _limit(config),
        "problem seed": config.problem_seed,
        **{key.replace("_", " "): _cell(sampling_setting(run, task, key)) for key in SAMPLING},
        "samples a problem": config.n if config.until is None else f"up to {config.n}, until ±{config.until:g}",
        "grader": grader_of(run, task),
        "sandbox": sandbox_of(facts),
        "engine": str(config.engine) if config.engine is not None else None,
        "model": model_of(run),
        "model released": _cell(config.model_options.get("released")),
        "model fingerprint": facts_of(run, "model").get("fingerprint"),
        "model settings": options_text(config.model_options) if not imported else None,
        "seed": UNKNOWN if imported else config.seed,
        "code": record.code,
        **{package: record.environment.get(package) for package in PACKAGES},
    }


def _files(imported: Mapping[str, Any]) -> str | None:
    """Return the format, the tool and the files of imported completions; None if they were not imported."""
    if not imported:
        return None
    return f"{imported['format']} (tool: {imported['tool']}): {_joined(imported['files'])}"


def _options(config: RunConfig, task: str, *, without: Sequence[str]) -> str | None:
    """Return a task's options as text. Imported completions were not asked for with its prompt."""
    chosen = config.task(task)
    if chosen is None:
        return None
    return options_text({key: value for key, value in chosen.options.items() if key not in without})


def _limit(config: RunConfig) -> Cell:
    if config.problems:
        return f"only {_joined(config.problems)}"
    return "none" if config.limit is None else config.limit


def _text(value: str | bool | None) -> str | None:
    """Return a prompt in one line, as a quoted text."""
    return repr(value) if value is not None else None


def _control(mark: Mapping[str, Any], task: str) -> str | None:
    """Return which control a run is, and how its prompt or temperature was chosen; None if it is not a control."""
    kind = mark.get("kind")
    if kind is None or kind == "selection":
        return f"none; it chose for {mark.get('for')}" if mark else None
    names = " and ".join([str(kind), *map(str, mark.get("also", []))])
    rates, tried = subtable(mark, "rates"), subtable(mark, "tried")
    if task in rates:
        size = f"{subtable(mark, 'problems').get(task)} {mark.get('split')} problems x {mark.get('samples')} samples"
        return f"{names}: {subtable(mark, 'chosen').get(task)} of {len(rates[task])} prompts on {size}"
    if task in tried:
        size = f"{mark.get('problems')} {subtable(mark, 'split').get(task)} problems x {mark.get('samples')} samples"
        return f"{names}: {len(tried[task])} temperatures on {size}"
    return names


def _joined(texts: Sequence[str]) -> str | None:
    return "; ".join(texts) if texts else None


def grader_of(run: RunReader, task: str) -> Cell:
    """Return the recorded grader; in folders that do not name it, all that gave verdicts."""
    recorded: Cell = facts_of(run, task).get("grader")
    if recorded is not None:
        return recorded
    graders = sorted(run.graders(task))
    return ", ".join(graders) if graders else None


def _cell(value: Any) -> Cell:
    return value if value is None or isinstance(value, (str, int, float)) else str(value)
