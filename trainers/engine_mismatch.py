"""How far the engine that sampled is from the policy that is trained: two log-probabilities of the same tokens.

Where both run the same weights they differ by rounding alone. More means that one of them does something else: stale
weights, another temperature, another prompt, another precision.
"""

from __future__ import annotations

from harness.core.errors import EngineError
from harness.core.tensors import Batch, PolicyOutputs
from harness.trainers.config import TrainConfig
from harness.trainers.gauges import logp_gap

_SAME_ARITHMETIC, _FLOAT32, _BFLOAT16 = 1e-4, 1e-3, 0.1


def largest_gap(config: TrainConfig, *, computes_alike: bool) -> float:
    """The mean gap above which a step is refused. `computes_alike`: the engine as the trainer does."""
    asked = config.engine_correction.max_gap
    if asked is not None:
        return asked
    if config.loop.precision == "bfloat16" or config.model.dtype not in ("auto", "float32"):
        return _BFLOAT16
    return _SAME_ARITHMETIC if computes_alike else _FLOAT32


class EngineGap:
    """Gathers one step's gap from the first pass of the policy over what was sampled, before any update.

    That is the frozen pass where there is one, else the live pass of the step's first minibatch.
    """

    def __init__(self, step: int) -> None:
        self._step = step
        self._n_tokens = 0
        self._total = self._largest = self._kl = 0.0
        self._is_closed = False

    def add(self, part: Batch, outputs: PolicyOutputs) -> None:
        """Some more of the step's completions."""
        gaps = {} if self._is_closed else logp_gap(part, outputs)
        if not gaps or len(gaps["logp_gap"]) == 0:
            return
        self._n_tokens += len(gaps["logp_gap"])
        self._total += float(gaps["logp_gap"].sum())
        self._largest = max(self._largest, float(gaps["logp_gap"].max()))
        self._kl += float(gaps["logp_gap_kl"].sum())

    def leave_out(self) -> None:
        """The policy is not the one that sampled."""
        self._is_closed = True

    def close(self, largest: float) -> None:
        """No more comes: the policy is about to change. Raises EngineError if the mean is above `largest`."""
        self._is_closed = True
        mean = self._total / self._n_tokens if self._n_tokens > 0 else 0.0
        if not mean <= largest:  # nan is not
            raise EngineError(
                f"step {self._step}: the engine's log-probabilities are {mean:.2g} from the policy's own on average "
                f"(at most {self._largest:.2g}), and {largest:g} is allowed: it samples from other weights, or "
                "computes otherwise. Compare its temperature, its precision and its version with the trainer's; if the "
                "difference is meant, set engine_correction.max_gap above it, and engine_correction.level to correct "
                "for it. The newest checkpoint is from before this step"
            )

    def figures(self) -> dict[str, float]:
        """For the step record; empty where nothing was compared."""
        if self._n_tokens == 0:
            return {}
        return {
            "logp_gap": self._total / self._n_tokens,
            "logp_gap_max": self._largest,
            "logp_gap_kl": self._kl / self._n_tokens,
        }
