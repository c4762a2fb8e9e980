"""Reference pages of the recipes and of the presets that come with the package."""

from __future__ import annotations

from pathlib import Path

from docs_site.markdown import block, code, collapsed, page, section, table
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
on a laptop.
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
        f"[`{task}`](tasks.md#{task})",
    ]


def presets_page() -> str:
    parts = [section(f"{code(name)} {{ #{name} }}", *_preset(name)) for name in presets.preset_files()]
    return page("Presets", PRESETS.strip(), *parts)


def _preset(name: str) -> list[str]:
    first, _, rest = presets.describe(name).partition("\n")
    paper, _, values = rest.partition("\n\n")
    return [first.partition(": ")[2] + ".", f"Source: {paper}.", block(values)]
