"""The two forward passes: every sequence on its own, and prompts shared."""

from __future__ import annotations

import pytest
import torch
from tiny_models import CONFIGS, own_logp
from training_parts import make_batch, tiny_module
from transformers import AutoModelForCausalLM as Models

from harness.trainers.policy.model import Policy, forward_full, forward_shared_prompt


@pytest.mark.parametrize(
    ("prompts", "completions", "groups"),
    [
        ([9] * 6, [12, 5, 1, 7, 12, 3], [0, 0, 0, 1, 1, 1]),
        ([9, 9, 4, 4, 7], [3, 8, 2, 9, 6], [5, 5, 2, 2, 1]),
        ([9, 9, 4, 4, 7], [1] * 5, [5, 5, 2, 2, 1]),
    ],
)
def test_shared_prompts_give_the_same_states_and_gradients(
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


def test_prompts_are_shared_only_where_that_saves_tokens() -> None:
    policy = Policy(tiny_module(), 1.0)
    assert policy._should_share_prompts(make_batch([8] * 4, [4] * 4, [0] * 4))
    assert not policy._should_share_prompts(make_batch([8] * 4, [4] * 4, [0, 1, 2, 3]))
    assert not policy._should_share_prompts(make_batch([1] * 2, [40] * 2, [0, 0]))


def test_prompts_are_not_shared_with_attention_that_reads_masks_differently() -> None:
    module = Models.from_config(CONFIGS["llama"], attn_implementation="eager").eval()
    batch = make_batch([8] * 4, [4] * 4, [0] * 4)
    policy = Policy(module, 1.0)
    assert not policy._should_share_prompts(batch)
    logp = policy.forward(batch, frozenset()).logp
    torch.testing.assert_close(logp.double(), own_logp(module, batch, 1.0), rtol=1e-5, atol=2e-5)
