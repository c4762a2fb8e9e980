"""The objective of a recipe as an installable module, for launchers of other trainers: `harness export FORM --recipe`.

verl gets the settings, the prompts and a plug-in of `harness train --backend verl`. prime-rl gets an environment of
verifiers and a loss; its own algorithm computes the advantages.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from harness.core import config as configs
from harness.core.config import Tree, merge, read_toml
from harness.core.errors import ConfigError
from harness.core.recipes import find_config
from harness.interop import verifiers_export
from harness.interop.problems import ProblemsConfig, new_folder
from harness.interop.verifiers_export import PROJECT, project_text
from harness.runs.jsonl import write_whole

MODULE = "harness_objective"
COMMAND = "command.sh"
PRIME_RL = "prime-rl.toml"

_VERL_CODE = '''"""Made by `harness export verl --recipe {recipe}`, for verl's entry point `verl.plugins`.

Registers trainer, engine and loss of the objective {objective!r} in every process that imports verl.
"""

import os

os.environ.setdefault({variable!r}, {run!r})

from harness.trainers.backends.verl import plugin  # noqa: E402

plugin.register()
'''

_PRIME_RL_CODE = '''"""Made by `harness export prime-rl --recipe {recipe}`: the custom loss of prime-rl's trainer."""

from harness.trainers.token_loss import token_loss

OBJECTIVE = {objective!r}


def loss(inputs):
    from prime_rl.trainer.rl.loss import LossOutputs

    value, metrics = token_loss(
        OBJECTIVE,
        inputs.trainer_logprobs,
        inputs.inference_logprobs,
        inputs.advantages,
        inputs.loss_mask,
    )
    return LossOutputs(loss=value, metrics=metrics)
'''


def export_verl(recipe: str, changes: Tree, folder: Path) -> list[str]:
    """Write prompts, settings, a command and a plug-in of verl. Return the names of the files."""
    setup = _setup(recipe, merge({"backend": {"id": "verl"}}, changes), folder)
    backend = setup.backend
    package = new_folder(folder) / MODULE
    package.mkdir()
    settings, environment = backend.export(setup, package.resolve())
    variable = next(name for name in environment if name.startswith("HARNESS_"))
    code = _VERL_CODE.format(
        recipe=recipe, objective=setup.config.objective.id, variable=variable, run=environment[variable]
    )
    write_whole(package / "__init__.py", code)
    entry_point = f'[project.entry-points."verl.plugins"]\n{MODULE} = "{MODULE}"\n'
    write_whole(folder / PROJECT, project_text(MODULE, 'dependencies = ["flowrl-harness[verl]"]', entry_point))
    lines = ["export VERL_USE_EXTERNAL_MODULES=" + MODULE, "python -m verl.trainer.main_ppo"]
    command = " \\\n  ".join([lines[1], *map(shlex.quote, settings)])
    write_whole(folder / COMMAND, "\n".join(["#!/bin/sh", lines[0], command + ' "$@"', ""]))
    return [PROJECT, COMMAND, *(f"{MODULE}/{path.name}" for path in sorted(package.iterdir()))]


def export_prime_rl(recipe: str, changes: Tree, problems: Tree, folder: Path) -> list[str]:
    """Write an environment of verifiers, a loss, and the part of prime-rl's config that names both."""
    setup = _setup(recipe, changes, folder)
    from harness.trainers.token_loss import check

    check(setup.config)
    objective = json.dumps(configs.to_tree(setup.config.objective))
    chosen: Tree = {"tasks": [configs.to_tree(setup.config.task)], "split": "train", **problems}
    if setup.config.grader is not None:
        chosen["grader"] = configs.to_tree(setup.config.grader)
    made = verifiers_export.export(configs.parse(ProblemsConfig, chosen), folder)
    package = folder / MODULE
    package.mkdir()
    write_whole(package / "__init__.py", _PRIME_RL_CODE.format(recipe=recipe, objective=objective))
    text = (folder / PROJECT).read_text(encoding="utf-8")
    text = text.replace(
        f'packages = ["{verifiers_export.MODULE}"]', f'packages = ["{verifiers_export.MODULE}", "{MODULE}"]'
    )
    write_whole(folder / PROJECT, text)
    write_whole(folder / PRIME_RL, _prime_rl_config(setup))
    return [*made, f"{MODULE}/__init__.py", PRIME_RL]


def _prime_rl_config(setup: Any) -> str:
    config = setup.config
    return f"""# The part of prime-rl's config that `harness export prime-rl` decides; the rest is yours.
max_steps = {config.loop.steps}

[trainer.loss]
type = "custom"
import_path = "{MODULE}.loss"

[trainer.optim]
lr = {config.optimizer.lr}
weight_decay = {config.optimizer.weight_decay}
max_norm = {config.optimizer.grad_clip}

[orchestrator]
batch_size = {config.loop.prompts_per_step * config.loop.samples_per_prompt}
group_size = {config.loop.samples_per_prompt}

[[orchestrator.train.source]]
name = "{config.task.id}"

[orchestrator.train.source.env.taskset]
id = "{verifiers_export.MODULE}"

[orchestrator.train.source.env.agent.harness]
id = "null"
"""


def _setup(recipe: str, changes: Tree, folder: Path) -> Any:
    """Return the run that a recipe names, resolved and checked."""
    from harness.trainers.config import TrainConfig
    from harness.trainers.setup import build_setup

    tree = merge(read_toml(find_config(recipe)), changes)
    setup = build_setup(configs.parse(TrainConfig, tree), folder)
    if setup.objective.source == "demonstrations":
        raise ConfigError(f"{recipe} learns from demonstrations, and these trainers sample")
    return setup
