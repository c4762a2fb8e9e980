"""bfloat16 in the layers of the training forward, and float32 everywhere else."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from training import assert_same_run, figures, recipe, run, weights
from training_parts import make_batch, tiny_module
from transformers import AutoModelForCausalLM, OPTConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from harness.core.config import parse_plugin
from harness.core.errors import ConfigError
from harness.core.protocols import ModelSource, Need
from harness.core.registry import load
from harness.core.tensors import Batch, PolicyOutputs
from harness.core.types import Completion, Message, Request, Sampling
from harness.models.loading import BUNDLED, checkpoint_folders, load_module, load_tokenizer
from harness.trainers.policy.model import Policy
from harness.trainers.policy.precision import FLOAT32_ATTENTION, fused_attention

HALF = {"precision": "bfloat16"}
TINY = ModelSource(str(BUNDLED / "countdown-tiny"))
# Prompts of their own, so that every sequence is read whole; and shared ones, which are read once.
BATCHES = {
    "whole": make_batch([9, 9, 4, 7], [12, 5, 1, 7], [0, 1, 2, 3]),
    "once": make_batch([9, 9, 9, 9], [12, 5, 1, 7], [0, 0, 1, 1]),
}
# Enough tokens that their roundings average: with 25 of them single gradients are up to 5 % off, by chance.
LONG = [12, 5, 1, 7, 11, 9, 12, 10, 4, 12, 8, 6]
ROUNDED = {
    "whole": make_batch([9, 9, 4, 7, 5, 8, 6, 3, 9, 5, 7, 4], LONG, list(range(12))),
    "once": make_batch([9] * 6 + [7] * 6, LONG, [0] * 6 + [1] * 6),
}
HEADS: frozenset[Need] = frozenset({"prompt_hidden", "prompt_last_hidden", "completion_hidden", "entropy"})


def logp(module: Any, batch: Batch, **settings: Any) -> torch.Tensor:
    return Policy(module, 0.7, **settings).forward(batch, frozenset()).logp


def gradients(module: Any, batch: Batch, **settings: Any) -> dict[str, torch.Tensor]:
    module.zero_grad()
    logp(module, batch, **settings).mul(direction(batch)).sum().backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def direction(batch: Batch) -> torch.Tensor:
    return torch.randn(batch.completion_mask.shape, generator=torch.Generator().manual_seed(3))


def in_float64(module: Any, batch: Batch) -> torch.Tensor:
    """Every sequence by itself, through the model's own logits."""
    rows = []
    for row, (p, c) in enumerate(zip(batch.prompt_lengths.tolist(), batch.completion_lengths.tolist(), strict=True)):
        ids = batch.sequence_ids[row : row + 1, : p + c]
        found = torch.log_softmax(module(input_ids=ids).logits[0] / 0.7, -1)[p - 1 : -1].gather(-1, ids[0, p:, None])
        rows.append(torch.nn.functional.pad(found[:, 0], (0, batch.completion_mask.shape[1] - c)))
    return torch.stack(rows)


def test_the_layers_are_bfloat16_and_the_logits_float32_to_the_last_bit() -> None:
    module, batch = tiny_module(None), make_batch([9], [12], [0])
    found = logp(module, batch, **HALF)[0]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        hidden = module.model(input_ids=batch.sequence_ids[:, :-1], use_cache=False).last_hidden_state[0, 8:]
    logits = hidden.double() @ module.lm_head.weight.detach().double().T / 0.7
    expected = torch.log_softmax(logits, -1).gather(-1, batch.sequence_ids[0, 9:, None])[:, 0]
    assert found.dtype == torch.float32
    # bfloat16 logits of size 16 would be off by 0.06
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5)
    assert (found - logp(module, batch)[0]).abs().max() > 1e-3, "the layers themselves are not float32"


@pytest.mark.parametrize("name", sorted(ROUNDED))
def test_values_and_gradients_are_near_those_of_float64(name: str) -> None:
    batch, module = ROUNDED[name], tiny_module(None)
    exact = tiny_module(None).double()
    expected = in_float64(exact, batch)
    # a bfloat16 has 8 bits: relative 0.004 a product, through three layers, in logits of size 16
    torch.testing.assert_close(logp(module, batch, **HALF).double(), expected.detach(), rtol=0.02, atol=0.15)
    (expected * direction(batch)).sum().backward()
    found = gradients(module, batch, **HALF)
    for parameter, of_float64 in ((name, p.grad) for name, p in exact.named_parameters()):
        apart = (found[parameter].double() - of_float64).norm() / of_float64.norm()
        assert found[parameter].dtype == torch.float32
        assert 1e-5 < apart < 0.05, (parameter, apart)


GROUPS = ("embed_tokens", "self_attn", "mlp", "norm", "lm_head")


