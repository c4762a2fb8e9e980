"""A run's config as verl's: pairs of a key and a value, for hydra."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.trainers.backends.verl.data import PROMPTS
from harness.trainers.backends.verl.run import MODEL_TYPE, RUN_VARIABLE, TRAINER_MODE, run_variable

if TYPE_CHECKING:
    from harness.trainers.backends.verl import Verl
    from harness.trainers.setup import TrainSetup

PACKAGE = "harness.trainers.backends.verl"
VERL_FOLDER = "verl"
"""Inside a run folder: what verl reads and writes."""
PASS_FACTOR = 2
"""A pass without gradient keeps no activations, but verl keeps the logits of a whole micro-batch."""
ENOUGH_EPOCHS = 1_000_000
"""The number of steps ends a run, and never the end of the data."""


def settings_of(setup: TrainSetup, options: Verl.Config, folder: Path) -> dict[str, Any]:
    """Return every setting of verl that a run decides. `folder` is verl's own."""
    return {
        **_data(setup, options, folder),
        **_model(setup, options),
        **_actor(setup, options),
        **_reference(setup),
        **_rollout(setup, options),
        **_algorithm(setup),
        **_trainer(setup, options, folder),
        **environment_settings(setup),
    }


def longest_sequence(setup: TrainSetup, options: Verl.Config) -> int:
    return options.max_prompt_tokens + setup.max_tokens


def tokens_per_gpu(setup: TrainSetup, options: Verl.Config) -> int:
    """Return the tokens of a micro-batch; verl refuses fewer than those of one sequence."""
    return max(setup.config.loop.tokens_per_microbatch, longest_sequence(setup, options))


def _data(setup: TrainSetup, options: Verl.Config, folder: Path) -> dict[str, Any]:
    prompts = str(folder / PROMPTS)
    return {
        "data.train_files": prompts,
        "data.val_files": prompts,  # verl wants some; it evaluates nothing here
        "data.val_max_samples": 1,
        "data.train_batch_size": setup.config.loop.prompts_per_step,
        "data.max_prompt_length": options.max_prompt_tokens,
        "data.max_response_length": setup.max_tokens,
        "data.shuffle": False,  # the file has the order of the steps
        "data.seed": setup.config.seed,
        "data.dataloader_num_workers": 0,
        "data.trust_remote_code": setup.base.trust_remote_code,
    }


def _model(setup: TrainSetup, options: Verl.Config) -> dict[str, Any]:
    lora = setup.config.lora
    adapters: dict[str, Any] = {}
    if lora.rank > 0:
        layers = list(lora.target_modules) if lora.target_modules else "all-linear"
        adapters = {"lora_rank": lora.rank, "lora_alpha": int(lora.alpha), "target_modules": layers}
    settings = {
        "path": setup.base.path,
        "trust_remote_code": setup.base.trust_remote_code,
        "external_lib": f"{PACKAGE}.engine",
        "enable_gradient_checkpointing": setup.config.loop.gradient_checkpointing,
        "enable_activation_offload": options.offload_activations,
        "use_remove_padding": options.attention == "flash_attention_2",
        **adapters,
    }
    return {
        **{f"actor_rollout_ref.model.{name}": value for name, value in settings.items()},
        "+actor_rollout_ref.model.model_type": MODEL_TYPE,
        "+actor_rollout_ref.model.override_config.attn_implementation": options.attention,
    }


def _actor(setup: TrainSetup, options: Verl.Config) -> dict[str, Any]:
    loop, optimizer = setup.config.loop, setup.config.optimizer
    settings: dict[str, Any] = {
        "strategy": "fsdp2",
        "ppo_mini_batch_size": loop.prompts_per_step // loop.minibatches_per_step,
        "ppo_epochs": loop.epochs,
        "use_dynamic_bsz": True,
        "ppo_max_token_len_per_gpu": tokens_per_gpu(setup, options),
        "shuffle": False,
        "entropy_from_logits_with_chunking": True,
        "policy_loss.loss_mode": TRAINER_MODE,
        # A coefficient of 0, and the reference log-probabilities still come along in the batch.
        "use_kl_loss": setup.with_reference,
        "kl_loss_coef": 0.0,
        "entropy_coeff": 0,
        "calculate_entropy": loop.entropy_bonus != 0,
        # Our engine makes the optimiser and clips; these are for verl's own records.
        "grad_clip": optimizer.grad_clip if optimizer.grad_clip > 0 else 1e9,
        "optim.lr": optimizer.lr,
        "optim.weight_decay": optimizer.weight_decay,
        "optim.betas": list(optimizer.betas),
        "fsdp_config.param_offload": options.offload == "between",
        "fsdp_config.optimizer_offload": options.offload == "between",
        "fsdp_config.offload_policy": options.offload == "always",
        "fsdp_config.fsdp_size": -1,
        "fsdp_config.model_dtype": "fp32",
        "checkpoint.save_contents": ["model", "optimizer", "extra"],
    }
    found = {f"actor_rollout_ref.actor.{name}": value for name, value in settings.items()}
    return {**found, **_precision("actor", setup)}


