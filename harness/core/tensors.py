"""The values of training: tensors of one batch, what a pass over it gave, and what a loss made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What an objective must know of the policy to build its own parameters."""

    hidden_size: int
    device: str


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters of an objective with an optimiser setting of their own; None is the policy's."""

    parameters: Sequence[torch.nn.Parameter]
    lr: float | None
    weight_decay: float | None = 0.0


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts of the whole minibatch: the denominators of every reduction."""

    n_completions: int
    n_tokens: int


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
    greedy_rewards: torch.Tensor | None = None  # (B,): what a greedy completion of the prompt earns, where needed


@dataclass(frozen=True, slots=True)
class PolicyOutputs:
    """The answer of one forward pass: log-probabilities, and what the objective's `needs` asked for.

    In the `old` outputs `logp` is that of the policy before this step's updates; in the `current` ones it carries
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
    values: torch.Tensor | None = None  # (B, T), old only: what a critic makes of `completion_hidden`, in its place


@dataclass(frozen=True, slots=True)
class Advantages:
    """Advantages of completions (B,) or tokens (B, T), and further tensors that the loss reads, indexed by B."""

    values: torch.Tensor
    extra: Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class LossResult:
    """The loss of a micro-batch, and sums for the step record: name -> (sum, weight); the loop divides."""

    loss: torch.Tensor
    metrics: Mapping[str, tuple[float, float]]
    ratios: torch.Tensor | None = None
    """Policy over the policy before the step as the loss took it, before any bound; None: token by token, or not."""
