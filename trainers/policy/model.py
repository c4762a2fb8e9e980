"""The policy in training: one forward pass gives the log-probs and the other outputs that were asked for.

Prompts start at position 0, completions follow directly, and padding is only at the right. A causal model then needs
no attention mask, and padding can't reach a real token. Dropout is off: the policy that is trained is the policy
that samples.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.core.errors import ModelError
from harness.core.protocols import ModelSource, Need
from harness.core.seeds import derive
from harness.core.tensors import Batch, ModelShape, PolicyOutputs
from harness.models.loading import load_module
from harness.trainers.config import Precision, TrainConfig
from harness.trainers.policy.compile import CompiledBody
from harness.trainers.policy.forward import HiddenStates, can_share_prompts, forward_full, forward_shared_prompt
from harness.trainers.policy.gradient_checkpointing import checkpointing, enable_checkpointing
from harness.trainers.policy.logprobs import head_of, token_logp
from harness.trainers.policy.lora import AdapterReference, Adapters
from harness.trainers.policy.precision import attend_in_float32

_PROBE_TOLERANCE = 1e-3


class Policy:
    """A causal language model with the temperature at which its tokens are sampled."""

    def __init__(
        self,
        module: Any,
        temperature: float,
        *,
        checkpoint_activations: bool = False,
        precision: Precision = "float32",
        is_compiled: bool = False,
        adapters: Adapters | None = None,
    ) -> None:
        self.module = module.eval()
        self.temperature = temperature
        self._adapters = adapters
        self._autocasts = precision == "bfloat16"
        if self._autocasts:
            attend_in_float32(module)
        self._compiled = CompiledBody(module) if is_compiled else None
        self._checkpointed = enable_checkpointing(module) if checkpoint_activations else []
        self._can_share_prompts = can_share_prompts(module.config)
        self._refuse_unknown_head()

    @property
    def shape(self) -> ModelShape:
        return ModelShape(hidden_size=self.module.config.hidden_size, device=str(self.module.device))

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the weights under the model's own names, with adapters merged."""
        yield from self.module.state_dict().items() if self._adapters is None else self._adapters.merged_tensors()

    def save_pretrained(self, folder: Path) -> None:
        (self.module if self._adapters is None else self._adapters).save_pretrained(folder)

    def forward(self, batch: Batch, needs: frozenset[Need]) -> PolicyOutputs:
        """Compute log-probs at the sampling temperature, and the needs other than `reference_logp`."""
        mask = batch.completion_mask
        # Only the layers run under autocast. Logits and the objectives' own heads are float32.
        with self._checkpointing(), torch.autocast(self.module.device.type, torch.bfloat16, enabled=self._autocasts):
            states = self._hidden_states(batch)
        if self._autocasts:
            states = replace(states, predicting=states.predicting.float(), prompt_hidden=states.prompt_hidden.float())
        flat_logp, flat_entropy = token_logp(
            head_of(self.module, self.temperature), states.predicting, states.ids, with_entropy="entropy" in needs
        )
        return PolicyOutputs(
            logp=_spread(flat_logp, mask),
            entropy=_spread(flat_entropy, mask) if flat_entropy is not None else None,
            prompt_hidden=_prompt_mean(states, batch.prompt_lengths) if "prompt_hidden" in needs else None,
            prompt_last_hidden=_prompt_last(states, batch.prompt_lengths) if "prompt_last_hidden" in needs else None,
            completion_hidden=_spread(states.predicting, mask) if "completion_hidden" in needs else None,
        )

    def _checkpointing(self) -> contextlib.AbstractContextManager[None]:
        return checkpointing(self._checkpointed) if self._checkpointed else contextlib.nullcontext()

    def _hidden_states(self, batch: Batch) -> HiddenStates:
        if self._should_share_prompts(batch):
            return forward_shared_prompt(self.module, batch)
        return forward_full(self.module if self._compiled is None else self._compiled, batch)

    def _should_share_prompts(self, batch: Batch) -> bool:
        """Return whether one pass over each prompt is possible and saves at least a twentieth of the tokens."""
        # A checkpointed layer keeps no keys and values for the completions to share.
        is_checkpointed = bool(self._checkpointed) and torch.is_grad_enabled()
        if not self._can_share_prompts or is_checkpointed or self._compiled is not None:
            return False
        repeats = len(batch.group_ids) - len(torch.unique(batch.group_ids))
        return repeats * int(batch.prompt_lengths.max()) > 0.05 * batch.sequence_ids.numel()

    def _refuse_unknown_head(self) -> None:
        """Compare our logits once with the model's own: some models do more after the last hidden state."""
        ids = torch.arange(2, 10, device=self.module.device)[None] % self.module.config.vocab_size
        with torch.no_grad():
            own = torch.log_softmax(self.module(input_ids=ids, use_cache=False).logits[0, :-1].float(), -1)
            hidden = self.module.base_model(input_ids=ids, use_cache=False).last_hidden_state[0, :-1]
            ours, _ = token_logp(head_of(self.module, 1.0), hidden, ids[0, 1:])
        theirs = own.gather(-1, ids[0, 1:, None])[:, 0]
        scale = max(1.0, theirs.abs().max().item()) * (1 if hidden.dtype == torch.float32 else 30)
        if (ours - theirs).abs().max().item() > _PROBE_TOLERANCE * scale:
            raise ModelError(
                f"{type(self.module).__name__} computes its logits in a way this trainer does not know, so its "
                "log-probabilities would be wrong; please open an issue with the model's name"
            )


def load_policies(
    config: TrainConfig, base: ModelSource, newest: Path | None, temperature: float, *, with_reference: bool
) -> tuple[Policy, Policy | AdapterReference | None]:
    """Load the policy from the base model or the newest checkpoint, and the base model as reference if it is read."""

    def make(module: Any, adapters: Adapters | None = None, *, is_trained: bool = True) -> Policy:
        return Policy(
            module,
            temperature,
            checkpoint_activations=is_trained and config.loop.gradient_checkpointing,
            precision=config.loop.precision,
            is_compiled=config.loop.compile,
            adapters=adapters,
        )

    if config.lora.rank > 0:
        module = load_module(base)
        adapters = Adapters(module, config.lora, derive(config.seed, "lora"), base.path)
        if newest is not None:
            adapters.load(newest)
        policy = make(module, adapters)
        return policy, AdapterReference(policy, adapters) if with_reference else None
    resumed = base if newest is None else dataclasses.replace(base, path=str(newest), revision=None, random_seed=None)
    return make(load_module(resumed)), make(load_module(base), is_trained=False) if with_reference else None


def _spread(flat: Tensor, mask: Tensor) -> Tensor:
    """Put values of completion tokens at their places in the batch, zero elsewhere. (N, ...) -> (B, T, ...)"""
    return flat.new_zeros((*mask.shape, *flat.shape[1:])).masked_scatter(
        mask.view(*mask.shape, *[1] * (flat.dim() - 1)), flat
    )


def _prompt_mean(states: HiddenStates, prompt_lengths: Tensor) -> Tensor:
    """Return the mean of the last hidden states over the whole prompt. (B, H)"""
    hidden, lengths = states.prompt_hidden, prompt_lengths[states.prompt_rows]
    inside = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
    means: Tensor = (hidden * inside[..., None]).sum(1) / lengths[:, None]
    return means[states.prompt_of]


def _prompt_last(states: HiddenStates, prompt_lengths: Tensor) -> Tensor:
    """Return the last hidden state at the last token of the prompt. (B, H)"""
    return states.prompt_hidden[states.prompt_of, prompt_lengths - 1]
