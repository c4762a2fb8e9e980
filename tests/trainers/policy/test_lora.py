"""Low-rank adapters: against merged weights by hand, float64, and the untouched base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training import assert_same_run, figures, recipe, run, weights
from training_parts import make_batch, tiny_module
from transformers import AutoModelForCausalLM

from harness.core.config import parse, parse_plugin
from harness.core.errors import ConfigError, RunFolderError
from harness.core.progress import Progress
from harness.core.tensors import ModelShape
from harness.evaluation.config import EvalConfig
from harness.evaluation.loop import evaluate
from harness.models.loading import checkpoint_folders, resolve
from harness.trainers.config import LoraConfig, OptimizerConfig
from harness.trainers.learner import make_optimizer
from harness.trainers.policy.lora import AdapterReference, Adapters
from harness.trainers.policy.model import Policy

peft = pytest.importorskip("peft", reason="peft is not installed; pip install 'flowrl-harness[lora]'")

BATCH = make_batch([9, 9, 4, 7], [12, 5, 1, 7], [0, 0, 1, 2])
RANK, ALPHA = 3, 12.0
LORA = {"lora": {"rank": RANK, "alpha": ALPHA}}


def adapted(seed: int = 1, **settings: Any) -> tuple[Any, Adapters]:
    """The bundled model under adapters that are not zero."""
    module = tiny_module(None)
    adapters = Adapters(module, LoraConfig(rank=RANK, alpha=ALPHA, **settings), 7, "base")
    shake(adapters, seed)
    return module, adapters


def shake(adapters: Adapters, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapters.parameters().values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def by_hand(adapters: Adapters, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """W + alpha / rank * B A, from the adapters' tensors and a fresh copy of the base model."""
    merged = {name: tensor.to(dtype) for name, tensor in tiny_module(None).state_dict().items()}
    own = {name: p.detach().to(dtype).requires_grad_() for name, p in adapters.parameters().items()}
    for name, a in own.items():
        if ".lora_A." in name:
            b, layer = own[name.replace("lora_A", "lora_B")], name.split(".lora_A.")[0]
            merged[f"{layer}.weight"] = merged[f"{layer}.weight"] + ALPHA / RANK * (b @ a)
    return {"merged": merged, "own": own}


def logp(module: Any, **settings: Any) -> torch.Tensor:
    return Policy(module, 0.7, **settings).forward(BATCH, frozenset()).logp


def direction() -> torch.Tensor:
    return torch.randn(BATCH.completion_mask.shape, generator=torch.Generator().manual_seed(3))