def by_group(found: Mapping[str, torch.Tensor], exact: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """|gradient - exact| / |exact|, over all parameters of a kind."""
    apart, size = dict.fromkeys(GROUPS, 0.0), dict.fromkeys(GROUPS, 0.0)
    for name, of_float64 in exact.items():
        group = next(group for group in GROUPS if group in name)
        apart[group] += float((found[name].double() - of_float64).square().sum())
        size[group] += float(of_float64.square().sum())
    return {group: math.sqrt(apart[group] / size[group]) for group in GROUPS if size[group] > 0}


def loss_and_gradients(
    objective: Any, module: Any, batch: Batch, logp: torch.Tensor, reference: torch.Tensor
) -> tuple[float, dict[str, torch.Tensor]]:
    """Of a step's first update, before which the policy was what it is."""
    before = PolicyOutputs(logp=logp.detach(), logp_reference=reference)
    result = objective.loss(batch, PolicyOutputs(logp=logp), before, objective.advantages(batch, before))
    result.loss.backward()
    return float(result.loss.detach()), {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


OBJECTIVES = {"grpo": {"kl_beta": 0.04, "reduction": "token_mean"}, "flowrl_ablation": {"log_z": "none"}}
# A bfloat16 has 8 bits, so a rounding is off by 0.2 % and a product of two by 0.3 %; there are 7 products in each of 3
# layers, forward and backward, which add at random. Seen: 1.0 to 1.8 %, and 0.02 % of the loss.
OFF_GRADIENT, OFF_LOSS = 0.03, 0.001


@pytest.mark.parametrize("objective_id", sorted(OBJECTIVES))
def test_loss_and_gradient_of_the_same_rollouts_are_near_those_of_float64(objective_id: str) -> None:
    plugin = load("objectives", objective_id)
    objective = plugin(plugin.Config(**OBJECTIVES[objective_id]))
    batch = dataclasses.replace(ROUNDED["once"], rewards=torch.tensor([1.0, 0, 0, 1, 0, 1] * 2, dtype=torch.float64))
    exact, module = tiny_module(None).double(), tiny_module(None)
    exact_logp, found_logp = in_float64(exact, batch), logp(module, batch, **HALF).double()
    reference = exact_logp.detach() + 0.1 * direction(batch) * batch.completion_mask  # a tenth of a nat off
    expected_loss, expected = loss_and_gradients(objective, exact, batch, exact_logp, reference)
    found_loss, found = loss_and_gradients(objective, module, batch, found_logp, reference)
    assert found_loss == pytest.approx(expected_loss, rel=OFF_LOSS)
    apart = by_group(found, expected)
    assert all(1e-4 < off < OFF_GRADIENT for off in apart.values()), apart


def ends_in_a_linear_layer() -> Any:
    """A body whose last hidden states are bfloat16 under autocast; those of most others are float32."""
    torch.manual_seed(0)
    shape = OPTConfig(
        hidden_size=32, word_embed_proj_dim=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=32, vocab_size=110
    )
    return AutoModelForCausalLM.from_config(shape)


@pytest.mark.parametrize("make", [tiny_module, ends_in_a_linear_layer])
def test_outputs_for_objectives_are_float32(make: Callable[[], Any]) -> None:
    outputs: PolicyOutputs = Policy(make(), 1.0, precision="bfloat16").forward(BATCHES["whole"], HEADS)
    of_others = {"logp_reference", "logp_unweighed", "values"}
    found = [getattr(outputs, field.name) for field in dataclasses.fields(outputs) if field.name not in of_others]
    assert all(tensor.dtype == torch.float32 for tensor in found)


def test_attention_of_other_models_is_unchanged(tmp_path: Path) -> None:
    policy, other = Policy(tiny_module(), 1.0, precision="bfloat16"), tiny_module()
    assert policy.module.config._attn_implementation == FLOAT32_ATTENTION
    assert other.config._attn_implementation == "sdpa"
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa_attention_forward
    policy.save_pretrained(tmp_path)
    assert FLOAT32_ATTENTION not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("is_policy", [True, False])
def test_only_a_bfloat16_policy_attends_in_float32(is_policy: bool) -> None:
    policy, other = Policy(tiny_module(), 1.0, precision="bfloat16"), tiny_module()
    kernel, seen = torch.nn.functional.scaled_dot_product_attention, []

    def recorded(query: torch.Tensor, *rest: Any, **settings: Any) -> torch.Tensor:
        seen.append((attended := kernel(query, *rest, **settings)).dtype)  # autocast casts inside the kernel
        return attended

    with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", recorded)
        (policy.module if is_policy else other)(input_ids=torch.arange(2, 10)[None])
    assert set(seen) == {torch.float32 if is_policy else torch.bfloat16}


def test_attention_on_cpu_is_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(2, 4, 9, 8, generator=generator).bfloat16() for _ in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = fused_attention(torch.nn.Identity(), *states, None, is_causal=True)
    query, key, value = (state.double() for state in states)
    scores = (query @ key.mT / math.sqrt(8)).masked_fill(~torch.ones(9, 9, dtype=torch.bool).tril(), -torch.inf)
    # float32; in bfloat16 it would be off by 0.01
    torch.testing.assert_close(found.double(), (scores.softmax(-1) @ value).transpose(1, 2), rtol=0, atol=1e-5)


def test_recomputed_layers_are_bfloat16_as_well() -> None:
    module = tiny_module()
    kept = gradients(module, BATCHES["whole"], **HALF)
    recomputed = gradients(module, BATCHES["whole"], **HALF, checkpoint_activations=True)
    assert all(torch.equal(kept[name], recomputed[name]) for name in kept)


def test_bfloat16_run_resumed_after_two_steps_equals_four_steps_to_the_bit(tmp_path: Path) -> None:
    run(recipe("countdown-flowrl", loop=HALF), tmp_path / "unbroken")
    run(recipe("countdown-flowrl", loop={**HALF, "steps": 2}), tmp_path / "broken")
    run(recipe("countdown-flowrl", loop=HALF), tmp_path / "broken")
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")
    assert all(tensor.dtype == torch.float32 for tensor in weights(tmp_path / "broken").values())
    newest = checkpoint_folders(tmp_path / "broken")[-1]
    state = torch.load(newest / "training_state.pt", weights_only=True)["optimizer"]["state"]
    assert all(value.dtype == torch.float32 for moments in state.values() for value in moments.values())


def test_bfloat16_steps_start_from_the_policys_log_probs_not_the_engines(tmp_path: Path) -> None:
    rows = {}
    for choice in ("auto", "recompute", "engine"):
        loop = {**HALF, "steps": 1, "logp_old": choice}
        rows[choice] = figures(run(recipe("countdown-flowrl", loop=loop), tmp_path / choice).folder)
    assert 0 < rows["auto"][0]["logp_gap"] < 1e-3, "the engine samples as the policy is trained"
    assert rows["auto"] == rows["recompute"] != rows["engine"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"loop": HALF, "model": {"dtype": "bfloat16"}}, r"leave model.dtype at 'auto'"),
        ({"model": {"dtype": "float16"}}, "loss scaling, which is not offered"),
        ({"loop": {"precision": "float16"}}, "loop.precision"),
    ],
)
def test_precisions_that_lose_small_updates_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        recipe("countdown-grpo", **changes)


