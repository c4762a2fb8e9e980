"""The config of a training run: everything but the loss, so that every objective can use it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from harness.core.config import PluginChoice, incidental, plugin
from harness.core.types import Bounds, MaxTokens, Temperature
from harness.evaluation.config import ModelConfig, SamplingConfig
from harness.trainers.functional import KlEstimator, Reduction

Precision = Literal["float32", "bfloat16"]
OffAtZero = Annotated[int, Bounds(ge=0), "0 is off"]
Beta = Annotated[float, Bounds(ge=0, lt=1)]
DEFAULT_HORIZON = 10_000
CHECKPOINTS_OF_A_RUN = 10
STEPS_WITH_GROUPS = 20


def _has_changes(settings: Any, but: str = "") -> bool:
    """Return whether any field except `but` differs from its default, which has no effect in a section that is off."""
    return any(getattr(settings, f.name) != f.default for f in dataclasses.fields(settings) if f.name != but)


def interval(every_steps: int | None, n_steps: int, n_times: int) -> int:
    """Return the steps between two events: `every_steps`, or what makes about `n_times` of them in the run."""
    return every_steps if every_steps is not None else math.ceil(n_steps / n_times)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """The batch sizes, and how a step is computed. `steps` may grow on resuming."""

    steps: Annotated[int, Bounds(ge=1), "such as 160"] = incidental()
    """Rounds of sampling, each with minibatches_per_step x epochs optimiser updates."""
    prompts_per_step: Annotated[int, Bounds(ge=1), "such as 16"]
    samples_per_prompt: Annotated[int, Bounds(ge=1), "such as 8"]
    minibatches_per_step: Annotated[int, Bounds(ge=1), "1 is one update a step"] = 1
    epochs: Annotated[int, Bounds(ge=1), "1 learns from each completion once"] = 1
    tokens_per_microbatch: Annotated[int, Bounds(ge=1), "such as 2048"] = incidental(default=2048)
    """Padded tokens in one forward and backward pass. Results depend on it by rounding only."""
    logp_old: Literal["auto", "engine", "recompute", "live"] = "auto"
    """Where the old log-probs come from: the engine; `recompute`, a pass of the policy before the updates; or `live`,
    the step's only update, whose ratios are then exactly 1. `auto` takes the engine's where they are exact, else `live`
    where nothing reads them before the update, else `recompute`."""
    entropy_bonus: float = 0.0
    """The coefficient of the mean token entropy that is subtracted from the loss."""
    gradient_checkpointing: bool = incidental(default=False)
    """Compute activations again in the backward pass instead of keeping them: less memory, a third more work."""
    precision: Precision = "float32"
    """The precision of the layers in training, by autocast. Weights, gradients, logits and optimiser stay float32."""
    compile: bool = incidental(default=False)
    """torch.compile for the layers in training. Sampling in this process is not compiled."""

    def __post_init__(self) -> None:
        if self.minibatches_per_step > self.prompts_per_step:
            raise ValueError("minibatches_per_step can't exceed prompts_per_step: groups are not split")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """AdamW on the policy. Parameters of the objective share everything but learning rate and weight decay."""

    lr: Annotated[float, Bounds(gt=0), "such as 1e-6"]
    betas: Annotated[tuple[Beta, Beta], "such as [0.9, 0.999]"] = (0.9, 0.999)
    eps: Annotated[float, Bounds(gt=0), "such as 1e-8"] = 1e-8
    weight_decay: Annotated[float, Bounds(ge=0), "0 is off, 0.1 is common"] = 0.0
    decay_vectors: bool = False
    """Apply weight decay to biases, norms and other vectors as well, as verl does and transformers does not."""
    warmup_steps: OffAtZero = 0
    warmup_from_zero: bool = False
    """Start the warm-up at 0, as verl does: the rate of step s is (s - 1) / warmup_steps of the whole, and the first
    step does not move the weights. Otherwise it is s / (warmup_steps + 1)."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    decay_steps: int | None = None
    """The step at which a cosine or linear schedule ends, at `final_lr_fraction` of the learning rate."""
    final_lr_fraction: Annotated[float, Bounds(ge=0), "0 decays to nothing"] = 0.0
    grad_clip: Annotated[float, Bounds(ge=0), "1 is common, 0 is off"] = 1.0
    """The largest norm of the gradient; 0 is off."""
    on_non_finite: Literal["stop", "skip"] = incidental(default="stop")
    """Stop the run or skip the update when a gradient is not finite. A step with all updates skipped stops the run."""

    def __post_init__(self) -> None:
        if self.warmup_from_zero and self.warmup_steps == 0:
            raise ValueError("warmup_from_zero needs warmup_steps above 0")
        if self.decay_vectors and self.weight_decay == 0:
            raise ValueError("decay_vectors needs a weight_decay above 0")
        if (self.schedule == "constant") != (self.decay_steps is None):
            raise ValueError("schedules other than 'constant' need decay_steps, and a constant one has none")
        if self.decay_steps is not None and self.decay_steps <= self.warmup_steps:
            raise ValueError("decay_steps counts from the first step: it must be more than warmup_steps")


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutsConfig:
    """Rollouts saved to a file and trained on from a file, so that losses can be compared on the same samples."""

    only: bool = False
    """Sample and save the rollouts of every step with the base model, and train nothing."""
    source: str | None = None
    """A run folder, or its rollouts.jsonl: train on these rollouts and sample nothing."""
    save: bool = incidental(default=False)
    """Save the rollouts of a training run."""
    groups_per_step: Annotated[int, Bounds(ge=0), "0 is off, such as 4"] = incidental(default=4)
    """The first groups of a step that are kept in groups.jsonl with their log-probabilities, for the report; 0 is off.
    With `save` or `only` all are saved, and nothing more is kept."""
    groups_every_steps: Annotated[int, Bounds(ge=1), "such as 10"] | None = incidental(default=None)
    """Steps between two that keep groups; the first and the last step do. Unset: a twentieth of the run's steps."""
    groups_mb: Annotated[float, Bounds(gt=0), "such as 16"] = incidental(default=16.0)
    """The largest size of groups.jsonl, spread over the run: where groups are large, fewer steps keep some."""

    def __post_init__(self) -> None:
        if self.source is not None and (self.only or self.save):
            raise ValueError("rollouts that come from a source are saved already: leave out only and save")

    @property
    def keeps_groups(self) -> bool:
        return self.groups_per_step > 0 and not (self.save or self.only)

    def groups_interval(self, n_steps: int) -> int:
        """Return the number of steps between two of a run of `n_steps` that keep groups."""
        return interval(self.groups_every_steps, n_steps, STEPS_WITH_GROUPS)


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicSamplingConfig:
    """Replacement of groups whose rewards are all equal (DAPO, arXiv 2503.14476)."""

    max_extra_rounds: OffAtZero = 0
    """The most rounds of replacement in a step; 0 is off. Groups that are still missing are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlongConfig:
    """The penalty on completions near the token limit, and the masking of truncated ones."""

    buffer_tokens: OffAtZero = 0
    """Tokens before the limit over which the penalty grows linearly; 0 is off."""
    penalty: Annotated[float, Bounds(ge=0), "such as 0.5"] = 1.0
    """The penalty at the limit. DAPO's 1 is for rewards of -1 and 1; for 0 and 1 it is 0.5."""
    mask_truncated: bool = False
    """Leave truncated completions out of the loss. They still count in the statistics of their group."""

    def __post_init__(self) -> None:
        if self.buffer_tokens == 0 and _has_changes(self, but="mask_truncated"):
            raise ValueError("a penalty needs buffer_tokens above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class MaraConfig:
    """Mode-anchored reward augmentation (arXiv 2510.20817): a group's right completions get rewards under which the
    optimum of KL-regularised training has them all equally probable."""

    beta: Annotated[float, Bounds(ge=0), "0 is off"] = 0.0
    """The coefficient of the KL that is trained with, or 1 / `objective.beta` of `tb` and `vargrad_tb`; 0 is off."""
    threshold: float = 1.0
    """A completion is right if its reward is at least this."""

    def __post_init__(self) -> None:
        if self.beta == 0 and _has_changes(self):
            raise ValueError("a threshold needs beta above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class KlConfig:
    """A KL to the reference, in addition to a KL of the objective's own."""

    place: Literal["off", "reward", "loss"] = "off"
    coefficient: float = 1e-3
    estimator: KlEstimator = "k1"
    """In the loss, k2, k1_plus and k3_plus have the gradient of the KL; that of k1 is zero on average."""
    ratio_weighted: bool = False
    """Multiply the KL in the loss by policy / old policy, which makes k1 and k3 right in value and gradient."""
    reduction: Reduction = "token_mean"
    target: Annotated[float, Bounds(gt=0), "such as 0.01"] | None = None
    """The KL in nats per token that an adaptive coefficient aims at; without one the coefficient is fixed."""
    horizon: Annotated[int, Bounds(ge=1), "such as 10000"] = DEFAULT_HORIZON
    """The time constant of the KL controller, in completions. A step changes the coefficient by at most 20 % x
    completions / horizon."""

    def __post_init__(self) -> None:
        if self.target is None and self.horizon != DEFAULT_HORIZON:
            raise ValueError("kl.horizon has no effect without kl.target")
        if self.place != "off" and self.coefficient <= 0:
            raise ValueError("the coefficient of a KL must be above 0; place = 'off' switches it off")
        if self.place == "loss" and self.estimator == "k1" and not self.ratio_weighted:
            raise ValueError(
                "k1 in the loss has a gradient of zero on average and no effect; use k1_plus, k2 or k3_plus, or "
                "ratio_weighted = true"
            )
        if self.place == "off" and _has_changes(self):
            raise ValueError("the KL has settings and place = 'off'; set place to 'reward' or 'loss'")
        if self.place == "reward" and (self.ratio_weighted or self.reduction != "token_mean"):
            raise ValueError("ratio_weighted and reduction are settings of a KL in the loss")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceConfig:
    """Resets of the reference to the policy. Without any, the reference is the model that training started with."""

    reset_every_steps: OffAtZero = 0
    """Reset after every so many steps; 0 is never."""
    reset_on_stall_steps: OffAtZero = 0
    """Reset when the mean reward of the last so many steps is not above that of as many before; 0 is never."""
    stall_margin: float = 0.0
    """How far above it has to be."""
    reset_optimizer: bool = False
    """Clear the moments of the optimiser at a reset, those of the objective's parameters included."""

    def __post_init__(self) -> None:
        if self.reset_optimizer and not self.is_ever_reset:
            raise ValueError("reset_optimizer needs reset_every_steps or reset_on_stall_steps")
        if self.stall_margin != 0 and self.reset_on_stall_steps == 0:
            raise ValueError("stall_margin needs reset_on_stall_steps")

    @property
    def is_ever_reset(self) -> bool:
        return max(self.reset_every_steps, self.reset_on_stall_steps) > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCorrectionConfig:
    """Truncated importance sampling for the mismatch between the engine and the policy, and its largest value."""

    level: Literal["off", "token", "sequence"] = "off"
    cap: Annotated[float, Bounds(gt=0), "such as 2"] = 2.0
    max_gap: Annotated[float, Bounds(gt=0), "such as 0.01"] | None = incidental(default=None)
    """The largest mean over tokens of |log-prob of the engine - log-prob of the policy|; above it the run stops.
    None is 1e-4 for an engine that computes as the trainer does, 1e-3 for others in float32, and 0.1 in bfloat16."""

    def __post_init__(self) -> None:
        if self.level == "off" and _has_changes(self, but="max_gap"):
            raise ValueError("a cap needs a level other than 'off'")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters on a frozen base model: the policy is W + alpha / rank * B A, the reference is W."""

    rank: Annotated[int, Bounds(ge=0), "0 is off, 16 is common"] = 0
    """The rank of the adapters; 0 is off, and all weights are trained."""
    alpha: Annotated[float, Bounds(gt=0), "such as 32"] = 32.0
    target_modules: tuple[str, ...] = ()
    """Names of the adapted layers, such as ["q_proj", "v_proj"]; empty is every linear layer but the output."""

    def __post_init__(self) -> None:
        if self.rank == 0 and _has_changes(self):
            raise ValueError("the adapters have settings and rank = 0, which is off; set a rank")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """How often checkpoints are saved, and how many stay. There is always one after the last step."""

    every_steps: Annotated[int, Bounds(ge=1), "such as 10"] | None = None
    """Steps between two checkpoints; a kill loses the steps since the last one. Unset: a tenth of the run's steps, so
    that a run saves about ten checkpoints."""
    keep: Annotated[int, Bounds(ge=1), "such as 2"] = 2
    """The newest so many stay, and the others are deleted."""

    def interval(self, n_steps: int) -> int:
        """Return the number of steps between two checkpoints of a run of `n_steps`."""
        return interval(self.every_steps, n_steps, CHECKPOINTS_OF_A_RUN)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutConfig:
    """Evaluation during training, on problems that are never trained on."""

    every_steps: OffAtZero = 0
    """Evaluate after every so many steps; 0 is never."""
    tasks: tuple[PluginChoice, ...] = plugin("tasks", otherwise=())
    """The tasks to evaluate; empty is the task that is trained on."""
    split: Literal["validation", "test"] = "validation"
    limit: Annotated[int, Bounds(ge=1), "such as 96"] = 96
    n: Annotated[int, Bounds(ge=1), "such as 16"] = 16
    temperature: Temperature | None = None
    max_tokens: MaxTokens | None = None

    def __post_init__(self) -> None:
        if len({chosen.id for chosen in self.tasks}) < len(self.tasks):
            raise ValueError("tasks names a task twice")


@dataclass(frozen=True, slots=True, kw_only=True)
class WarningsConfig:
    """Thresholds of the warnings that a run is collapsing. Each metric is a mean over a window."""

    window_steps: Annotated[int, Bounds(ge=1), "such as 10"] = 10
    entropy_share: Annotated[float, Bounds(ge=0), "0 is off"] = 0.3
    """Warn when the entropy is below this share of its value in the first window; 0 is off."""
    distinct_share: Annotated[float, Bounds(ge=0), "0 is off"] = 0.5
    """Warn when a solved problem has fewer different right answers than this share of the first window's; 0 is off."""
    equal_groups: float = 0.05
    """Warn when at most this share of the groups has different rewards; -1 is off."""
    truncated: float = 0.5
    """Warn when at least this share of the completions is truncated; 2 is off."""
    clipped: float = 0.5
    """Warn when at least this share of the importance ratios is beyond its bound; 2 is off. The weights of whole
    completions (`flowrl`, `gflowrl`) do not count: over many tokens most of them are, by design."""
    reward_nats: Annotated[float, Bounds(ge=0), "0 is off"] = 50.0
    """Warn when a completion's reward counts at least so many nats against its probability under the reference, so that
    a balance loss (`flowrl`) is a reward maximiser; 0 is off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackConfig:
    """Experiment trackers that get the step metrics. steps.jsonl is always written."""

    tensorboard: bool = False
    wandb: str | None = None
    """The name of a Weights & Biases project."""
    trackio: str | None = None
    """The name of a trackio project."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything a training run depends on."""

    model: ModelConfig
    task: PluginChoice = plugin("tasks")
    grader: PluginChoice | None = plugin("graders", otherwise=None)
    """The grader whose rewards are trained on, instead of the task's own. Held-out evaluations keep the task's own."""
    objective: PluginChoice = plugin("objectives")
    engine: PluginChoice = plugin("engines", default="hf")
    backend: PluginChoice = plugin("backends", default="loop", is_optional=True)
    """The trainer that runs the steps: our own loop, or another project's with our objective."""
    loop: LoopConfig
    optimizer: OptimizerConfig
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    rollouts: RolloutsConfig = field(default_factory=RolloutsConfig)
    dynamic_sampling: DynamicSamplingConfig = field(default_factory=DynamicSamplingConfig)
    overlong: OverlongConfig = field(default_factory=OverlongConfig)
    mara: MaraConfig = field(default_factory=MaraConfig)
    kl: KlConfig = field(default_factory=KlConfig)
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    engine_correction: EngineCorrectionConfig = field(default_factory=EngineCorrectionConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    checkpoint: CheckpointConfig = incidental(default_factory=CheckpointConfig)
    held_out: HeldOutConfig = incidental(default_factory=HeldOutConfig)
    warnings: WarningsConfig = incidental(default_factory=WarningsConfig)
    track: TrackConfig = incidental(default_factory=TrackConfig)
    seed: int = 0
    strict_data: bool = incidental(default=False)
    """Refuse data whose fingerprint is not the stored one, instead of warning."""

    def __post_init__(self) -> None:
        if truncating := self.sampling.truncating():
            raise ValueError(
                f"training samples from the whole distribution: with {' and '.join(truncating)} the sampler "
                "renormalises over the kept tokens, the trainer does not, and every importance ratio is biased; leave "
                f"sampling.{' and sampling.'.join(truncating)} off"
            )
        if self.sampling.temperature == 0:
            raise ValueError("training needs a temperature above 0: greedy samples of one prompt are all the same")
        if self.engine_correction.level != "off" and self.loop.logp_old != "recompute":
            raise ValueError(
                "engine_correction compares the engine's log-probabilities with the policy's own: set loop.logp_old = "
                "'recompute'"
            )
        if self.model.dtype == "float16":
            raise ValueError(
                "float16 gradients underflow without loss scaling, which is not offered; train with model.dtype = "
                "'float32' and loop.precision = 'bfloat16'"
            )
        if self.loop.precision == "bfloat16" and self.model.dtype not in ("auto", "float32"):
            raise ValueError("loop.precision = 'bfloat16' keeps float32 weights: leave model.dtype at 'auto'")