def test_merged_tensors_are_the_base_with_the_product_added() -> None:
    module, adapters = adapted()
    found, expected = dict(adapters.merged_tensors()), by_hand(adapters)["merged"]
    assert found.keys() == expected.keys()
    changed = 0
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor.detach(), rtol=0, atol=1e-6)
        changed += not torch.equal(found[name], tiny_module(None).state_dict()[name])
    assert changed == 7 * 3, "seven linear layers in each of three blocks"
    plain = tiny_module(None)
    plain.load_state_dict(found)
    torch.testing.assert_close(logp(plain), logp(module), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("checkpoint_activations", [False, True])
def test_gradients_of_adapters_are_those_of_float64(checkpoint_activations: bool) -> None:
    module, adapters = adapted()
    settings = {"checkpoint_activations": checkpoint_activations, "adapters": adapters}
    total = (logp(module, **settings) * direction()).sum()
    computed_again: list[bool] = []
    module.model.layers[0].self_attn.q_proj.register_forward_pre_hook(lambda *_: computed_again.append(True))
    total.backward()
    assert any(computed_again) == checkpoint_activations
    exact = by_hand(adapters, torch.float64)
    plain = tiny_module(None).double()
    rows = []
    for row, (p, c) in enumerate(zip(BATCH.prompt_lengths.tolist(), BATCH.completion_lengths.tolist(), strict=True)):
        ids = BATCH.sequence_ids[row : row + 1, : p + c]
        output = torch.func.functional_call(plain, exact["merged"], kwargs={"input_ids": ids}, tie_weights=False)
        found = torch.log_softmax(output.logits[0] / 0.7, -1)[p - 1 : -1].gather(-1, ids[0, p:, None])[:, 0]
        rows.append((found * direction()[row, :c]).sum())
    torch.stack(rows).sum().backward()
    for name, parameter in adapters.parameters().items():
        of_float64 = exact["own"][name].grad
        assert (parameter.grad.double() - of_float64).norm() < 1e-4 * of_float64.norm()
    old = {name for name, p in module.named_parameters() if p.grad is None}
    assert len(old) == len(list(tiny_module(None).parameters()))


def test_optimiser_has_the_adapters_and_the_objectives_parameters() -> None:
    module, adapters = adapted()
    objective = parse_plugin("objectives", "flowrl").build()
    objective.prepare(ModelShape(hidden_size=96, device="cpu"), 0)
    optimizer = make_optimizer(module, objective, OptimizerConfig(lr=1e-3))
    ours = {id(p) for p in adapters.parameters().values()}
    ours |= {id(p) for group in objective.parameters() for p in group.parameters}
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == ours
    assert len(ours) > 2 * 7 * 3


def test_the_reference_is_the_base_model_without_a_copy_of_it() -> None:
    module, adapters = adapted()
    policy = Policy(module, 0.7, adapters=adapters)
    reference = AdapterReference(policy, adapters)
    base = logp(tiny_module(None))
    before = logp(module)
    assert torch.equal(reference.forward(BATCH, frozenset()).logp, base)
    assert torch.equal(logp(module), before)
    assert all(p.requires_grad for p in adapters.parameters().values()), "and the adapters are trained again"
    assert reference.state_dict() == {}


def test_a_reset_reference_stays_where_the_policy_was() -> None:
    module, adapters = adapted()
    policy = Policy(module, 0.7, adapters=adapters)
    reference = AdapterReference(policy, adapters)
    then = logp(module)
    reference.module.load_state_dict(policy.module.state_dict())
    shake(adapters, 2)
    now = logp(module)
    assert not torch.allclose(then, now, atol=0.1)
    assert torch.equal(reference.forward(BATCH, frozenset()).logp, then)
    assert torch.equal(logp(module), now)
    assert reference.state_dict().keys() == adapters.parameters().keys()
    other = AdapterReference(policy, adapters)
    other.load_state_dict(reference.state_dict())
    assert torch.equal(other.forward(BATCH, frozenset()).logp, then)


def test_adapters_start_at_zero_and_depend_on_the_seed() -> None:
    begun = [Adapters(tiny_module(None), LoraConfig(rank=4), seed, "base").parameters() for seed in (7, 7, 8)]
    assert all(torch.equal(begun[0][name], begun[1][name]) for name in begun[0])
    assert not all(torch.equal(begun[0][name], begun[2][name]) for name in begun[0])
    assert not any(p.any() for name, p in begun[0].items() if "lora_B" in name)


def test_only_the_named_layers_get_an_adapter() -> None:
    _, adapters = adapted(target_modules=("q_proj", "v_proj"))
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in adapters.parameters()}
    assert layers == {"q_proj", "v_proj"}


@pytest.mark.parametrize(
    ("names", "told"),
    [(("no_proj",), "no_proj"), (("lm_head",), "output layer"), (("q_proj", "embed_tokens"), "embeddings")],
)
def test_layers_that_cannot_have_an_adapter_are_refused(names: tuple[str, ...], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        adapted(target_modules=names)


def test_adapters_on_half_precision_are_float32() -> None:
    module = tiny_module(None).bfloat16()
    adapters = Adapters(module, LoraConfig(rank=4), 7, "base")
    assert {p.dtype for p in adapters.parameters().values()} == {torch.float32}
    assert {tensor.dtype for _, tensor in adapters.merged_tensors()} == {torch.bfloat16}
    (logp(module, adapters=adapters) * direction()).sum().backward()


@pytest.mark.parametrize("settings", [{"alpha": 8.0}, {"target_modules": ["q_proj"]}, {"rank": 4, "alpha": 0.0}])
def test_settings_without_effect_or_meaning_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"lora[.:]"):
        recipe("countdown-grpo", lora=settings)


