"""ReMax: REINFORCE whose baseline is the reward of the policy's own greedy completion.

Paper: Li et al. 2023, arXiv 2310.10505. To be minimised, mean over completions:

    - ( r(y) - r(greedy y) ) sum_t log policy(y_t)

The loop samples one greedy completion of each prompt in addition to the others, and counts its cost. One sampled
completion of a prompt is enough.

The paper subtracts the KL to the reference from the reward: that is the loop's `kl.place = "reward"`, which leaves the
greedy reward as it is, like verl's implementation. There the advantage of a token contains the KL of itself and of the
tokens after it; here that of every token contains the KL of the whole completion. The loop's overlong penalty does not
change the greedy reward either; in verl it applies to both. `surrogate = "clipped"` is for several updates a step.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.protocols import Need, Objective
from harness.core.tensors import Advantages, Batch, LossResult, PolicyOutputs
from harness.trainers.objectives.base.policy_gradient import PolicyGradientConfig, policy_gradient, requirements_of


class ReMax(Objective):
    @dataclass(frozen=True, slots=True)
    class Config(PolicyGradientConfig):
        pass

    needs: frozenset[Need] = frozenset({"greedy_reward"})

    config: Config

    def __init__(self, config: Config) -> None:
        self.config = config
        self.requires = requirements_of(config)

    def advantages(self, batch: Batch, old: PolicyOutputs) -> Advantages:  # noqa: ARG002
        assert batch.greedy_rewards is not None
        return Advantages(batch.rewards - batch.greedy_rewards, {})

    def loss(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Advantages) -> LossResult:
        return policy_gradient(batch, current, old, advantages.values, self.config)


OBJECTIVE = ReMax
