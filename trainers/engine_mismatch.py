"""The mismatch between the engine that samples and the policy that is trained, and a correction for it.

Both have a log-probability for every sampled token. With the same weights the two differ by rounding alone; more means
stale weights, another temperature, another prompt or another precision. verl corrects it under the name "rollout
correction", prime-rl logs it as "mismatch KL". `step_metrics.py` sums it up over the passes of a step.
"""

from __future__ import annotations

from torch import Tensor

from harness.core.errors import EngineError
from harness.core.tensors import Batch
from harness.trainers.config import EngineCorrectionConfig, TrainConfig
from harness.trainers.functional import sequence_sum
from harness.trainers.step_metrics import EngineMismatch

_SAME_ARITHMETIC, _FLOAT32, _BFLOAT16 = 1e-4, 1e-3, 0.1


def largest_mismatch(config: TrainConfig, *, computes_alike: bool) -> float:
    """Return the mean mismatch above which a step is refused. `computes_alike`: the engine and the trainer do."""
    asked = config.engine_correction.max_gap
    if asked is not None:
        return asked
    if config.loop.precision == "bfloat16" or config.model.dtype not in ("auto", "float32"):
        return _BFLOAT16
    return _SAME_ARITHMETIC if computes_alike else _FLOAT32


def mismatch_error(mismatch: EngineMismatch, step: int, largest: float) -> EngineError:
    """Return the error of a step whose mean mismatch is above `largest`."""
    return EngineError(
        f"step {step}: the engine's log-probabilities are {mismatch.mean:.2g} from the policy's own on average "
        f"(at most {mismatch.largest:.2g}), and {largest:g} is allowed: it samples from other weights, or "
        "computes otherwise. Compare its temperature, its precision and its version with the trainer's; if the "
        "difference is meant, set engine_correction.max_gap above it, and engine_correction.level to correct "
        "for it. The newest checkpoint is from before this step"
    )


def engine_weights(batch: Batch, logp_old: Tensor, config: EngineCorrectionConfig) -> Tensor:
    """Return truncated importance weights, min(old policy / engine, cap), by token or by completion. (B, T)"""
    if batch.logp_behaviour is None:
        raise EngineError("the engine gives no log-probabilities: set engine_correction.level = 'off'")
    log_ratio = logp_old - batch.logp_behaviour
    if config.level == "sequence":
        log_ratio = sequence_sum(log_ratio, batch.completion_mask)[:, None].expand(log_ratio.shape)
    return log_ratio.exp().clamp(max=config.cap) * batch.completion_mask


def weigh_gradient(logp: Tensor, weights: Tensor) -> Tensor:
    """Return the same values with a gradient that is multiplied by `weights` on its way back. (B, T)

    In a loss that is a sum over tokens this is a weight on each token's term; it works for any other loss too.
    """
    return logp.detach() + weights * (logp - logp.detach())