def completions_of(policy: Policy, dtype: str) -> list[Completion]:
    engine = parse_plugin("engines", "hf").build()
    engine.open(ModelSource("unused", module=policy.module, tokenizer=load_tokenizer(TINY), dtype=dtype))
    asked = [
        Request(str(i), 0, (Message("user", f"{i} 7 3 5 = {20 + i}"),), 100 + i, Sampling(max_tokens=12))
        for i in range(8)
    ]
    return sorted(engine.generate(asked), key=lambda completion: completion.problem_id)


def test_policy_is_sampled_in_the_precision_of_training() -> None:
    policy = Policy(load_module(TINY), 1.0, precision="bfloat16")
    own_forward = policy.module.lm_head.forward
    drawn = completions_of(policy, "bfloat16")
    assert policy.module.lm_head.forward == own_forward and not torch.is_autocast_enabled("cpu")
    gaps = {}
    for name, reader in (("bfloat16", policy), ("float32", Policy(load_module(TINY), 1.0))):
        read = [logp_of(reader, completion) for completion in drawn]
        told = [torch.tensor(completion.tokens.logp_behaviour) for completion in drawn]
        gaps[name] = (torch.cat(read) - torch.cat(told)).abs().mean().item()
    # Other kernels read one token at a time than whole sequences, so that some roundings differ.
    assert gaps["bfloat16"] < 0.003 and gaps["bfloat16"] < 0.8 * gaps["float32"], gaps
    assert completions_of(policy, "bfloat16") == drawn
    assert completions_of(policy, "float32") != drawn


def logp_of(policy: Policy, completion: Completion) -> torch.Tensor:
    tokens = completion.tokens
    assert tokens.prompt_ids is not None and tokens.completion_ids is not None
    batch = make_batch([len(tokens.prompt_ids)], [len(tokens.completion_ids)], [0])
    ids = torch.tensor([[*tokens.prompt_ids, *tokens.completion_ids]])
    with torch.no_grad():
        return policy.forward(dataclasses.replace(batch, sequence_ids=ids), frozenset()).logp[0]