# --- runs


@pytest.mark.parametrize("name", ["countdown-flowrl", "countdown-ppo"])
def test_lora_run_resumed_after_two_steps_equals_four_steps_to_the_bit(name: str, tmp_path: Path) -> None:
    run(recipe(name, **LORA), tmp_path / "unbroken")
    run(recipe(name, **LORA, loop={"steps": 2}), tmp_path / "broken")
    run(recipe(name, **LORA), tmp_path / "broken")
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")
    files = [checkpoint_folders(tmp_path / f)[-1] / "adapter/adapter_model.safetensors" for f in ("unbroken", "broken")]
    one, other = map(load_file, files)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(row["logp_gap_max"] < 1e-5 for row in figures(tmp_path / "broken"))


def test_a_reset_reference_is_resumed_to_the_bit(tmp_path: Path) -> None:
    settings = {**LORA, "reference": {"reset_every_steps": 1}}
    run(recipe("countdown-flowrl", **settings), tmp_path / "unbroken")
    run(recipe("countdown-flowrl", **settings, loop={"steps": 2}), tmp_path / "broken")
    run(recipe("countdown-flowrl", **settings), tmp_path / "broken")
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")


def test_rollouts_before_the_first_lora_update_are_those_of_the_base_model(tmp_path: Path) -> None:
    loop = {"steps": 2}
    run(recipe("countdown-grpo", loop=loop, rollouts={"only": True}), tmp_path / "rollouts")
    source = {"source": str(tmp_path / "rollouts")}
    rows = figures(run(recipe("countdown-grpo", **LORA, loop=loop, rollouts=source), tmp_path / "run").folder)
    assert [row["on_policy"] for row in rows] == [1, 0]
    assert [row.get("logp_gap", 1.0) < 1e-5 for row in rows] == [True, False], (
        "where the policy has moved there is none"
    )
    assert not any("weights_version" in row for row in rows)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft's own
def test_a_checkpoint_is_a_merged_model_with_its_adapter_in_a_folder(tmp_path: Path) -> None:
    run(recipe("countdown-grpo", **LORA), tmp_path / "run")
    checkpoint = Path(resolve(str(tmp_path / "run")))
    merged, told = AutoModelForCausalLM.from_pretrained(checkpoint, output_loading_info=True)
    assert not any(told.values())
    base = tiny_module(None)
    assert merged.state_dict().keys() == base.state_dict().keys()
    assert not torch.equal(weights(tmp_path / "run")[NAME], base.state_dict()[NAME])
    alone = peft.PeftModel.from_pretrained(tiny_module(None), checkpoint / "adapter").merge_and_unload()
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(alone.state_dict()[name], tensor, rtol=0, atol=1e-6)
    settings = {"model": {"path": str(tmp_path / "run")}, "tasks": ["countdown"], "n": 2, "limit": 3}
    view = evaluate(parse(EvalConfig, settings), tmp_path / "eval", Progress(quiet=True))
    assert view.estimates()["countdown"][0].n_completions == 6


NAME = "model.layers.0.self_attn.q_proj.weight"


def test_adapters_of_other_settings_and_none_at_all_are_refused(tmp_path: Path) -> None:
    run(recipe("countdown-grpo", **LORA, loop={"steps": 1}), tmp_path / "run")
    with pytest.raises(RunFolderError, match=f"lora.rank: {RANK} there, {RANK + 1} now"):
        run(recipe("countdown-grpo", lora={"rank": RANK + 1, "alpha": ALPHA}), tmp_path / "run")
    file = checkpoint_folders(tmp_path / "run")[-1] / "adapter/adapter_model.safetensors"
    for damaged in (lambda: file.write_bytes(b"1234"), file.unlink):
        damaged()
        with pytest.raises(RunFolderError, match="if it is damaged"):
            run(recipe("countdown-grpo", **LORA), tmp_path / "run")
