"""The objective of a recipe as an installable module, for launchers of other trainers: `harness export FORM --recipe`.

verl gets the settings, the prompts and a plug-in of `harness train --backend verl`. TRL gets prompts, a reward, a
subclass of its trainer and a script that starts it. prime-rl gets an environment of verifiers and a loss; its own
algorithm computes the advantages.
"""

from __future__ import annotations

import itertools
import json
import shlex
from pathlib import Path
from typing import Any

from harness.core import config as configs
from harness.core.config import Tree, merge, read_toml
from harness.core.errors import ConfigError
from harness.core.recipes import find_config
from harness.interop import trl_export, verifiers_export
from harness.interop.problems import ProblemsConfig, new_folder
from harness.interop.verifiers_export import PROJECT, project_text
from harness.runs.jsonl import write_whole

MODULE = "harness_objective"
COMMAND = "command.sh"
PRIME_RL = "prime-rl.toml"
RECIPE = "recipe.toml"
SCRIPT = "train.py"

_VERL_CODE = '''"""Made by `harness export verl --recipe {recipe}`, for verl's entry point `verl.plugins`.

Registers trainer, engine and loss of the objective {objective!r} in every process that imports verl.
"""

import os

os.environ.setdefault({variable!r}, {run!r})

from harness.trainers.backends.verl import plugin  # noqa: E402

plugin.register()
'''

_TRL_CODE = '''"""Made by `harness export trl --recipe {recipe}`: TRL's trainer with the objective {objective!r}.

`Trainer` takes what GRPOTrainer takes. `arguments` returns the arguments of GRPOConfig that follow from {file}.
"""

from pathlib import Path

from harness.trainers.backends.trl.grpo_arguments import arguments_of, read_recipe
from harness.trainers.backends.trl.recipe_trainer import RecipeTrainer

RECIPE = read_recipe(Path(__file__).with_name("{file}"))


class Trainer(RecipeTrainer):
    recipe = RECIPE


def arguments(**changes):
    return arguments_of(RECIPE, **changes)
'''

_TRL_SCRIPT = '''"""Made by `harness export trl --recipe {recipe}`. On several GPUs: accelerate launch {file}"""

from pathlib import Path

from datasets import load_dataset
{imports}from trl import GRPOConfig

from harness.models.loading import resolve
from harness_objective import Trainer, arguments
from reward import reward

HERE = Path(__file__).parent

trainer = Trainer(
    model=resolve({model}),
    args=GRPOConfig(**arguments(output_dir="run", logging_steps=1, save_steps={save_steps}, report_to="none")),
    reward_funcs=reward,
    train_dataset=load_dataset("json", data_files=str(HERE / "{rows}"), split="train"),
{adapters})
trainer.train()
trainer.save_model()
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
    setup = _setup(recipe, merge({"backend": {"id": "verl"}}, changes), folder, "verl")
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


def export_trl(recipe: str, changes: Tree, problems: Tree, folder: Path) -> list[str]:
    """Write prompts, a reward, a package with TRL's trainer, and a script that trains with them."""
    setup = _setup(recipe, changes, folder)
    config = configs.parse_plugin("backends", "trl").build().export(setup)
    n_drawn = config.loop.steps * config.loop.prompts_per_step
    made = trl_export.export(_train_problems(config, {"limit": _n_different(setup.task, n_drawn), **problems}), folder)
    package = folder / MODULE
    package.mkdir()
    named = {"recipe": recipe, "objective": config.objective.id}
    write_whole(package / "__init__.py", _TRL_CODE.format(**named, file=RECIPE))
    write_whole(package / RECIPE, configs.to_toml(config))
    write_whole(folder / PROJECT, project_text(MODULE, 'dependencies = ["flowrl-harness[trl]"]', ""))
    write_whole(folder / SCRIPT, _trl_script(recipe, config, made[0]))
    return [*made, PROJECT, f"{MODULE}/__init__.py", f"{MODULE}/{RECIPE}", SCRIPT]


def _trl_script(recipe: str, config: Any, rows: str) -> str:
    lora, imports, adapters = config.lora, "", ""
    if lora.rank > 0:
        modules = json.dumps(lora.target_modules if lora.target_modules else "all-linear")
        imports = "from peft import LoraConfig\n"
        adapters = f"    peft_config=LoraConfig(r={lora.rank}, lora_alpha={lora.alpha}, target_modules={modules}),\n"
    n_updates = config.loop.minibatches_per_step * config.loop.epochs
    model = Path(config.model.path)  # of a bundled model, the hub or a folder
    return _TRL_SCRIPT.format(
        recipe=recipe,
        file=SCRIPT,
        model=json.dumps(str(model.resolve()) if model.exists() else config.model.path),
        rows=rows,
        save_steps=config.checkpoint.interval(config.loop.steps) * n_updates,
        imports=imports,
        adapters=adapters,
    )


def _n_different(task: Any, most: int) -> int:
    """Return how many problems of the train split come before the first one again, of the first `most`."""
    seen: set[str] = set()
    for problem in itertools.islice(task.problems("train", 0), most):
        if problem.id in seen:
            break
        seen.add(problem.id)
    return len(seen)


def export_prime_rl(recipe: str, changes: Tree, problems: Tree, folder: Path) -> list[str]:
    """Write an environment of verifiers, a loss, and the part of prime-rl's config that names both."""
    setup = _setup(recipe, changes, folder)
    from harness.trainers.token_loss import check

    check(setup.config)
    objective = json.dumps(configs.to_tree(setup.config.objective))
    made = verifiers_export.export(_train_problems(setup.config, problems), folder)
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


def _train_problems(config: Any, problems: Tree) -> ProblemsConfig:
    chosen: Tree = {"tasks": [configs.to_tree(config.task)], "split": "train", **problems}
    if config.grader is not None:
        chosen["grader"] = configs.to_tree(config.grader)
    return configs.parse(ProblemsConfig, chosen)


def _setup(recipe: str, changes: Tree, folder: Path, backend: str = "loop") -> Any:
    """Return the run that a recipe names, resolved and checked."""
    from harness.trainers.config import TrainConfig
    from harness.trainers.setup import build_setup

    tree = merge(read_toml(find_config(recipe)), changes)
    config = configs.parse(TrainConfig, tree)
    if config.backend.id != backend:  # before that backend asks for its extra
        raise ConfigError(
            f"[backend] chooses the trainer {config.backend.id!r}, and this export is for another: leave it out"
        )
    setup = build_setup(config, folder)
    if setup.objective.source == "demonstrations":
        raise ConfigError(f"{recipe} learns from demonstrations, and these trainers sample")
    return setup
