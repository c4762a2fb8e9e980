"""Pass@k policy optimisation: how much a completion adds to the pass@k of the group.

Paper: Walder and Karkhanis 2025, arXiv 2505.15201. For G completions of a prompt, c of them right, r binary:

    a_i = r_i * C(G - c, k - 1) / C(G - 1, k - 1)

the share of the groups of k with i in which i alone is right. (1/G) sum_i a_i grad log policy(y_i) has the expectation
(1/k) grad pass@k exactly; the paper calls it the estimate with the baseline "leave one out minus one". `baseline`:

    none            A_i = a_i
    leave_one_out   A_i = a_i - the mean of a_j over j != i, computed as if y_i had not been drawn: G - 1 completions,
                    c - r_i right. Unbiased as well, and k is at most G - 1
    others          A_i = a_i - the mean of a_j over j != i, as it is in the group. It is the authors' of MaxRL
                    (github.com/tajwarfahim/maxrl, verl/trainer/ppo/core_algos.py, "pkpo"). a_j depends on r_i through
                    c, so it is biased by p (1 - p)^(k - 2) (k - 1) / (G - 1) grad p, for the success rate p

verl's `grpo_passk` is another method (arXiv 2503.19595): the best completion gets its margin to the second best, which
is 0 as soon as two are right.

Edge cases: no right completion, or more than G - k right, so that every group of k has two: a = 0. k = 1: a_i = r_i.
A group that has fewer than k completions, because others could not be graded, has a = 0. With `baseline = "none"` a
wrong completion has A = 0.

Recipe: `countdown-pkpo`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from harness.core.protocols import Advantage, Requirement
from harness.core.tensors import Batch, PolicyOutputs
from harness.trainers.advantages.base.right import combinations_ratio, counts, right
from harness.trainers.functional import leave_one_out


class Pkpo(Advantage):
    @dataclass(frozen=True, slots=True)
    class Config:
        k: int = 4
        baseline: Literal["none", "leave_one_out", "others"] = "none"

        def __post_init__(self) -> None:
            if self.k < 1:
                raise ValueError("k must be at least 1")

    requires: frozenset[Requirement] = frozenset({"group", "unit_rewards"})

    config: Config

    def __init__(self, config: Config) -> None:
        self.config = config
        self.least_group = max(2, config.k + (config.baseline == "leave_one_out"))

    def compute(self, batch: Batch, old: PolicyOutputs) -> Tensor:  # noqa: ARG002
        is_right, others = right(batch), self.config.k - 1
        n_right, size = counts(is_right, batch.group_ids)
        adds = is_right * combinations_ratio(size - n_right, size - 1, others)  # (B,)
        match self.config.baseline:
            case "none":
                return adds
            case "others":
                return leave_one_out(adds, batch.group_ids)
            case "leave_one_out":
                without = n_right - is_right  # right ones among the G - 1 others
                of_others = without * combinations_ratio(size - 1 - without, size - 2, others)
                return adds - of_others / (size - 1).clamp(min=1)


ADVANTAGE = Pkpo
