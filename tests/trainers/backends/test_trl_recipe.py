"""TRL's own loop with the objectives of recipes: gradients as in our loop, checkpoints, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from harness.core.errors import ConfigError, RunError, RunFolderError

if importlib.util.find_spec("trl") is None:
    pytest.skip("needs the extra trl", allow_module_level=True)

import recipe_training
from recipe_training import Rewards, dataset, gradients_of_the_loop, keep_gradients, small, trainer_of

from harness.models.loading import resolve
from harness.trainers.backends.trl import learner as trl_learner
from harness.trainers.backends.trl.grpo_arguments import arguments_of
from harness.trainers.backends.trl.recipe_trainer import STATE

pytestmark = pytest.mark.filterwarnings("default")  # those of TRL and transformers are not ours

NAMES = ("countdown-flowrl", "countdown-vargrad_tb", "countdown-grpo", "countdown-maxrl")


def differences(
    name: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    accumulation: int,
    *,
    with_gaps: bool = False,
    **changes: Any,
) -> list[float]:
    """Return the difference of each update's gradient from our loop's on the same completions, relative to its norm."""
    config, rewards = small(name, **changes), Rewards(with_gaps=with_gaps)
    theirs = keep_gradients(trl_learner, monkeypatch.setattr)
    trainer_of(config, folder, rewards, gradient_accumulation_steps=accumulation).train()
    ours = gradients_of_the_loop(config, rewards.seen, monkeypatch.setattr)
    assert len({len(ids) for _, ids, _ in rewards.seen}) > 2
    assert len(ours) == len(theirs) == 2 * config.loop.minibatches_per_step * config.loop.epochs
    assert all(float(gradient.norm()) > 0 for gradient in ours)
    return [float((a - b).norm() / a.norm()) for a, b in zip(ours, theirs, strict=True)]


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_that_of_the_loop(
    name: str, accumulation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = differences(name, tmp_path, monkeypatch, accumulation)
    print(f"{name}, {accumulation}: {found[0]:.1e}, {max(found):.1e}")
    assert found[0] < 1e-4 and max(found) < 1e-3


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("countdown-ppo", {}),  # a critic
        ("countdown-grpo", {"loop": {"minibatches_per_step": 4, "entropy_bonus": 0.1, "epochs": 2}}),
        ("countdown-grpo", {"kl": {"place": "reward", "coefficient": 0.1}, "overlong": {"buffer_tokens": 8}}),
        ("countdown-grpo", {"overlong": {"mask_truncated": True}, "sampling": {"max_tokens": 14}}),
        ("countdown-grpo", {"objective": {"reduction": "prompt_mean"}, "loop": {"prompts_per_step": 6}}),
    ],
)
def test_whatever_else_the_recipe_adds_is_trained_alike(
    name: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = differences(name, tmp_path, monkeypatch, 2, with_gaps=True, **changes)
    print(f"{name} {changes}: {max(found):.1e}")
    assert found[0] < 1e-4 and max(found) < 1e-3


@pytest.mark.parametrize("strategy", ["DDP", "FSDP2"])
def test_two_processes_make_the_update_of_one(strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"loop": {"samples_per_prompt": 3, "minibatches_per_step": 2}}  # a group is in both processes
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    script = str(Path(recipe_training.__file__))
    done = subprocess.run(
        [*launcher, script, strategy, str(tmp_path), "countdown-flowrl", json.dumps(settings)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    config, n_each = small("countdown-flowrl", **settings), 6  # of the 12 completions of a step
    seen = [row for step in range(2) for part in parts for row in part["seen"][step * n_each : (step + 1) * n_each]]
    ours = gradients_of_the_loop(config, seen, monkeypatch.setattr)
    for part in parts:
        found = [float((a - b).norm() / a.norm()) for a, b in zip(ours, part["gradients"], strict=True)]
        print(f"two processes, {strategy}: {found[0]:.1e}, {max(found):.1e}")
        assert found[0] < 1e-4 and max(found) < 1e-3


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


# --- the objective's own parameters, and what TRL saves -------------------------------------------------------------


def test_head_is_restored_with_a_checkpoint_and_is_not_in_the_model(tmp_path: Path) -> None:
    config = small("countdown-flowrl", loop={"steps": 3, "minibatches_per_step": 1})
    saving = {"save_strategy": "steps", "save_steps": 1}
    unbroken = trainer_of(config, tmp_path / "a", Rewards(), **saving)
    unbroken.train()
    heads = [torch.load(tmp_path / "a" / f"checkpoint-{n}" / STATE)["objective"] for n in (1, 2, 3)]
    assert differs(heads[0], heads[1]) and differs(heads[1], heads[2])
    resumed = trainer_of(config, tmp_path / "b", Rewards(), **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    for name in (STATE, "optimizer.pt"):
        states = [torch.load(tmp_path / run / "checkpoint-3" / name) for run in ("a", "b")]
        torch.testing.assert_close(*states, rtol=0, atol=0)
    unbroken.save_model(str(tmp_path / "model"))
    base = AutoModelForCausalLM.from_pretrained(resolve("countdown-tiny"))
    for folder in (tmp_path / "model", tmp_path / "a" / "checkpoint-3"):
        names = load_file(folder / "model.safetensors").keys()
        assert names <= base.state_dict().keys()
        AutoModelForCausalLM.from_pretrained(folder)
    assert not (tmp_path / "model" / STATE).exists()


def differs(one: Any, other: Any) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(flat(one), flat(other), strict=True))


def flat(state: Any) -> list[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return [state]
    return [tensor for value in state.values() for tensor in flat(value)]


def test_checkpoint_of_another_trainer_or_objective_is_refused(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 1}
    trainer_of(small("countdown-grpo"), tmp_path, Rewards(), **saving).train()
    checkpoint = tmp_path / "checkpoint-1"
    flowrl = trainer_of(small("countdown-flowrl"), tmp_path / "b", Rewards())
    with pytest.raises(RunFolderError, match="of another objective than the recipe's"):
        flowrl.train(resume_from_checkpoint=str(checkpoint))
    (checkpoint / STATE).unlink()
    with pytest.raises(RunFolderError, match="is missing: the checkpoint was saved without a recipe"):
        flowrl.train(resume_from_checkpoint=str(checkpoint))


def test_head_has_its_own_rate_on_the_schedule_of_the_policy(tmp_path: Path) -> None:
    optimizer = {"warmup_steps": 2, "schedule": "cosine", "decay_steps": 4, "final_lr_fraction": 0.1}
    config = small("countdown-flowrl", loop={"steps": 4, "minibatches_per_step": 1}, optimizer=optimizer)
    rates: list[tuple[float, float]] = []
    trainer = trainer_of(config, tmp_path, Rewards())
    step = trainer._own.step
    trainer._own.step = lambda: (
        rates.append((trainer._own.param_groups[0]["lr"], trainer.optimizer.param_groups[0]["lr"])) or step()
    )
    trainer.train()
    assert [own / 3e-3 for own, _ in rates] == pytest.approx([policy / 2e-4 for _, policy in rates])
    # As transformers has it: from 0 over two updates, then from the whole rate down to a tenth after the last one.
    assert [own / 3e-3 for own, _ in rates] == pytest.approx([0.0, 0.5, 1.0, 0.55])


def test_update_without_completions_moves_nothing(tmp_path: Path) -> None:
    changes = {"overlong": {"mask_truncated": True}, "sampling": {"max_tokens": 2}, "optimizer": {"weight_decay": 0.1}}
    config = small("countdown-flowrl", **changes)
    trainer = trainer_of(config, tmp_path, Rewards())
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.train()
    assert not differs(before, dict(trainer.model.state_dict()))
    assert [row["grad_norm"] for row in trainer.state.log_history if "grad_norm" in row] == [0.0] * 4


def test_evaluation_measures_rewards_and_leaves_training_alone(tmp_path: Path) -> None:
    config = small("countdown-flowrl", loop={"minibatches_per_step": 1})
    evaluating = {"eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 4}
    held_out = {"eval_dataset": dataset().select(range(2))}
    trainer = trainer_of(config, tmp_path, Rewards(), held_out, **evaluating)
    trainer.train()
    log = trainer.state.log_history
    assert [0 <= row["eval_rewards/rewards/mean"] <= 1 for row in log if "eval_loss" in row] == [True] * 2
    assert [row["eval_loss"] for row in log if "eval_loss" in row] == [0.0] * 2
    assert len([row for row in log if "objective/log_z_error" in row]) == 2


def test_adapters_learn_and_the_reference_is_the_base(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    named = {"peft_config": peft.LoraConfig(r=4, target_modules="all-linear")}
    config = small("countdown-flowrl", loop={"steps": 3, "minibatches_per_step": 1}, optimizer={"lr": 1e-2})
    trainer = trainer_of(config, tmp_path, Rewards(), named)
    trainer.train()
    drift = [row["objective/kl_to_reference"] for row in trainer.state.log_history if "reward" in row]
    assert drift[0] == pytest.approx(0.0, abs=1e-6) and abs(drift[2]) > 1e-4
    with trainer.model.disable_adapter():
        base = AutoModelForCausalLM.from_pretrained(resolve("countdown-tiny")).state_dict()
        name = "model.layers.0.mlp.up_proj"
        kept = trainer.model.get_base_model().state_dict()[f"{name}.base_layer.weight"]
    torch.testing.assert_close(kept, base[f"{name}.weight"], rtol=0, atol=0)


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "arguments", "message"),
    [
        ("countdown-remax", {}, {}, "greedy completion.*--backend trl"),
        ("countdown-uarl", {}, {}, "compares answers.*--backend trl"),
        ("countdown-grpo", {"dynamic_sampling": {"max_extra_rounds": 1}}, {}, "dynamic_sampling.*--backend trl"),
        ("countdown-prorl", {"dynamic_sampling": {"max_extra_rounds": 0}}, {}, "resets of the reference"),
        ("countdown-grpo", {"loop": {"compile": True}}, {}, "loop.compile"),
        ("countdown-grpo", {"optimizer": {"schedule": "cosine", "decay_steps": 3}}, {}, "decay_steps to loop.steps"),
        ("countdown-reinforce", {"objective": {"surrogate": "score"}}, {}, "takes no ratio"),
        ("countdown-grpo", {"loop": {"logp_old": "engine"}}, {}, "sampler's log-probabilities"),
        ("countdown-grpo", {}, {"beta": 0.1}, "GRPOConfig.beta = 0.1 is a setting of TRL's own loss"),
        ("countdown-grpo", {}, {"loss_type": "grpo"}, "GRPOConfig.loss_type"),
        ("countdown-grpo", {}, {"top_p": 0.9}, "GRPOConfig.top_p = 0.9 makes the sampler's distribution"),
        ("countdown-grpo", {}, {"gradient_accumulation_steps": 3}, "which gradient_accumulation_steps = 3 does not"),
        ("countdown-grpo", {}, {"steps_per_generation": 3, "gradient_accumulation_steps": 2}, "several generations"),
        ("countdown-grpo", {}, {"steps_per_generation": 8}, "not whole groups"),
    ],
)
def test_what_the_loop_of_trl_cannot_carry_is_refused(
    name: str, changes: dict[str, Any], arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    if arguments.get("steps_per_generation") == 8:
        arguments = {**arguments, "per_device_train_batch_size": 2}
    with pytest.raises(ConfigError, match=message):
        trainer_of(small(name, **changes), tmp_path, Rewards(), **arguments)


def test_arguments_follow_from_the_recipe_and_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = {"steps": 5, "prompts_per_step": 8, "samples_per_prompt": 6, "epochs": 2, "tokens_per_microbatch": 130}
    config = small("countdown-grpo", loop=loop)
    found = arguments_of(config, output_dir="x")
    of_batches = (
        "max_steps",
        "num_generations",
        "num_iterations",
        "steps_per_generation",
        "gradient_accumulation_steps",
    )
    # 24 completions an update, at most 130 / 20 = 6 in a micro-batch
    assert [found[name] for name in (*of_batches, "per_device_train_batch_size")] == [20, 6, 2, 8, 4, 6]
    assert arguments_of(config, gradient_accumulation_steps=24)["per_device_train_batch_size"] == 1
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert arguments_of(config)["per_device_train_batch_size"] == 6
    monkeypatch.setenv("WORLD_SIZE", "5")
    with pytest.raises(ConfigError, match="24 completions of an update can't be divided among 5 processes"):
        arguments_of(config)


def test_arguments_are_asked_for(tmp_path: Path) -> None:
    trainer = type(trainer_of(small("countdown-grpo"), tmp_path, Rewards()))
    with pytest.raises(ConfigError, match=r"args=GRPOConfig\(\*\*arguments\(\)\)"):
        trainer(model=resolve("countdown-tiny"), reward_funcs=Rewards())


def test_unrated_completions_end_the_run(tmp_path: Path) -> None:
    def none(completions: list[Any], **_: Any) -> list[None]:
        return [None] * len(completions)

    with pytest.raises(RunError, match="step 1: no reward function rated any completion"):
        trainer_of(small("countdown-grpo"), tmp_path, none).train()
