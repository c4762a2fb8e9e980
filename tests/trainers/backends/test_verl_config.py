"""verl's configuration from a recipe, composed and read by verl's own classes; its data and its reward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl")

import verl_on_cpu  # noqa: F401
from training import recipe
from verl.trainer.ppo.reward import get_custom_reward_fn, load_reward_manager
from verl.trainer.ppo.utils import create_rl_dataset
from verl.utils.config import omega_conf_to_dataclass

from harness.models.loading import load_tokenizer
from harness.trainers.backends.verl.data import PROMPTS, write_prompts
from harness.trainers.backends.verl.main import compose
from harness.trainers.backends.verl.reward import run_grader
from harness.trainers.backends.verl.run import RUN_VARIABLE, run_config
from harness.trainers.backends.verl.settings import environment, overrides, settings_of
from harness.trainers.rollouts import training_problems
from harness.trainers.setup import TrainSetup, build_setup


def setup_of(name: str, folder: Path, **changes: Any) -> TrainSetup:
    backend = {"id": "verl", "gpus_per_node": 1, "attention": "sdpa", **changes.pop("backend", {})}
    return build_setup(recipe(name, backend=backend, **changes), folder)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[TrainSetup, Any]:
    setup = setup_of("countdown-flowrl", tmp_path)
    for name, value in environment(setup).items():
        monkeypatch.setenv(name, value)
    run_config.cache_clear()
    run_grader.cache_clear()
    return setup, compose(overrides(settings_of(setup, setup.backend.config, tmp_path)))


def test_verl_composes_the_settings_of_a_recipe(run: tuple[TrainSetup, Any]) -> None:
    setup, config = run
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    model = omega_conf_to_dataclass(config.actor_rollout_ref.model)
    rollout = omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
    loop = setup.config.loop
    assert (config.data.train_batch_size, rollout.n) == (loop.prompts_per_step, loop.samples_per_prompt)
    assert actor.ppo_mini_batch_size * loop.minibatches_per_step == loop.prompts_per_step
    assert (actor.strategy, actor.use_kl_loss, actor.kl_loss_coef, actor.shuffle) == ("fsdp2", True, 0.0, False)
    assert dict(actor.fsdp_config.mixed_precision) == dict.fromkeys(
        ("param_dtype", "reduce_dtype", "buffer_dtype"), "fp32"
    )
    assert (model.model_type, rollout.temperature) == ("harness_lm", setup.temperature)
    assert config.trainer.v1.trainer_mode == config.algorithm.adv_estimator == "harness"
    passed_on = dict(config.ray_kwargs.ray_init.runtime_env.env_vars)
    assert json.loads(passed_on[RUN_VARIABLE])["objective"]["id"] == "flowrl"


def test_verl_refuses_a_setting_that_it_does_not_have(tmp_path: Path) -> None:
    setup = setup_of("countdown-grpo", tmp_path)
    settings = settings_of(setup, setup.backend.config, tmp_path)
    with pytest.raises(Exception, match="no_such_setting"):
        compose(overrides({**settings, "trainer.no_such_setting": 1}))


def test_bfloat16_adapters_and_offload_reach_verl(tmp_path: Path) -> None:
    changes = {"loop": {"precision": "bfloat16"}, "lora": {"rank": 8, "target_modules": ["q_proj", "v_proj"]}}
    backend = {"offload": "always", "rollout": "sglang"}  # verl looks at its vllm for the ranks that it has
    setup = setup_of("countdown-grpo", tmp_path, backend=backend, **changes)
    config = compose(overrides(settings_of(setup, setup.backend.config, tmp_path)))
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    assert actor.fsdp_config.mixed_precision is None  # bfloat16 is FSDP's own choice
    assert (actor.fsdp_config.offload_policy, actor.use_kl_loss) == (True, False)
    model = config.actor_rollout_ref.model
    assert (model.lora_rank, list(model.target_modules)) == (8, ["q_proj", "v_proj"])
    assert config.actor_rollout_ref.rollout.load_format == "safetensors"


def test_verls_dataset_has_the_prompts_in_the_order_of_our_own_loop(
    run: tuple[TrainSetup, Any], tmp_path: Path
) -> None:
    setup, config = run
    tokenizer = load_tokenizer(setup.base)
    n = write_prompts(setup.config, setup.task, tokenizer, tmp_path / PROMPTS, 512)
    dataset = create_rl_dataset(config.data.train_files, config.data, tokenizer, None)
    assert len(dataset) == n == setup.config.loop.steps * setup.config.loop.prompts_per_step
    ours = training_problems(setup.task, setup.config.seed, 0)
    for index, problem in zip(range(n), ours, strict=False):
        row = dataset[index]
        assert row["extra_info"]["problem_id"] == problem.id
        assert row["index"] == index
        assert [turn["content"] for turn in row["raw_prompt"]] == [message.content for message in problem.messages]


def test_verls_loader_calls_our_grader(run: tuple[TrainSetup, Any]) -> None:
    setup, config = run
    reward = get_custom_reward_fn(config)
    assert reward is not None
    problem = next(iter(training_problems(setup.task, setup.config.seed, 0)))
    right = setup.task.right_texts(problem)[0]
    info = {"problem_id": problem.id, "index": 0}
    arguments = {"data_source": "countdown", "ground_truth": ""}
    found = reward(solution_str=right, extra_info={**info, "finish_reason": "stop"}, **arguments)
    assert (found["score"], found["correct"], found["ungraded"]) == (1.0, 1.0, 0.0)
    assert found["solution"] == setup.task.canonical(right)
    cut = reward(solution_str=right, extra_info={**info, "finish_reason": "length"}, **arguments)
    assert (cut["score"], cut["correct"]) == (0.0, 0.0)
    with pytest.raises(Exception, match="not a problem of this run"):
        reward(solution_str="", extra_info={"problem_id": "another"}, **arguments)


def test_the_reward_manager_passes_on_that_a_completion_was_cut(run: tuple[TrainSetup, Any]) -> None:
    import asyncio

    import numpy as np
    import torch
    from tensordict import TensorDict
    from verl.protocol import DataProto

    setup, config = run
    tokenizer = load_tokenizer(setup.base)
    problem = next(iter(training_problems(setup.task, setup.config.seed, 0)))
    text = setup.task.right_texts(problem)[0]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]

    def graded(responses: list[int], longest: int) -> dict[str, Any]:
        config.data.max_response_length = longest

        async def run_one() -> dict[str, Any]:
            manager = load_reward_manager(config, tokenizer)
            tensor = torch.tensor([responses])
            batch = TensorDict({"responses": tensor, "attention_mask": torch.ones_like(tensor)}, batch_size=1)
            columns = {
                "data_source": "countdown",
                "reward_model": {"ground_truth": ""},
                "extra_info": {"problem_id": problem.id, "index": 0},
                "__num_turns__": 2,
            }
            others = {name: np.array([value], dtype=object) for name, value in columns.items()}
            return await manager.run_single(DataProto(batch=batch, non_tensor_batch=others))

        return asyncio.run(run_one())

    assert graded([*ids, tokenizer.eos_token_id], len(ids) + 1)["reward_score"] == 1.0
    assert graded([*ids, tokenizer.eos_token_id], 100)["reward_score"] == 1.0
    assert graded(ids, len(ids))["reward_score"] == 0.0  # cut off at the limit


def test_the_plugin_registers_its_names_and_refuses_verls_own_numbers(
    run: tuple[TrainSetup, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from verl.trainer.ppo.core_algos import get_adv_estimator_fn, get_policy_loss_fn
    from verl.trainer.ppo.v1 import get_trainer_cls

    from harness.trainers.backends.verl import plugin

    plugin.register()
    assert plugin.registered() == {"trainer": True, "advantage estimator": True, "policy loss": True}
    assert get_trainer_cls("harness").__name__ == "ObjectiveTrainer"
    for function in (get_adv_estimator_fn("harness"), get_policy_loss_fn("harness")):
        with pytest.raises(RuntimeError, match="trainer_mode = harness"):
            function()
    monkeypatch.setenv(RUN_VARIABLE, '{"objective": {"id": "no_such_objective"}}')
    run_config.cache_clear()
    with pytest.raises(Exception, match="no_such_objective"):
        plugin.register()
    run_config.cache_clear()
