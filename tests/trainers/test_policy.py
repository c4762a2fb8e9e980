"""The forward pass: log-probabilities, their gradients, and the memory they take."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training_parts import make_batch, tiny_module
from transformers import AutoModelForCausalLM as Models
from transformers import Cohere2Config, Gemma2Config, GPT2Config, GraniteConfig, LlamaConfig, Qwen2Config

from harness.core.errors import ModelError
from harness.core.tensors import Batch
from harness.trainers.config import Precision
from harness.trainers.policy import logprobs
from harness.trainers.policy.forward import forward_full, forward_shared_prompt
from harness.trainers.policy.logprobs import Head, head_of, token_logp
from harness.trainers.policy.model import Policy

SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 110,
}
CONFIGS = {
    "llama": LlamaConfig(**SHAPE),
    "qwen2": Qwen2Config(**SHAPE, num_key_value_heads=2, tie_word_embeddings=True),
    "gemma2": Gemma2Config(**SHAPE, num_key_value_heads=2, head_dim=8, final_logit_softcapping=3.0),
    "granite": GraniteConfig(**SHAPE, num_key_value_heads=2, logits_scaling=5.0),
    "cohere2": Cohere2Config(**SHAPE, num_key_value_heads=2, logit_scale=0.25),
}


def own_logp(module: Any, batch: Batch, temperature: float) -> torch.Tensor:
    """From the model's own logits, one unpadded sequence at a time."""
    rows = torch.zeros(batch.completion_mask.shape, dtype=torch.float64)
    for row, (p, c) in enumerate(zip(batch.prompt_lengths.tolist(), batch.completion_lengths.tolist(), strict=True)):
        ids = batch.sequence_ids[row : row + 1, : p + c]
        logits = module(input_ids=ids).logits[0].double() / temperature
        for t in range(c):
            rows[row, t] = torch.log_softmax(logits[p + t - 1], -1)[ids[0, p + t]]
    return rows


@pytest.mark.parametrize("name", sorted(CONFIGS))
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logp_is_the_models_own_whatever_the_padding(name: str, temperature: float) -> None:
    torch.manual_seed(0)
    module = Models.from_config(CONFIGS[name]).eval()
    batch = make_batch([4, 4, 2, 6], [3, 7, 1, 5], [0, 0, 1, 2])
    ours = Policy(module, temperature).forward(batch, frozenset()).logp
    # float32 through two layers; logits are of order 1
    torch.testing.assert_close(ours.double(), own_logp(module, batch, temperature), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("prompts", "completions", "groups"),
    [
        ([9] * 6, [12, 5, 1, 7, 12, 3], [0, 0, 0, 1, 1, 1]),
        ([9, 9, 4, 4, 7], [3, 8, 2, 9, 6], [5, 5, 2, 2, 1]),
        ([9, 9, 4, 4, 7], [1] * 5, [5, 5, 2, 2, 1]),
    ],
)
def test_reading_prompts_once_gives_the_same_states_and_gradients(
    prompts: list[int], completions: list[int], groups: list[int]
) -> None:
    batch, module = make_batch(prompts, completions, groups), tiny_module()
    states, gradients = [], []
    for forward in (forward_full, forward_shared_prompt):
        module.zero_grad()
        found = forward(module, batch)
        # A fixed direction: the squares of normalised states add up to a constant, whose gradient is noise.
        direction = torch.randn(found.predicting.shape, generator=torch.Generator().manual_seed(3))
        (found.predicting * direction).sum().backward()
        states.append(found.predicting.detach())
        gradients.append({name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None})
    torch.testing.assert_close(states[1], states[0], rtol=1e-4, atol=1e-5)
    for name, whole in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], whole, rtol=1e-4, atol=1e-4 * float(whole.abs().max()))


def test_prompts_are_shared_only_where_it_saves_something() -> None:
    policy = Policy(tiny_module(), 1.0)
    assert policy._should_share_prompts(make_batch([8] * 4, [4] * 4, [0] * 4))
    assert not policy._should_share_prompts(make_batch([8] * 4, [4] * 4, [0, 1, 2, 3]))
    assert not policy._should_share_prompts(make_batch([1] * 2, [40] * 2, [0, 0]))