def _precision(role: str, setup: TrainSetup) -> dict[str, Any]:
    """FSDP computes in bfloat16 by default; weights and optimiser states are float32."""
    if setup.config.loop.precision == "bfloat16":
        return {}
    name = f"+actor_rollout_ref.{role}.fsdp_config.mixed_precision"
    return {f"{name}.{kind}_dtype": "fp32" for kind in ("param", "reduce", "buffer")}


def _reference(setup: TrainSetup) -> dict[str, Any]:
    # verl keeps the weights of a reference in the processor's memory, whatever this says.
    dtype = "bf16" if setup.config.loop.precision == "bfloat16" else "fp32"
    return {"actor_rollout_ref.ref.fsdp_config.model_dtype": dtype, **_precision("ref", setup)}


def _rollout(setup: TrainSetup, options: Verl.Config) -> dict[str, Any]:
    is_lora = setup.config.lora.rank > 0
    settings = {
        "name": options.rollout,
        "n": setup.config.loop.samples_per_prompt,
        "temperature": setup.temperature,
        "top_p": 1.0,
        "top_k": -1,
        "seed": setup.config.seed % 2**31,
        "dtype": "bfloat16" if setup.config.loop.precision == "bfloat16" else "float32",
        "tensor_model_parallel_size": options.tensor_parallel,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "max_num_seqs": options.max_num_seqs,
        "calculate_log_probs": True,
        "log_prob_use_dynamic_bsz": True,
        "log_prob_max_token_len_per_gpu": PASS_FACTOR * tokens_per_gpu(setup, options),
        "load_format": "safetensors" if is_lora else "dummy",  # with adapters the base is read from its files
        "layered_summon": is_lora,
    }
    return {f"actor_rollout_ref.rollout.{name}": value for name, value in settings.items()}


def _algorithm(setup: TrainSetup) -> dict[str, Any]:
    is_filtered = setup.config.dynamic_sampling.max_extra_rounds > 0
    dynamic = {"enable": True, "metric": "score"} if is_filtered else {"enable": False}
    return {
        "algorithm.adv_estimator": TRAINER_MODE,
        "algorithm.use_kl_in_reward": False,  # our own is computed with the advantages
        "algorithm.rollout_correction.bypass_mode": setup.config.loop.logp_old == "engine",
        **{f"algorithm.filter_groups.{name}": value for name, value in dynamic.items()},
        "critic.enable": False,
        "reward.custom_reward_function.path": f"pkg://{PACKAGE}.reward",
        "reward.custom_reward_function.name": "compute_score",
        "reward.reward_manager.source": "importlib",
        "reward.reward_manager.name": "FinishReasonRewardManager",
        "reward.reward_manager.module.path": f"pkg://{PACKAGE}.reward_manager",
    }


def _trainer(setup: TrainSetup, options: Verl.Config, folder: Path) -> dict[str, Any]:
    steps, checkpoint = setup.config.loop.steps, setup.config.checkpoint
    settings = {
        "v1.trainer_mode": TRAINER_MODE,
        "nnodes": options.nodes,
        "n_gpus_per_node": options.gpus_per_node,
        "total_epochs": ENOUGH_EPOCHS,
        "total_training_steps": steps,
        "save_freq": checkpoint.interval(steps),
        "test_freq": -1,
        "val_before_train": False,
        "logger": ["file"],
        "project_name": "harness",
        "experiment_name": "run",
        "default_local_dir": str(folder / "checkpoints"),
        "resume_mode": "auto",
        "max_actor_ckpt_to_keep": checkpoint.keep,
    }
    return {
        **{f"trainer.{name}": value for name, value in settings.items()},
        "reward.num_workers": options.reward_workers,
    }


def environment_settings(setup: TrainSetup) -> dict[str, Any]:
    """Return the environment of every process, through Ray."""
    return {f"+ray_kwargs.ray_init.runtime_env.env_vars.{k}": v for k, v in environment(setup).items()}


def environment(setup: TrainSetup) -> dict[str, str]:
    return {RUN_VARIABLE: run_variable(setup.config), "VERL_USE_EXTERNAL_MODULES": f"{PACKAGE}.plugin"}


def overrides(settings: Mapping[str, Any]) -> list[str]:
    """Return the settings as hydra reads them. JSON's texts, numbers and lists are also hydra's."""
    return [f"{name}={_text(value)}" for name, value in settings.items()]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return json.dumps(value)
