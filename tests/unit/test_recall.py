"""Training with the products that the sampler made: the same gradients, fewer products, and never stale ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from training_parts import tiny_module, tiny_tokenizer
from transformers import AutoModelForCausalLM as Models
from transformers import Gemma2Config, GPT2Config, LlamaConfig, Qwen2Config

from harness.core.discovery import load
from harness.core.protocols import ModelSource
from harness.core.training import Batch
from harness.core.types import Completion, Graded, Message, Problem, Request, Sampling, Verdict
from harness.engines._decode import LEAVE_FRACTION
from harness.trainers.batch import collate, microbatch
from harness.trainers.optimizer import make_optimizer
from harness.trainers.policy import Policy
from harness.trainers.settings import OptimizerConfig

ROOM = 2**24
SIX = ["1 2 4 5 7 9 = 38 :", "1 1 2 3 5 8 = 21 :", "2 3 3 4 6 7 = 50 :"]
VARIED = ["1 2 = 3 :", "4 5 6 7 = 8 :", "9 9 9 9 9 9 = 99 :"]
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 110,
}
CONFIGS = {
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=110, bos_token_id=1, eos_token_id=1),
    "llama": LlamaConfig(**SHAPE),
    "qwen2": Qwen2Config(**SHAPE, num_key_value_heads=2, tie_word_embeddings=True),
    "gemma2": Gemma2Config(**SHAPE, num_key_value_heads=2, head_dim=8, final_logit_softcapping=3.0),
}


def made(name: str) -> Any:
    torch.manual_seed(0)
    return Models.from_config(CONFIGS[name]).eval()


def sampled(
    policy: Policy,
    prompts: list[str],
    *,
    n: int = 4,
    max_tokens: int = 9,
    batch_rows: int = 256,
    dtype: str = "float32",
) -> Batch:
    """Completions of the policy, which remembers what it gave to sample them."""
    engine_class = load("engines", "hf")
    engine = engine_class(engine_class.Config(batch_rows=batch_rows))
    source = ModelSource("", module=policy.module, tokenizer=tiny_tokenizer(), onlooker=policy.recall, dtype=dtype)
    engine.open(source)
    problems = {p: Problem(p, "countdown", (Message("user", p),), None) for p in prompts}
    sampling = Sampling(max_tokens=max_tokens)
    asked = [Request(p, i, problems[p].messages, 17 * i + j, sampling) for j, p in enumerate(prompts) for i in range(n)]
    with policy.recall.recording():
        completions: list[Completion] = list(engine.generate(asked))
    graded = [Graded(problems[c.problem_id], c, Verdict("correct", 1.0)) for c in completions]
    return collate(sorted(graded, key=lambda item: (item.problem.id, item.completion.index)), "cpu")


def direction(batch: Batch) -> torch.Tensor:
    return torch.randn(batch.completion_mask.shape, generator=torch.Generator().manual_seed(3)) * batch.completion_mask


def gradients(policy: Policy, batch: Batch) -> dict[str, torch.Tensor]:
    policy.module.zero_grad()
    (policy.forward(batch, frozenset()).logp * direction(batch)).sum().backward()
    return {name: p.grad.clone() for name, p in policy.module.named_parameters() if p.grad is not None}


def products(policy: Policy, batch: Batch) -> int:
    """Floating-point operations in the linear layers of a pass, but for the output layer's."""
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        policy.forward(batch, frozenset())
    flops = counted.get_flop_counts()["Global"]
    head = 2 * int(batch.completion_mask.sum()) * policy.module.get_output_embeddings().weight.numel()
    return sum(flops.get(operation, 0) for operation in (torch.ops.aten.mm, torch.ops.aten.addmm)) - head


