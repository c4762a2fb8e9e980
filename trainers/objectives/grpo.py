"""Group Relative Policy Optimisation: clipped surrogate, advantages normalised within the group.

Paper: Shao et al. 2024, arXiv 2402.03300, eq. 3 and 4. To be minimised, for G completions y_i of a prompt:

    - 1/G sum_i 1/|y_i| sum_t [ min(rho A_i, clip(rho, 1 - clip_low, 1 + clip_high) A_i) - kl_beta * k3 ]
    rho = policy(y_t) / old(y_t),  A_i: the advantage `group`, (r_i - mean r) / (std r + eps), or another one,
    k3 = exp(-d) - 1 + d,  d = log policy(y_t) - log reference(y_t)

Reduction: `sequence_mean` is the paper's (mean over tokens, then over completions). `prompt_mean` is DAPO's equation 8:
mean over all tokens of a prompt's completions, then over prompts. `token_mean` is verl's form of it, and DAPO's own
code: mean over all tokens of the minibatch, under which prompts with long completions weigh more. On random batches of
unequal groups the gradients of the two differ by up to 101 %. `sequence_sum` divides each completion's sum by
`length_constant`, the same for all, and takes the mean over completions.

Four methods are this loss with other settings, and have a recipe each in the place of a file (`countdown-dr_grpo`,
`countdown-dapo`, `countdown-prorl`, `countdown-mara`):

- Dr. GRPO (Liu et al. 2025, arXiv 2503.20783): the advantage `mean`, `reduction = "sequence_sum"` with the
  longest allowed completion as `length_constant`, no KL.
- DAPO (Yu et al. 2025, arXiv 2503.14476, eq. 8 to 13): `reduction = "token_mean"` as in its code (`prompt_mean` as in
  its equation), `clip_high = 0.28`, no KL, and settings of the loop: groups of equal rewards are sampled again, and
  long completions are penalised.
- ProRL (Liu et al. 2025, arXiv 2505.24864): `clip_high = 0.4`, a KL term, and settings of the loop: groups of equal
  rewards are sampled again, reference and optimiser are reset regularly.
- MARA (GX-Chen et al. 2025, arXiv 2510.20817): the advantage `mean`, a KL in the loss, and the loop's `mara.beta` equal
  to its coefficient, which shapes the rewards.

The coefficient `kl_beta` is the paper's 0.04; today's recipes set 0, and then no reference pass is made. `dual_clip` is
verl's bound on punished tokens (3 there; off here, as in the paper).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from harness.core.config import PluginChoice, plugin
from harness.core.protocols import PolicyGradient
from harness.core.tensors import Advantages, Batch, LossResult, PolicyOutputs
from harness.trainers.functional import ClipConfig, Reduction, clipped_policy_gradient, reduced, total
from harness.trainers.kl import kl_estimate
from harness.trainers.objectives.base import removed_options


class Grpo(PolicyGradient):
    @dataclass(frozen=True, slots=True)
    class Config(ClipConfig):
        reduction: Reduction = "sequence_mean"
        length_constant: int = 1
        kl_beta: float = 0.04
        advantage: PluginChoice = plugin("advantages", default="group")

        def __post_init__(self) -> None:
            ClipConfig.__post_init__(self)
            if self.kl_beta < 0:
                raise ValueError("kl_beta must not be negative")
            if self.length_constant < 1 or (self.length_constant > 1 and self.reduction != "sequence_sum"):
                raise ValueError("length_constant is at least 1, and divides only the reduction sequence_sum")

    removed_options = removed_options.GROUP_ADVANTAGE

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.kl_beta != 0:
            self.needs |= {"reference_logp"}

    def loss(self, batch: Batch, current: PolicyOutputs, old: PolicyOutputs, advantages: Advantages) -> LossResult:
        result = clipped_policy_gradient(batch, current, old, advantages.values, self.config)
        loss, metrics = result.loss, dict(result.metrics)
        if old.logp_reference is not None and self.config.kl_beta != 0:
            # As in verl and TRL, the weights between engine and trainer belong to the surrogate, not to the KL.
            logp = current.logp_unweighed if current.logp_unweighed is not None else current.logp
            kl = kl_estimate(logp, old.logp_reference, "k3")
            loss = loss + self.config.kl_beta * reduced(kl, batch, self.config.reduction)
            metrics["kl_reference_k3"] = total(kl, batch.completion_mask)
        return dataclasses.replace(result, loss=loss / self.config.length_constant, metrics=metrics)


OBJECTIVE = Grpo
