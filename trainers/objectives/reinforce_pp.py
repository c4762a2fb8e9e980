"""REINFORCE++: PPO's clipped surrogate without a critic, advantages normalised over the whole batch.

Paper: Hu 2025, arXiv 2501.03262. To be minimised, mean over the tokens of the minibatch:

    - min(rho A_t, clip(rho, 1 - clip_low, 1 + clip_high) A_t)
    A_t = whiten( sum_{s >= t} gamma^(s - t) r_s )

A_t is the advantage `batch`, which has the formula in full. There is no mean over a group, so one completion of a
prompt is enough.

`baseline = "group_mean"` is REINFORCE++-baseline. It differs by settings only, so it has a recipe
(`countdown-reinforce_pp_baseline`) and no file of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.core.config import PluginChoice, parse_plugin
from harness.core.protocols import PolicyGradient
from harness.core.tensors import Advantages, Batch, LossResult, PolicyOutputs
from harness.trainers.functional import ClipConfig, clipped_policy_gradient


class ReinforcePlusPlus(PolicyGradient):
    @dataclass(frozen=True, slots=True)
    class Config(ClipConfig):
        baseline: Literal["none", "group_mean"] = "none"
        gamma: float = 1.0

        def __post_init__(self) -> None:
            ClipConfig.__post_init__(self)
            _whitened(self)  # has the same bounds

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config, _whitened(config).build())

    def loss(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Advantages) -> LossResult:
        return clipped_policy_gradient(batch, current, old, advantages.values, self.config)


def _whitened(config: ReinforcePlusPlus.Config) -> PluginChoice:
    """Return the advantage of these options, which an objective with the option `advantage` may choose as well."""
    options = {"id": "batch", "baseline": config.baseline, "gamma": config.gamma}
    return parse_plugin("advantages", options, "objective")


OBJECTIVE = ReinforcePlusPlus