@pytest.mark.parametrize(("prompts", "batch_rows"), [(SIX, 256), (VARIED, 5)])
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_gradients_are_as_near_to_the_true_ones_as_those_with_products(
    name: str, prompts: list[str], batch_rows: int
) -> None:
    recalling, module = Policy(made(name), 1.0, recall_bytes=ROOM), made(name)
    batch = sampled(recalling, prompts, batch_rows=batch_rows)
    true = gradients(Policy(copy.deepcopy(module).double(), 1.0), batch)
    plain = gradients(Policy(module, 1.0), batch)
    recalled = gradients(recalling, batch)
    assert products(recalling, batch) == 0 < products(Policy(module, 1.0), batch)
    assert recalled.keys() == true.keys()
    for parameter, gradient in true.items():
        error = (recalled[parameter] - gradient).abs().max()
        # Rounding differs, so one is nearer here and the other there; the floor is float32's own.
        assert error <= 4 * (plain[parameter] - gradient).abs().max() + 2e-6 * gradient.abs().max(), parameter


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_in_bfloat16_they_are_as_near_to_the_true_ones_as_those_with_products(name: str) -> None:
    recalling, module = Policy(made(name), 1.0, recall_bytes=ROOM, precision="bfloat16"), made(name)
    batch = sampled(recalling, SIX, n=8, dtype="bfloat16")
    true = gradients(Policy(copy.deepcopy(module).double(), 1.0), batch)
    plain = gradients(Policy(module, 1.0, precision="bfloat16"), batch)
    recalled = gradients(recalling, batch)
    assert products(recalling, batch) == 0 < products(Policy(module, 1.0, precision="bfloat16"), batch)
    assert recalled.keys() == true.keys()

    def error(found: dict[str, torch.Tensor]) -> float:
        return sum((found[name] - gradient).square().sum().item() for name, gradient in true.items()) ** 0.5

    # Products of one token at a time are rounded otherwise than those of many, and as often to the wrong side.
    size = sum(gradient.square().sum().item() for gradient in true.values()) ** 0.5
    assert error(recalled) <= 1.5 * error(plain) and error(recalled) <= 0.03 * size, (error(plain), size)


def test_products_of_another_precision_are_not_taken() -> None:
    policy = Policy(tiny_module(None), 1.0, recall_bytes=ROOM, precision="bfloat16")
    batch = sampled(policy, SIX, dtype="float32")
    assert products(policy, batch) == products(Policy(policy.module, 1.0, precision="bfloat16"), batch) > 0


def test_completions_that_end_early_and_leave_are_known_whole() -> None:
    policy = Policy(tiny_module(), 1.0, recall_bytes=2**27)
    batch = sampled(policy, SIX, n=40, max_tokens=40)
    assert (batch.completion_lengths < 40).float().mean() > LEAVE_FRACTION
    assert products(policy, batch) == 0
    own = Policy(tiny_module(), 1.0).forward(batch, frozenset()).logp
    torch.testing.assert_close(policy.forward(batch, frozenset()).logp, own, rtol=1e-5, atol=2e-5)


def test_the_same_sampling_gives_the_same_gradient_to_the_bit() -> None:
    found = []
    for _ in range(2):
        policy = Policy(tiny_module(None), 1.0, recall_bytes=ROOM)
        found.append(gradients(policy, sampled(policy, SIX)))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def optimise(policy: Policy, batch: Batch) -> None:
    gradients(policy, batch)
    objective: Any = SimpleNamespace(parameters=list)
    make_optimizer(policy.module, objective, OptimizerConfig(lr=0.1)).step()


def load_others(policy: Policy, _: Batch) -> None:
    policy.module.load_state_dict(tiny_module(5).state_dict())


def change_one(policy: Policy, _: Batch) -> None:
    with torch.no_grad():
        policy.module.model.norm.weight[3] += 1


def sample_elsewhere(policy: Policy, _: Batch) -> None:
    with policy.recall.recording():
        pass


