"""The module that verl imports in every process of a run: it registers our names, and raises where they can't be.

Found by verl through the entry point `verl.plugins`, and named in VERL_USE_EXTERNAL_MODULES by `harness train`, because
verl only logs an import error of an entry point. Without a run of ours it does nothing.
"""

from __future__ import annotations

import os
from typing import Any

from harness.trainers.backends.verl.run import RUN_VARIABLE, TRAINER_MODE, run_config


def register() -> None:
    """Register the trainer, and names that keep verl from computing advantages or losses of its own."""
    from verl.trainer.ppo.core_algos import register_adv_est, register_policy_loss

    import harness.trainers.backends.verl.trainer  # noqa: F401  # registers itself

    run_config()  # an unknown objective is an error here, and not in the first step
    register_adv_est(TRAINER_MODE)(_refused)
    register_policy_loss(TRAINER_MODE)(_refused)


def _refused(*_: Any, **__: Any) -> Any:
    raise RuntimeError(
        "verl computes advantages or a loss of its own, and this run's are the objective's: set "
        f"trainer.v1.trainer_mode = {TRAINER_MODE}, or start it by `harness train --backend verl`"
    )


def registered() -> dict[str, bool]:
    """Return which of our names this process knows; for the check before a run."""
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY
    from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY

    known = {
        "trainer": TRAINER_REGISTRY,
        "advantage estimator": ADV_ESTIMATOR_REGISTRY,
        "policy loss": POLICY_LOSS_REGISTRY,
    }
    return {name: TRAINER_MODE in registry for name, registry in known.items()}


if RUN_VARIABLE in os.environ:
    register()
