"""The run as every process of verl reads it: from an environment variable that Ray passes on to its workers."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

from harness.core import config as configs
from harness.core.errors import ConfigError
from harness.trainers.config import TrainConfig

MODEL_TYPE = "harness_lm"
"""The engine's name in verl's registry."""
TRAINER_MODE = "harness"
"""The name of the trainer, the advantage estimator and the policy loss in verl's registries."""
RUN_VARIABLE = "HARNESS_VERL_RUN"


def run_variable(config: TrainConfig) -> str:
    """Return the text of the variable."""
    return json.dumps(configs.to_tree(config))


@functools.cache
def run_config() -> TrainConfig:
    """Return the config of the run that this process works for."""
    text = os.environ.get(RUN_VARIABLE)
    if text is None:
        raise ConfigError(
            f"{RUN_VARIABLE} is not set in this process of verl, so it knows no objective: `harness train --backend "
            "verl` sets it, and a launcher of your own takes it from ray_kwargs.ray_init.runtime_env.env_vars"
        )
    return configs.parse(TrainConfig, json.loads(text))


def objective_file(checkpoint: Path) -> Path:
    """Return where a checkpoint of verl keeps the parameters of the objective."""
    return checkpoint / "harness_objective.pt"
