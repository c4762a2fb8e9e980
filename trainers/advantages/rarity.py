"""Credit by rarity: a right completion counts the more the fewer completions of its group are like it.

`form = "advantage"` (UARL, Hu et al. 2026, arXiv 2601.08763): GRPO's advantage of a right completion, times a power of
the size of its class C_i within the group:

    A_i = A^GRPO_i * w_i,  w_i = |C_i|^-alpha / mean of |C|^-alpha over the group's right completions

The division keeps the total credit of a group where its right rewards are equal; `keep_total = false` leaves it out.
With alpha = 1, the default, each class of a group gets the same credit. Wrong completions keep GRPO's advantage.

`form = "reward"` (DARLING, Li et al. 2025, arXiv 2509.02534): the reward is multiplied by the share of the others that
are unlike it, at least 0.1, and the advantage is without a standard deviation, as in the authors' script:

    A_i = s_i - mean s,  s_i = r_i * max( (G - |C_i|) / (G - 1), 0.1 )

`classes` decides which completions are alike. `solution` takes the task's own notion (the grader's
`details["solution"]`, exact on countdown); the papers ask a language model. `answer` takes the extracted answer. A
completion without a class is a class of its own. `shuffle` deals the classes of a group's right completions out among
them at random: a control that keeps the sizes of the classes and has nothing to do with what is alike.

Edge cases: no right completion: A = 0. All right: form `advantage` has A = 0 as in GRPO, form `reward` has not. All
right completions alike: GRPO's advantage, or 0.1 r and less its mean. Group of one: A = 0.

Recipes: `countdown-uarl`, its control `countdown-uarl_shuffled`, and `countdown-darling`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from harness.core.protocols import Advantage, Need, Requirement
from harness.core.tensors import Batch, PolicyOutputs
from harness.trainers.advantages.base.right import unit_rewards
from harness.trainers.functional import class_sizes, group_normalise, group_sum, shuffled

LEAST_SHARE = 0.1


class Rarity(Advantage):
    @dataclass(frozen=True, slots=True)
    class Config:
        form: Literal["advantage", "reward"] = "advantage"
        classes: Literal["solution", "answer"] = "solution"
        shuffle: bool = False
        alpha: float = 1.0
        keep_total: bool = True

        def __post_init__(self) -> None:
            if self.alpha <= 0:
                raise ValueError("alpha must be above 0; at 0 all classes weigh the same, which is GRPO")
            if self.form == "reward" and (self.alpha != 1 or not self.keep_total):
                raise ValueError("form = 'reward' does not use alpha and keep_total; leave them out")

    requires: frozenset[Requirement] = frozenset({"group", "unit_rewards"})

    config: Config

    def __init__(self, config: Config) -> None:
        self.config = config
        classes: Need = "solution_classes" if config.classes == "solution" else "answer_classes"
        self.needs = frozenset[Need]({classes})

    def compute(self, batch: Batch, old: PolicyOutputs) -> Tensor:  # noqa: ARG002
        rewards, ids = unit_rewards(batch), batch.group_ids
        assert batch.classes is not None
        classes = shuffled(batch.classes, ids, rewards > 0) if self.config.shuffle else batch.classes
        sizes = class_sizes(classes, ids).to(rewards.dtype)  # (B,)
        if self.config.form == "reward":
            others = group_sum(torch.ones_like(rewards), ids) - 1
            unlike = ((others + 1 - sizes) / others.clamp(min=1)).clamp(min=LEAST_SHARE)
            return group_normalise(rewards * unlike, ids, by_std=False)
        weights = torch.where(rewards > 0, sizes.pow(-self.config.alpha), 0.0)
        if self.config.keep_total:
            n_right = group_sum((rewards > 0).to(rewards.dtype), ids)
            weights = weights * n_right / group_sum(weights, ids).clamp(min=1e-12)
        return group_normalise(rewards, ids) * torch.where(rewards > 0, weights, 1.0)


ADVANTAGE = Rarity
