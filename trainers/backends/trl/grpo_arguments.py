"""The arguments of TRL's GRPOConfig that follow from a recipe, and the parts of a recipe that TRL's own loop carries.

For scripts of a user's own (`recipe_trainer.py`). There GRPOConfig decides batches, sampling and optimiser, and the
recipe decides the objective and what is added to it.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from harness.core import config as configs
from harness.core.errors import ConfigError
from harness.core.protocols import Objective
from harness.models.loading import pick_device
from harness.trainers.backends.trl.world import n_processes
from harness.trainers.checks import check_objective
from harness.trainers.config import TrainConfig

OF_TRLS_LOSS = (
    "beta",
    "delta",
    "entropy_coef",
    "epsilon",
    "epsilon_high",
    "importance_sampling_level",
    "loss_type",
    "mask_truncated_completions",
    "multi_objective_aggregation",
    "off_policy_mask_threshold",
    "scale_rewards",
    "sync_ref_model",
    "top_entropy_quantile",
    "use_adaptive_entropy",
    "use_bias_correction_kl",
)
"""Arguments that would have no effect."""
OF_THE_SAMPLER = ("top_p", "top_k", "min_p", "repetition_penalty")


def read_recipe(path: Path) -> TrainConfig:
    return configs.parse(TrainConfig, configs.read_toml(path))


# --- what is carried ----------------------------------------------------------------------------------------------


def check_recipe(config: TrainConfig, objective: Objective) -> None:
    """Refuse what TRL's own loop does not carry, with what does."""
    name, needs = config.objective.id, objective.needs
    on_backend = "take `harness train --backend trl`"
    refused = {
        f"{name!r} learns from demonstrations, and GRPOTrainer from samples: take `harness train`": (
            objective.source == "demonstrations"
        ),
        f"{name!r} needs a greedy completion of each prompt, which TRL's loop does not sample: {on_backend}, or "
        "'rloo', whose baseline is made of samples": "greedy_reward" in needs,
        f"{name!r} compares answers, and a reward function of TRL gives numbers: {on_backend}": bool(
            {"solution_classes", "answer_classes"} & needs
        ),
        f"dynamic_sampling samples again within a step, and TRL's loop samples once: leave it off, or {on_backend}": (
            config.dynamic_sampling.max_extra_rounds > 0
        ),
        f"resets of the reference are made by our loop: leave them off, or {on_backend}": (
            config.reference.is_ever_reset
        ),
        "[backend] chooses another trainer's loop: leave it out, and pass arguments of TRL to GRPOConfig": (
            config.backend.id != "loop"
        ),
        f"rollouts are saved and read by our loop: leave them off, or {on_backend}": (
            config.rollouts.only or config.rollouts.save or config.rollouts.source is not None
        ),
        "loop.compile compiles our own forward pass, which TRL's replaces: leave it out": config.loop.compile,
        f"model.weights = 'random' is drawn by our loop: {on_backend}": config.model.weights == "random",
        f"model.chat_template is applied by our loop: {on_backend}": config.model.chat_template is not None,
        "TRL's samplers know no stop strings (sampling.stop): leave them out": bool(config.sampling.stop),
        "schedules of transformers end at the last step: set optimizer.decay_steps to loop.steps, and for 'linear' "
        "final_lr_fraction to 0": not _has_known_schedule(config),
    }
    for reason in (reason for reason, holds in refused.items() if holds):
        raise ConfigError(reason)


def _has_known_schedule(config: TrainConfig) -> bool:
    optimizer = config.optimizer
    ends_with_the_run = optimizer.decay_steps == config.loop.steps
    is_plain = optimizer.schedule == "cosine" or optimizer.final_lr_fraction == 0
    return optimizer.schedule == "constant" or (ends_with_the_run and is_plain)


def check_arguments(config: TrainConfig, args: Any) -> None:
    """Refuse arguments that would have no effect, or under which an update is not one of whole groups."""
    for name, field in type(args).__dataclass_fields__.items():
        given, default = getattr(args, name), field.default
        if name in OF_TRLS_LOSS and given != default:
            raise ConfigError(
                f"GRPOConfig.{name} = {given!r} is a setting of TRL's own loss, which the recipe's replaces: leave it "
                "out, and change the recipe"
            )
        if name in OF_THE_SAMPLER and given != default:
            raise ConfigError(
                f"GRPOConfig.{name} = {given!r} makes the sampler's distribution another one than the trainer's, and "
                "every importance ratio biased: leave it out"
            )
    if args.steps_per_generation % args.gradient_accumulation_steps:
        raise ConfigError(
            f"an update of gradient_accumulation_steps = {args.gradient_accumulation_steps} micro-batches would be "
            f"made of several generations of steps_per_generation = {args.steps_per_generation}: make the latter a "
            "multiple"
        )
    n_each = args.generation_batch_size // n_minibatches(args)
    if n_each % args.num_generations:
        raise ConfigError(
            f"an update has {n_each} completions, which are not whole groups of num_generations = "
            f"{args.num_generations}: change per_device_train_batch_size or gradient_accumulation_steps"
        )
    if args.use_vllm and args.vllm_importance_sampling_correction:
        raise ConfigError(
            "GRPOConfig.vllm_importance_sampling_correction is a part of TRL's own loss: set it to False; that of the "
            "recipe is engine_correction"
        )
    if not args.use_vllm and (config.engine_correction.level != "off" or config.loop.logp_old == "engine"):
        raise ConfigError(
            "engine_correction and loop.logp_old = 'engine' read the sampler's log-probabilities, and generate of "
            "transformers returns none: leave them off, or set use_vllm=True"
        )


