"""Reference pages of the plug-ins: tasks, engines, graders, metrics, objectives, advantages, backends, tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from docs_site.fields import settings_of
from docs_site.markdown import block, cell, code, docstring_of, escaped, page, section, table
from docs_site.methods import methods_table
from harness.core import config as configs
from harness.core import registry

INTRODUCTIONS = {
    "tasks": """
Benchmarks and training sets. Select them with `--tasks ID,ID` in `harness eval` or `[task] id = "ID"` in a training
recipe. `harness show ID` prints the same card with all errata, `harness show ID --problem 0` the prompt of one problem.
""",
    "engines": """
Engines generate completions. Select one with `--engine ID` or `[engine] id = "ID"`.
""",
    "graders": """
Graders turn a completion into a verdict. Each task has its own. `--grader ID` replaces it, and
`harness grade RUN --grader ID` adds the verdicts of another one to a finished run.
[Grading](../explanations/grading.md) explains how they decide.
""",
    "metrics": """
Metrics turn verdicts into estimates with intervals. Select them with `--set 'metrics=["ID", "ID"]'`.
[Statistics](../explanations/statistics.md) defines each number and its interval.
""",
    "objectives": """
Losses. Select one with `[objective] id = "ID"`, or start from a [recipe](recipes.md). Formulas are to be minimised.
`harness show ID` prints the same text.
""",
    "advantages": """
How rewards become advantages. The objectives `grpo`, `gspo`, `gmpo`, `cispo`, `trpo` and `reinforce` take any of them:
`advantage = "ID"` in `[objective]`, or its options in `[objective.advantage]`. `harness show advantages/ID` prints the
same text. G is the number of completions of a prompt, c the number of right ones, r a completion's reward.
""",
    "backends": """
Trainers that run the steps of `harness train`. Select one with `--backend ID` or `[backend] id = "ID"`. Each calls the
same objectives and leaves the same run folder.
""",
    "tables": """
Tables of a report. `harness report RUNS --table ID` builds only that one; the default is all of them.
""",
}


def plugin_page(kind_name: str) -> str:
    """Return the page of one kind of plug-in."""
    entries = registry.entries(kind_name)
    overview = table(
        [registry.KINDS[kind_name].noun, "summary"],
        ([f"[`{plugin_id}`](#{plugin_id})", escaped(entry.description)] for plugin_id, entry in entries.items()),
    )
    parts = [_plugin(kind_name, plugin_id) for plugin_id in entries]
    extra = methods_table() if kind_name == "objectives" else ""
    return page(kind_name.capitalize(), INTRODUCTIONS[kind_name].strip(), overview, extra, *parts)


def _plugin(kind_name: str, plugin_id: str) -> str:
    plugin = registry.load(kind_name, plugin_id)
    summary, rest = docstring_of(_module(kind_name, plugin_id))
    parts = [escaped(summary), _prose(rest), _options(plugin)]
    if kind_name == "tasks":
        parts += _task_parts(plugin_id)
    return section(f"{code(plugin_id)} {{ #{plugin_id} }}", *parts)


def _module(kind_name: str, plugin_id: str) -> Any:
    import importlib

    return importlib.import_module(registry.entries(kind_name)[plugin_id].module.partition(":")[0])


def _prose(text: str) -> str:
    """Return the rest of a docstring: indented passages as blocks, the others as Markdown."""
    return "\n\n".join(_passages(text))


def _passages(text: str) -> Iterator[str]:
    indented: list[str] = []
    for paragraph in text.split("\n\n"):
        is_indented = paragraph.startswith("    ") and all(
            line.startswith("    ") for line in paragraph.splitlines() if line
        )
        if indented and not is_indented:
            yield block("\n\n".join(indented))
            indented = []
        if is_indented:
            indented.append("\n".join(line[4:] for line in paragraph.splitlines()))
        elif paragraph.strip():
            yield escaped(paragraph)
    if indented:
        yield block("\n\n".join(indented))


def _options(plugin: Any) -> str:
    rows = [
        [code(setting.key), setting.default, cell(setting.values), escaped(setting.meaning)]
        for setting in settings_of(plugin.Config)
    ]
    if not any(row[3] for row in rows):
        return table(["option", "default", "values"], (row[:3] for row in rows))
    return table(["option", "default", "values", "meaning"], rows)


# --- tasks --------------------------------------------------------------------------------------------------------


def _task_parts(task_id: str) -> list[str]:
    """Return the card of a task, or what a family of tasks says instead."""
    plugin = registry.load("tasks", task_id)
    if "member" in vars(plugin) or any(map(configs.is_required, dataclasses.fields(plugin.Config))):
        return []
    task = configs.parse_plugin("tasks", {"id": task_id}).build()
    card = task.card
    facts = {
        "title": card.title,
        "source": card.source,
        "licence": card.licence,
        "paper": card.paper,
        **{f"{split} split": size for split, size in card.sizes.items()},
        "grader": _grader_of(task),
        "sampling": _sampling(task.sampling),
        "errata": f"{len(card.errata)} problems" if card.errata else "",
        "not decided by tests alone": f"{len(card.exclusions)} problems" if card.exclusions else "",
        "several approaches": _share(card.several_approaches),
        "note": card.notes,
    }
    rows = [[name, escaped(text)] for name, text in facts.items() if text]
    return [table(["card", ""], rows), _prompts(task), _fields(card.fields)]


def _share(share: float | None) -> str:
    return f"{share:.1%} of the problems are known to admit more than one" if share is not None else ""


def _grader_of(task: Any) -> str:
    grader_id = registry.id_of("graders", type(task.grader))
    return f"[`{grader_id}`](graders.md#{grader_id})"


def _sampling(sampling: Any) -> str:
    values = {field.name: getattr(sampling, field.name) for field in dataclasses.fields(sampling)}
    return ", ".join(
        f"{name} {value}" for name, value in values.items() if value not in (None, (), 0) or name == "temperature"
    )


def _prompts(task: Any) -> str:
    prompts: Mapping[str, Any] = getattr(task, "PROMPTS", {})
    return table(["prompt", "source"], ([code(name), escaped(prompt.source)] for name, prompt in prompts.items()))


def _fields(fields: Mapping[str, str]) -> str:
    return table(["field", "meaning"], ([code(name), escaped(text)] for name, text in fields.items()))
