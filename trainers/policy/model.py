"""The policy in training: one forward pass gives the log-probs and the other outputs that were asked for.

The pass has two halves. The layers run over whole sequences, or over each prompt once and then over its completions,
and give the hidden states that predict the completion tokens. The output layer then turns hidden states into
log-probs, one chunk of rows at a time: no tensor of (tokens, vocabulary) is larger than a chunk, forward or backward.

Prompts start at position 0, completions follow directly, and padding is only at the right. A causal model then needs
no attention mask, and padding can't reach a real token. Dropout is off: the policy that is trained is the policy
that samples.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, replace
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
from harness.trainers.policy.gradient_checkpointing import checkpointing, enable_checkpointing
from harness.trainers.policy.lora import AdapterReference, Adapters
from harness.trainers.policy.precision import attend_in_float32

_PROBE_TOLERANCE = 1e-3
_LEAST_CHUNK_BYTES = {"cpu": 2**24, "cuda": 2**28}


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
        # Only the layers run under autocast. Logits and the objectives' own heads are float32.
        with self._checkpointing(), torch.autocast(self.module.device.type, torch.bfloat16, enabled=self._autocasts):
            states = self._hidden_states(batch)
        if self._autocasts:
            states = replace(states, predicting=states.predicting.float(), prompt_hidden=states.prompt_hidden.float())
        flat_logp, flat_entropy = token_logp(
            head_of(self.module, self.temperature), states.predicting, states.ids, with_entropy="entropy" in needs
        )
        return outputs_of(batch, states, flat_logp, flat_entropy, needs)

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


# --- hidden states: from the tokens of a batch to the last layer -------------------------------------------------


@dataclass(frozen=True, slots=True)
class HiddenStates:
    """The last hidden states of a batch, with N completion tokens and passes over G prompts."""

    predicting: Tensor  # (N, H): the state that predicts each completion token
    ids: Tensor  # (N,): the completion tokens
    prompt_hidden: Tensor  # (G, at least P, H)
    prompt_rows: Tensor  # (G,): a row of the batch with this prompt
    prompt_of: Tensor  # (B,): the index into G of each completion


def forward_full(module: Any, batch: Batch) -> HiddenStates:
    """Run every sequence on its own. Right padding is causally out of reach, so there is no attention mask."""
    # The last token predicts nothing.
    hidden = module.base_model(input_ids=batch.sequence_ids[:, :-1], use_cache=False).last_hidden_state
    return states_of(batch, hidden)


def states_of(batch: Batch, hidden: Tensor) -> HiddenStates:
    """Pick out the states of a pass over whole sequences. (B, at least L - 1, H)"""
    rows, offsets = batch.completion_mask.nonzero(as_tuple=True)
    positions = batch.prompt_lengths[rows] + offsets
    every_row = torch.arange(len(batch.sequence_ids), device=hidden.device)
    return HiddenStates(hidden[rows, positions - 1], batch.sequence_ids[rows, positions], hidden, every_row, every_row)


def forward_shared_prompt(module: Any, batch: Batch) -> HiddenStates:
    """Run every prompt once, then its completions on its keys and values, whose gradients add up.

    The states are those of `forward_full` up to rounding.
    """
    from transformers import DynamicCache

    prompt_rows, prompt_of = _prompts(batch.group_ids)
    n_prompt = int(batch.prompt_lengths.max())
    cache = DynamicCache(config=module.config)
    prompt_hidden = module.base_model(
        input_ids=batch.sequence_ids[prompt_rows, :n_prompt], past_key_values=cache, use_cache=True
    ).last_hidden_state
    rows, offsets = batch.completion_mask.nonzero(as_tuple=True)
    ids = batch.sequence_ids[rows, batch.prompt_lengths[rows] + offsets]
    after_prompt = prompt_hidden[prompt_of, batch.prompt_lengths - 1]  # (B, H)
    width = int(batch.completion_lengths.max()) - 1
    if width == 0:
        return HiddenStates(after_prompt[rows], ids, prompt_hidden, prompt_rows, prompt_of)
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[prompt_of], layer.values[prompt_of]
    positions = batch.prompt_lengths[:, None] + torch.arange(width, device=prompt_hidden.device)
    columns = positions.clamp(max=batch.sequence_ids.shape[1] - 1)
    hidden = module.base_model(
        input_ids=batch.sequence_ids.gather(1, columns),
        attention_mask=_mask(batch.prompt_lengths, n_prompt, width),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    predicting = torch.cat([after_prompt[:, None], hidden], 1)[rows, offsets]
    return HiddenStates(predicting, ids, prompt_hidden, prompt_rows, prompt_of)


def can_share_prompts(config: Any) -> bool:
    """Return whether every layer caches the keys and values of all positions, so that a prompt's can be shared."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    if not config.get_text_config()._attn_implementation.startswith("sdpa"):
        return False  # others read a boolean mask differently: eager attention adds it
    layers = DynamicCache(config=config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def _prompts(group_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return a row of each group, and the index of each row's group. (G,), (B,)"""
    groups, prompt_of = torch.unique(group_ids, return_inverse=True)
    rows = torch.arange(len(group_ids), device=group_ids.device)
    prompt_rows = torch.zeros_like(groups).scatter_reduce(0, prompt_of, rows, "amin", include_self=False)
    return prompt_rows, prompt_of


def _mask(prompt_lengths: Tensor, n_prompt: int, width: int) -> Tensor:
    """Return True where a completion token attends: its prompt, the completion up to itself. (B, 1, width, keys)"""
    keys = torch.arange(n_prompt + width, device=prompt_lengths.device)
    queries = torch.arange(width, device=prompt_lengths.device)[:, None]
    in_completion = (keys >= n_prompt) & (keys - n_prompt <= queries)  # (width, keys)
    in_prompt = keys < prompt_lengths[:, None, None]  # (B, 1, keys)
    return (in_completion | in_prompt)[:, None]


# --- outputs: from hidden states to their places in the batch ----------------------------------------------------


def outputs_of(
    batch: Batch, states: HiddenStates, logp: Tensor, entropy: Tensor | None, needs: frozenset[Need]
) -> PolicyOutputs:
    """Return the outputs of a pass, given the log-prob and the entropy of each completion token. Both (N,)"""
    mask = batch.completion_mask
    return PolicyOutputs(
        logp=spread(logp, mask),
        entropy=spread(entropy, mask) if entropy is not None else None,
        prompt_hidden=_prompt_mean(states, batch.prompt_lengths) if "prompt_hidden" in needs else None,
        prompt_last_hidden=_prompt_last(states, batch.prompt_lengths) if "prompt_last_hidden" in needs else None,
        completion_hidden=spread(states.predicting, mask) if "completion_hidden" in needs else None,
    )


def spread(flat: Tensor, mask: Tensor) -> Tensor:
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


# --- log-probs: from hidden states through the output layer ------------------------------------------------------


def chunk_rows(vocabulary: int, hidden: int, device_type: str) -> int:
    """Return the number of rows whose logits are in memory at once.

    A CPU computes from its cache and a GPU wants long kernels, so the smallest chunk depends on the device. It grows
    to an eighth of the output layer, because every chunk reads the layer and updates its gradient from memory.
    """
    least = _LEAST_CHUNK_BYTES.get(device_type, _LEAST_CHUNK_BYTES["cuda"])
    return max(1, least // (4 * vocabulary), hidden // 8)


@dataclass(frozen=True, slots=True)
class Head:
    """The output layer of a model: from hidden states to logits."""

    weight: Tensor  # (V, H)
    bias: Tensor | None
    temperature: float = 1.0
    softcap: float | None = None
    scale: float = 1.0

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits in float32, divided by the sampling temperature. (N, H) -> (N, V)"""
        logits = torch.nn.functional.linear(hidden, self.weight, self.bias).float()
        if self.scale != 1:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits / self.temperature if self.temperature != 1 else logits

    def chunk_rows(self) -> int:
        vocabulary, hidden = self.weight.shape
        return chunk_rows(vocabulary, hidden, self.weight.device.type)


def token_logp(head: Head, hidden: Tensor, ids: Tensor, *, with_entropy: bool = False) -> tuple[Tensor, Tensor | None]:
    """Return the log-prob of each id, and the entropy of each distribution if asked for.

    (N, H), (N,) -> (N,), (N,) or None
    """
    arguments = (hidden, head.weight, head.bias, ids, head, with_entropy)
    logp, entropy = _ChunkedLogp.apply(*arguments)  # type: ignore[no-untyped-call]
    return logp, entropy if with_entropy else None


class _ChunkedLogp(torch.autograd.Function):
    """Log-probs by chunks. With several, the backward pass computes the logits of each again: they are not kept."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, head: Head, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        logp = hidden.new_empty(len(ids), dtype=torch.float32)
        entropy = torch.empty_like(logp) if with_entropy else logp.new_empty(0)
        chunks = list(_chunks(len(ids), head.chunk_rows()))
        for rows in chunks:
            normalised = torch.log_softmax(head.logits(hidden[rows]), -1)
            logp[rows] = normalised.gather(-1, ids[rows, None])[:, 0]
            if with_entropy:
                entropy[rows] = -(normalised.exp() * normalised).sum(-1)
        ctx.save_for_backward(hidden, weight, bias, ids)
        ctx.head, ctx.with_entropy = head, with_entropy
        ctx.only_chunk = normalised if len(chunks) == 1 and head.softcap is None else None
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, grad_logp: Tensor, grad_entropy: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, ids = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        for rows in _chunks(len(ids), ctx.head.chunk_rows()):
            of_entropy = grad_entropy[rows] if ctx.with_entropy and grad_entropy.any() else None
            grad_logits = _grad_of_raw_logits(
                ctx.head, hidden[rows], ids[rows], grad_logp[rows], of_entropy, ctx.only_chunk
            )
            grad_hidden[rows] = grad_logits @ weight
            if grad_weight is not None:
                grad_weight.addmm_(grad_logits.T, hidden[rows])
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
        return grad_hidden, grad_weight, grad_bias, None, None, None


def _grad_of_raw_logits(
    head: Head, hidden: Tensor, ids: Tensor, grad_logp: Tensor, grad_entropy: Tensor | None, normalised: Tensor | None
) -> Tensor:
    """Return the gradient at the output of the linear layer, before scale, cap and temperature. (N, V)"""
    logits = head.logits(hidden) if normalised is None else normalised
    grad = logits.softmax(-1) if normalised is None else normalised.exp()
    towards_entropy = _grad_of_entropy(logits, grad, grad_entropy) if grad_entropy is not None else None
    grad = grad.mul_(-grad_logp[:, None]).scatter_add_(-1, ids[:, None], grad_logp[:, None])
    if towards_entropy is not None:
        grad += towards_entropy
    if head.softcap is not None:  # d tanh = 1 - tanh^2, and tanh is the capped logit over the cap
        grad = grad * (1 - (logits * head.temperature / head.softcap).square())
    if head.scale / head.temperature != 1:
        grad = grad * (head.scale / head.temperature)
    return grad.to(hidden.dtype)


def _grad_of_entropy(logits: Tensor, probabilities: Tensor, grad_entropy: Tensor) -> Tensor:
    """Return dH/dlogit_j = -p_j (log p_j + H), times the gradient of the entropy. (N, V)"""
    logp = torch.log_softmax(logits, -1)
    entropy = -(probabilities * logp).sum(-1, keepdim=True)
    return -grad_entropy[:, None] * probabilities * (logp + entropy)


def _chunks(n_rows: int, chunk_rows: int) -> Iterator[slice]:
    return (slice(start, start + chunk_rows) for start in range(0, n_rows, chunk_rows))


def head_of(module: Any, temperature: float) -> Head:
    """Return the output layer of a causal language model, with the cap or scale that its config declares."""
    output = module.get_output_embeddings()
    config = module.config
    scale = getattr(config, "logit_scale", None)  # Cohere multiplies
    divisor = getattr(config, "logits_scaling", None)  # Granite divides
    return Head(
        output.weight,
        getattr(output, "bias", None),
        temperature,
        getattr(config, "final_logit_softcapping", None),
        (scale if scale is not None else 1.0) / (divisor if divisor is not None else 1.0),
    )
