"""The settings of a training run. Whatever is not the loss is here, so that every objective can have it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from harness.core.config import Chosen, incidental, plugin
from harness.evaluate import ModelConfig, SamplingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """How much is sampled and how it is cut. `steps` may grow on resuming."""

    steps: int = incidental()
    """Rounds of sampling; each makes minibatches_per_step x epochs optimiser updates."""
    prompts_per_step: int
    samples_per_prompt: int
    minibatches_per_step: int = 1
    epochs: int = 1
    tokens_per_microbatch: int = incidental(default=2048)
    """Padded tokens in one forward and backward pass. Results do not depend on it beyond rounding."""
    logp_old: Literal["auto", "engine", "recompute"] = "auto"
    """Log-probabilities before the step: the engine's own, or a pass of the policy; auto takes the engine's where it
    promises that they are exact."""

    def __post_init__(self) -> None:
        counts = ("steps", "prompts_per_step", "samples_per_prompt", "minibatches_per_step", "epochs")
        for name in (*counts, "tokens_per_microbatch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.minibatches_per_step > self.prompts_per_step:
            raise ValueError("minibatches_per_step can't exceed prompts_per_step: groups are not divided")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """AdamW on the policy. An objective's own parameters share everything but learning rate and weight decay."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    decay_steps: int | None = None
    """Where a cosine ends, at `final_lr_fraction` of the learning rate."""
    final_lr_fraction: float = 0.0
    grad_clip: float = 1.0
    """The largest norm of the gradient; 0 is off."""

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.eps <= 0 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("lr and eps must be above 0, and betas in [0, 1)")
        if min(self.weight_decay, self.warmup_steps, self.grad_clip, self.final_lr_fraction) < 0:
            raise ValueError("weight_decay, warmup_steps, grad_clip and final_lr_fraction must not be negative")
        if self.schedule == "cosine" and self.decay_steps is None:
            raise ValueError("a cosine schedule needs decay_steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """With 1, a kill loses at most the step in flight; a large model will want more."""

    every_steps: int = 1
    keep: int = 2

    def __post_init__(self) -> None:
        if self.every_steps < 1 or self.keep < 1:
            raise ValueError("every_steps and keep must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutConfig:
    """Evaluation during training, on problems that are never trained on. 0 steps is never."""

    every_steps: int = 0
    split: Literal["validation", "test"] = "validation"
    limit: int = 96
    n: int = 16
    temperature: float | None = None

    def __post_init__(self) -> None:
        if min(self.n, self.limit) < 1 or self.every_steps < 0:
            raise ValueError("n and limit must be at least 1, and every_steps not negative")
        if self.temperature is not None and self.temperature < 0:
            raise ValueError("temperature must not be negative (0 is greedy)")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackConfig:
    """Where the step records also go. steps.jsonl is always written."""

    tensorboard: bool = False
    wandb: str | None = None
    """A Weights & Biases project."""
    trackio: str | None = None
    """A trackio project."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything a training run depends on."""

    model: ModelConfig
    task: Chosen = plugin("tasks")
    objective: Chosen = plugin("objectives")
    engine: Chosen = plugin("engines", default="hf")
    loop: LoopConfig
    optimizer: OptimizerConfig
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    checkpoint: CheckpointConfig = incidental(default_factory=CheckpointConfig)
    held_out: HeldOutConfig = incidental(default_factory=HeldOutConfig)
    track: TrackConfig = incidental(default_factory=TrackConfig)
    seed: int = 0
    strict_data: bool = incidental(default=False)
    """Refuse data whose fingerprint is not the one on record, instead of saying so."""

    def __post_init__(self) -> None:
        if (self.sampling.top_p not in (None, 1)) or (self.sampling.top_k not in (None, 0)):
            raise ValueError(
                "training samples from the whole distribution: with top_p or top_k the sampler renormalises over the "
                "kept tokens, the trainer does not, and every importance ratio is biased; leave both off"
            )
        if self.sampling.temperature == 0:
            raise ValueError("training needs a temperature above 0: greedy samples of one prompt are all the same")
