"""Reference pages of the recipes and of the presets that come with the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from docs_site.markdown import block, code, collapsed, escaped, page, section, table, toml_value
from harness.core import config as configs
from harness.core.recipes import recipes
from harness.evaluation import presets

RECIPES = """
A recipe is a TOML file with all settings of a training run. `harness train NAME` runs one, `harness show NAME` prints
it, and `--set section.key=value` changes a key. A file that begins with `extends` holds only what differs from another
recipe; `harness show NAME` prints it in full.

The runs of the FlowRL paper, and its baselines in the same settings, are `flowrl-`, `grpo-`, `ppo-` and `reinforce_pp-`
with `math-7b`, `math-32b` and `code-7b`. Each line of such a recipe cites its source. Later methods have one or two
recipes of that form. `reinforce`, `trpo`, `kimi`, `tb`, `vargrad_tb`, `for` and `tba` have a countdown recipe only:
their papers use other models and data, or give no settings. The countdown recipes use the bundled 1.4 MB model and run
on a laptop; so do the recipes of `countdown_steps`, `steps-METHOD`.
"""
PRESETS = """
A preset is the complete protocol of a published evaluation: prompt, sampling, token budget, grader and metrics. Use one
with `harness eval MODEL --tasks ... --preset NAME`. Each value names its source.
[Published protocols](../how-to/presets.md) explains how flags and presets combine.
"""


def recipes_page() -> str:
    overview = table(["recipe", "objective", "model", "task"], (_row(name, path) for name, path in recipes().items()))
    files = [collapsed(name, block(path.read_text(encoding="utf-8"), "toml")) for name, path in recipes().items()]
    return page("Recipes", RECIPES.strip(), overview, section("The files", *files))


def _row(name: str, path: Path) -> list[str]:
    tree = configs.read_toml(path)
    objective, task = tree["objective"]["id"], tree["task"]["id"]
    return [
        code(name),
        f"[`{objective}`](objectives.md#{objective})",
        code(tree["model"]["path"]),
        f"[`{task}`](tasks.md#{_anchor(task)})",
    ]


def presets_page() -> str:
    parts = [section(f"{code(name)} {{ #{name} }}", *_preset(name)) for name in presets.preset_files()]
    return page("Presets", PRESETS.strip(), *parts)


def _preset(name: str) -> list[str]:
    preset = presets.read_preset(name)
    parts = [f"{preset.title}. Source: {preset.paper}.", "For every task:", _sourced(preset.run)]
    for group in preset.parts.values():
        parts += [f"For {_tasks(group.tasks)}:", _sourced({**group.options, **group.settings})]
        if group.also:
            parts.append(f"The source does not evaluate {_tasks(group.also)}; the preset asks them in the same way.")
        if group.deviations:
            parts += ["Differs from the source:", "\n".join(f"- {escaped(text)}" for text in group.deviations)]
    return parts


def _tasks(ids: Sequence[str]) -> str:
    return ", ".join(f"[`{task}`](tasks.md#{_anchor(task)})" for task in ids)


def _sourced(values: Mapping[str, presets.Sourced]) -> str:
    rows = ([code(key), code(toml_value(item.value)), escaped(item.source)] for key, item in values.items())
    return table(["key", "value", "source"], rows)


def _anchor(task: str) -> str:
    """Return the anchor of a task's section; the members of a family have that of the family."""
    return task.partition(":")[0]
