"""Values of training: the tensors of a batch, the outputs of a forward pass, and the result of a loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The facts about the policy that an objective needs to create its own parameters."""

    hidden_size: int
    device: str


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters of an objective with their own optimiser settings; None takes the policy's."""

    parameters: Sequence[torch.nn.Parameter]
    lr: float | None
    weight_decay: float | None = 0.0
    own_clip: bool = False
    """Whether its gradient is clipped by itself, and not with the policy's."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts of the whole minibatch, the denominators of all reductions."""

    n_completions: int
    n_tokens: int
    tokens_by_prompt: torch.Tensor | None = field(default=None, compare=False)
    """The completion tokens of each prompt by its group id, 0 for prompts of other minibatches. (largest id + 1,)"""


@dataclass(frozen=True, slots=True)
class Batch:
    """Completions of one step as tensors; B completions, T completion positions, L = prompt + completion.

    Sequences are right-padded: the prompt starts at 0 and the completion follows it directly.
    """

    sequence_ids: torch.Tensor  # (B, L)
    prompt_lengths: torch.Tensor  # (B,)
    completion_lengths: torch.Tensor  # (B,), end-of-sequence token included
    completion_mask: torch.Tensor  # (B, T) bool
    logp_behaviour: torch.Tensor | None  # (B, T), zero where masked
    rewards: torch.Tensor  # (B,)
    group_ids: torch.Tensor  # (B,), one id per prompt
    totals: Totals
    token_rewards: torch.Tensor | None = None  # (B, T): the part of `rewards` that was given at single tokens
    greedy_rewards: torch.Tensor | None = None  # (B,): the reward of a greedy completion of the prompt, if needed
    classes: torch.Tensor | None = None  # (B,): equal for completions of a prompt that are alike, -1 without a class


@dataclass(frozen=True, slots=True)
class PolicyOutputs:
    """The outputs of one forward pass: log-probs, and the tensors in the objective's `needs`.

    `logp` of the `old` outputs is that of the policy before this step's updates; `logp` of the `current` ones carries
    the gradient.
    """

    logp: torch.Tensor  # (B, T), zero where masked
    logp_unweighed: torch.Tensor | None = (
        None  # (B, T), current only: `logp` where weights of the loop change its gradient
    )
    logp_reference: torch.Tensor | None = None  # (B, T), old only
    entropy: torch.Tensor | None = None  # (B, T)
    prompt_hidden: torch.Tensor | None = None  # (B, H): mean of the last hidden states over the prompt
    prompt_last_hidden: torch.Tensor | None = None  # (B, H): the last hidden state at the prompt's last token
    completion_hidden: torch.Tensor | None = None  # (B, T, H): the state that predicts each completion token
    values: torch.Tensor | None = None  # (B, T), old only: a critic's values, in the place of `completion_hidden`


@dataclass(frozen=True, slots=True)
class Advantages:
    """Advantages of completions (B,) or tokens (B, T), and further tensors that the loss reads, indexed by B."""

    values: torch.Tensor
    extra: Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class LossResult:
    """The loss of a micro-batch, and sums for the step metrics: name -> (sum, weight). The loop divides."""

    loss: torch.Tensor
    metrics: Mapping[str, tuple[float, float]]
    ratios: torch.Tensor | None = None
    """Importance ratios as the loss took them, before clipping; None if it took those of single tokens, or none."""
