"""Terms that any objective's loss may have beside it: a KL to the reference, an entropy bonus; and the weights that
make up for an engine whose probabilities are not the trainer's.
"""

from __future__ import annotations

from torch import Tensor

from harness.core.errors import EngineError
from harness.core.tensors import Batch, LossResult, PolicyOutputs
from harness.trainers.config import EngineCorrectionConfig, KlConfig
from harness.trainers.functional import kl_estimate, reduced, sequence_sum, total


def with_terms(
    result: LossResult, part: Batch, current: PolicyOutputs, old: PolicyOutputs, kl: KlConfig, entropy_bonus: float
) -> LossResult:
    """The objective's loss with the terms that the settings add."""
    loss, metrics, mask = result.loss, dict(result.metrics), part.completion_mask
    if kl.place == "loss":
        assert old.logp_reference is not None
        estimate = kl_estimate(current.logp, old.logp_reference, kl.estimator)
        if kl.ratio_weighted:
            estimate = (current.logp - old.logp).exp() * estimate
        loss = loss + kl.coefficient * reduced(estimate, mask, part.totals, kl.reduction)
        metrics["kl_loss"] = total(estimate, mask)
    if entropy_bonus != 0:
        assert current.entropy is not None
        loss = loss - entropy_bonus * reduced(current.entropy, mask, part.totals, "token_mean")
        metrics["policy_entropy"] = total(current.entropy, mask)
    return LossResult(loss, metrics, result.ratios)


def engine_weights(batch: Batch, old: PolicyOutputs, config: EngineCorrectionConfig) -> Tensor | None:
    """min(policy before the step / what the engine sampled from, cap), of each token or of whole completions. (B, T)

    None where nothing is to be corrected.
    """
    if config.level == "off":
        return None
    if batch.logp_behaviour is None:
        raise EngineError("the engine gives no log-probabilities: set engine_correction.level = 'off'")
    log_ratio = old.logp - batch.logp_behaviour
    if config.level == "sequence":
        log_ratio = sequence_sum(log_ratio, batch.completion_mask)[:, None].expand(log_ratio.shape)
    return log_ratio.exp().clamp(max=config.cap) * batch.completion_mask


def weigh_gradient(logp: Tensor, weights: Tensor) -> Tensor:
    """The same values, whose gradient is multiplied by `weights` on its way back.

    In a loss that is a sum over tokens this is the weight on each token's term; it works for any other loss too.
    """
    return logp.detach() + weights * (logp - logp.detach())