@pytest.mark.parametrize("chunk_elements", [1, 5 * 110, 2**22])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_chunked_logp_and_gradients_equal_the_plain_ones(
    monkeypatch: pytest.MonkeyPatch, chunk_elements: int, softcap: float | None
) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", chunk_elements)
    torch.manual_seed(0)
    hidden = torch.randn(17, 8, requires_grad=True)
    weight, bias = torch.randn(110, 8, requires_grad=True), torch.randn(110, requires_grad=True)
    ids, upstream = torch.randint(0, 110, (17,)), torch.randn(17)
    logp, entropy = token_logp(Head(weight, bias, 0.7, softcap, 1.3), hidden, ids, with_entropy=True)
    ours = torch.autograd.grad(logp, (hidden, weight, bias), upstream)
    logits = (hidden @ weight.T + bias).double() * 1.3
    logits = (torch.tanh(logits / softcap) * softcap if softcap is not None else logits) / 0.7
    plain = torch.log_softmax(logits, -1)
    assert entropy is not None
    torch.testing.assert_close(entropy.double(), -(plain.exp() * plain).sum(-1), rtol=1e-5, atol=1e-5)
    picked = plain.gather(-1, ids[:, None])[:, 0]
    torch.testing.assert_close(logp.double(), picked, rtol=1e-5, atol=1e-5)
    theirs = torch.autograd.grad(picked, (hidden, weight, bias), upstream.double())
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


class LargestTensor(TorchDispatchMode):
    """Remembers the largest tensor with the vocabulary as its last axis that any operation makes."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.rows = vocabulary, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs if kwargs is not None else {}))
        if func is torch.ops.aten.t.default:  # the transposed weight, a view
            return result
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.dim() > 0 and tensor.shape[-1] == self.vocabulary:
                self.rows = max(self.rows, tensor.numel() // self.vocabulary)
        return result


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("reads_entropy", [False, True])
def test_no_tensor_of_all_logits_is_ever_held(
    precision: Precision, reads_entropy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 4 * 110)
    policy = Policy(tiny_module(), 1.0, precision=precision)
    batch = make_batch([4] * 4, [9, 8, 7, 6], [0, 0, 1, 1])
    with LargestTensor(110) as largest:
        outputs = policy.forward(batch, frozenset({"entropy"} if reads_entropy else set()))
        loss = outputs.logp.sum() + (outputs.entropy.sum() if outputs.entropy is not None else 0)
    with LargestTensor(110) as largest_backward:
        loss.backward()
    assert 0 < largest.rows <= 4, "30 completion tokens are scored, at most 4 at once"
    assert 0 < largest_backward.rows <= 4


def test_a_model_with_an_unknown_head_is_refused() -> None:
    module = tiny_module()
    original = module.forward

    def shifted(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        output.logits = output.logits * 1.5
        return output

    module.forward = shifted
    with pytest.raises(ModelError, match="does not know"):
        Policy(module, 1.0)


def test_dropout_is_off_in_training() -> None:
    torch.manual_seed(0)
    module = Models.from_config(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=110)).train()
    policy = Policy(module, 1.0)
    batch = make_batch([4, 4], [3, 7], [0, 0])
    first, second = (policy.forward(batch, frozenset()).logp for _ in range(2))
    assert torch.equal(first, second)


def test_head_reads_the_scale_its_config_declares() -> None:
    assert head_of(Models.from_config(CONFIGS["granite"]), 1.0).scale == pytest.approx(1 / 5.0)
    assert head_of(Models.from_config(CONFIGS["cohere2"]), 1.0).scale == pytest.approx(0.25)


def test_prompts_are_not_shared_where_attention_would_read_the_mask_otherwise() -> None:
    module = Models.from_config(CONFIGS["llama"], attn_implementation="eager").eval()
    batch = make_batch([8] * 4, [4] * 4, [0] * 4)
    policy = Policy(module, 1.0)
    assert not policy._should_share_prompts(batch)
    logp = policy.forward(batch, frozenset()).logp
    torch.testing.assert_close(logp.double(), own_logp(module, batch, 1.0), rtol=1e-5, atol=2e-5)
