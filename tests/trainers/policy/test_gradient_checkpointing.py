"""Gradient checkpointing of the policy."""

from __future__ import annotations

import torch
from training_parts import make_batch, tiny_module

from harness.trainers.policy.model import Policy


def test_gradient_checkpointing_changes_no_gradient() -> None:
    batch = make_batch([5] * 4, [3, 5, 1, 4], [0, 0, 1, 1])
    gradients = []
    for checkpointed in (False, True):
        policy = Policy(tiny_module().double(), 1.0, checkpoint_activations=checkpointed)
        assert bool(policy._checkpointed) == checkpointed
        calls = count_forwards(policy)
        outputs = policy.forward(batch, frozenset({"prompt_hidden"}))
        n_forward = len(calls)
        (outputs.logp.sum() + outputs.prompt_hidden.sum()).backward()
        assert (len(calls) > n_forward) == checkpointed
        assert not any(module.training for module in policy.module.modules())
        gradients.append([p.grad.clone() for p in policy.module.parameters()])
    # The layers in float64; logits are float32 all the same, and gradients reach 115.
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def count_forwards(policy: Policy) -> list[int]:
    """Numbers of the calls of the first attention, those of a recomputation included."""
    calls: list[int] = []
    attention = next(m for name, m in policy.module.named_modules() if name.endswith("self_attn"))
    attention.register_forward_hook(lambda *_: calls.append(len(calls)))
    return calls
