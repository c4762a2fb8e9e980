"""The driver's process: `python -m harness.trainers.backends.verl.main SETTINGS` composes the config and runs verl.

SETTINGS is a JSON list of hydra overrides, which `harness train --backend verl` writes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def compose(overrides: Sequence[str]) -> Any:
    """Return verl's config, composed by hydra from verl's own files and checked as verl's main does."""
    from hydra import compose as compose_config
    from hydra import initialize_config_module
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    with initialize_config_module(config_module="verl.trainer.config", version_base=None):
        config = compose_config("ppo_trainer", overrides=list(overrides))
    validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
    return config


def main(settings: Path) -> None:
    from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
    from verl.utils.device import auto_set_device

    config = compose(json.loads(settings.read_text(encoding="utf-8")))
    auto_set_device(config)
    run_ppo(config, task_runner_class=TaskRunnerV1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