def n_minibatches(args: Any) -> int:
    """Return the number of updates that share the completions of a generation, in one pass over them."""
    n: int = args.steps_per_generation // args.gradient_accumulation_steps
    return n


def as_trained(config: TrainConfig, objective: Objective, args: Any) -> TrainConfig:
    """Return the recipe with what GRPOConfig decides, checked."""
    check_recipe(config, objective)
    check_arguments(config, args)
    loop = dataclasses.replace(
        config.loop,
        prompts_per_step=args.generation_batch_size // args.num_generations,
        samples_per_prompt=args.num_generations,
        minibatches_per_step=n_minibatches(args),
        epochs=args.num_iterations,
    )
    optimizer = dataclasses.replace(
        config.optimizer,
        lr=args.learning_rate,
        betas=(args.adam_beta1, args.adam_beta2),
        eps=args.adam_epsilon,
        weight_decay=args.weight_decay,
        decay_vectors=config.optimizer.decay_vectors and args.weight_decay > 0,
        grad_clip=args.max_grad_norm,
    )
    changed = dataclasses.replace(config, loop=loop, optimizer=optimizer)
    check_objective(changed, objective)
    return changed


# --- what follows from the recipe ---------------------------------------------------------------------------------


def arguments_of(config: TrainConfig, **changes: Any) -> dict[str, Any]:
    """Return arguments for GRPOConfig with some changed. Batch sizes are those of the processes that were started.

    Without `gradient_accumulation_steps` in `changes` it is the least at which the completions of a micro-batch, if all
    were of the greatest length, have `loop.tokens_per_microbatch` tokens.
    """
    loop, optimizer, max_tokens = config.loop, config.optimizer, config.sampling.max_tokens
    assert max_tokens is not None, "the export writes it"
    n_each = _rows_of_an_update(config)
    most = max(1, loop.tokens_per_microbatch // max_tokens)
    accumulation = changes.get(
        "gradient_accumulation_steps",
        next(n for n in range(1, n_each + 1) if n_each % n == 0 and n_each // n <= most),
    )
    if n_each % accumulation:
        raise ConfigError(
            f"an update has {n_each} completions in each process, which gradient_accumulation_steps = {accumulation} "
            "does not divide"
        )
    n_updates = loop.minibatches_per_step * loop.epochs
    is_autocast = loop.precision == "bfloat16"
    load = {"revision": config.model.revision, "dtype": None if config.model.dtype == "auto" else config.model.dtype}
    return {
        "max_steps": loop.steps * n_updates,
        "per_device_train_batch_size": n_each // accumulation,
        "gradient_accumulation_steps": accumulation,
        "steps_per_generation": accumulation * loop.minibatches_per_step,
        "num_generations": loop.samples_per_prompt,
        "num_iterations": loop.epochs,
        "max_completion_length": max_tokens,
        "temperature": config.sampling.temperature,
        "beta": 0.0,  # the KL is the recipe's
        "learning_rate": optimizer.lr,
        "weight_decay": optimizer.weight_decay,
        "adam_beta1": optimizer.betas[0],
        "adam_beta2": optimizer.betas[1],
        "adam_epsilon": optimizer.eps,
        "max_grad_norm": optimizer.grad_clip,
        **_schedule(config, n_updates),
        "bf16": is_autocast,
        "cast_lm_head_to_fp32": is_autocast,
        "gradient_checkpointing": loop.gradient_checkpointing,
        "disable_dropout": True,  # the policy that is trained is the policy that samples
        "model_init_kwargs": {name: value for name, value in load.items() if value is not None},
        "trust_remote_code": config.model.trust_remote_code,
        "vllm_importance_sampling_correction": False,
        "use_cpu": pick_device(config.model.device) == "cpu",
        "seed": config.seed % 2**31,
        **changes,
    }


def _rows_of_an_update(config: TrainConfig) -> int:
    loop, n = config.loop, n_processes()
    n_prompts, rest = divmod(loop.prompts_per_step, loop.minibatches_per_step)
    if rest:
        raise ConfigError(
            f"TRL's updates are of one size, and loop.minibatches_per_step = {loop.minibatches_per_step} does not "
            f"divide loop.prompts_per_step = {loop.prompts_per_step}"
        )
    n_each, rest = divmod(n_prompts * loop.samples_per_prompt, n)
    if rest:
        raise ConfigError(
            f"the {n_prompts * loop.samples_per_prompt} completions of an update can't be divided among {n} processes: "
            "start another number of them, or change loop.prompts_per_step"
        )
    return n_each


def _schedule(config: TrainConfig, n_updates: int) -> dict[str, Any]:
    optimizer = config.optimizer
    names = {"constant": "constant_with_warmup", "cosine": "cosine_with_min_lr", "linear": "linear"}
    found: dict[str, Any] = {
        "lr_scheduler_type": names[optimizer.schedule],
        "warmup_steps": optimizer.warmup_steps * n_updates,
    }
    if optimizer.schedule == "cosine":
        found["lr_scheduler_kwargs"] = {"min_lr_rate": optimizer.final_lr_fraction}
    return found