@pytest.mark.parametrize("change", [optimise, load_others, change_one, sample_elsewhere])
def test_nothing_is_given_again_once_a_weight_has_changed(change: Callable[[Policy, Batch], None]) -> None:
    policy = Policy(tiny_module(None), 1.0, recall_bytes=ROOM)
    batch = sampled(policy, SIX)
    assert products(policy, batch) == 0
    change(policy, batch)
    changed = Policy(copy.deepcopy(policy.module), 1.0)
    assert products(policy, batch) == products(changed, batch)
    assert torch.equal(policy.forward(batch, frozenset()).logp, changed.forward(batch, frozenset()).logp)


def test_what_has_no_room_is_multiplied_and_what_has_is_not() -> None:
    policy = Policy(tiny_module(None), 1.0, recall_bytes=2**21)  # 176 tokens, and a window takes 96
    batch = sampled(policy, SIX, batch_rows=4, max_tokens=2, n=4)
    known = [products(policy, microbatch(batch, torch.tensor([row]), batch.totals)) == 0 for row in range(12)]
    assert sum(known) == 4
    own = Policy(tiny_module(None), 1.0).forward(batch, frozenset()).logp
    torch.testing.assert_close(policy.forward(batch, frozenset()).logp, own, rtol=1e-5, atol=2e-5)


def test_completions_of_somebody_else_are_multiplied() -> None:
    policy = Policy(tiny_module(None), 1.0, recall_bytes=ROOM)
    batch = sampled(policy, SIX)
    batch.sequence_ids[0, -2] = 3 if batch.sequence_ids[0, -2] != 3 else 4
    own = Policy(policy.module, 1.0).forward(batch, frozenset()).logp
    assert torch.equal(policy.forward(batch, frozenset()).logp, own)


def test_a_layer_that_is_not_called_once_for_every_token_is_multiplied() -> None:
    def shared() -> Any:
        module = Models.from_config(copy.deepcopy(CONFIGS["llama"])).eval()
        module.model.layers[1].mlp.up_proj = module.model.layers[0].mlp.up_proj
        return module

    torch.manual_seed(0)
    module = shared()
    recalling, plain = Policy(module, 1.0, recall_bytes=ROOM), Policy(copy.deepcopy(module), 1.0)
    batch = sampled(recalling, SIX)
    logp = plain.forward(batch, frozenset()).logp
    torch.testing.assert_close(recalling.forward(batch, frozenset()).logp, logp, rtol=1e-5, atol=2e-5)
    n_read = 3 * int(batch.prompt_lengths[0]) + len(batch.rewards) * (int(batch.completion_lengths.max()) - 1)
    assert products(recalling, batch) == 2 * 2 * n_read * SHAPE["hidden_size"] * SHAPE["intermediate_size"]


def test_set_aside_everything_is_multiplied_and_then_given_again() -> None:
    policy = Policy(tiny_module(None), 1.0, recall_bytes=ROOM)
    batch = sampled(policy, SIX)
    with policy.recall.aside():
        assert products(policy, batch) == products(Policy(copy.deepcopy(policy.module), 1.0), batch) > 0
        assert policy.recall.n_given == 0
    assert products(policy, batch) == 0
    assert policy.recall.n_given > 0


ADAPTERS: Any = object()
"""Whatever they are."""


@pytest.mark.parametrize(
    "policy",
    [
        lambda: Policy(tiny_module(None), 1.0, recall_bytes=0),
        lambda: Policy(tiny_module(None), 1.0, recall_bytes=ROOM, checkpoint_activations=True),
        lambda: Policy(tiny_module(None).bfloat16(), 1.0, recall_bytes=ROOM),
        lambda: Policy(tiny_module(None), 1.0, recall_bytes=ROOM, adapters=ADAPTERS),
    ],
    ids=["no room", "gradient checkpointing", "bfloat16", "adapters"],
)
def test_where_it_is_off_everything_is_multiplied(policy: Callable[[], Policy]) -> None:
    off = policy()
    batch = sampled(off, SIX)
    assert products(off, batch) == products(Policy(off.module, 1.0), batch) > 0
    assert off.recall._room == 0
