"""The forward pass: log-probabilities, their gradients, and the memory they take."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import CONFIGS, own_logp
from training_parts import make_batch, tiny_module
from transformers import AutoModelForCausalLM as Models
from transformers import GPT2Config

from harness.core.errors import ModelError
from harness.trainers.policy.model import Policy


@pytest.mark.parametrize("name", sorted(CONFIGS))
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logp_equals_the_models_with_any_padding(name: str, temperature: float) -> None:
    torch.manual_seed(0)
    module = Models.from_config(CONFIGS[name]).eval()
    batch = make_batch([4, 4, 2, 6], [3, 7, 1, 5], [0, 0, 1, 2])
    ours = Policy(module, temperature).forward(batch, frozenset()).logp
    # float32 through two layers; logits are of order 1
    torch.testing.assert_close(ours.double(), own_logp(module, batch, temperature), rtol=1e-5, atol=2e-5)


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


def test_the_hidden_state_at_the_last_prompt_token_is_returned() -> None:
    batch = make_batch([5, 5, 3], [3, 2, 2], [0, 0, 1])
    policy = Policy(tiny_module(), 1.0)
    outputs = policy.forward(batch, frozenset({"prompt_last_hidden", "completion_hidden"}))
    assert outputs.prompt_last_hidden is not None
    assert outputs.completion_hidden is not None
    torch.testing.assert_close(outputs.prompt_last_hidden, outputs.completion_hidden[:, 0])
