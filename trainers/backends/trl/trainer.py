"""TRL's GRPOTrainer with our steps inside: it wraps the model, runs the optimiser and samples; the losses are ours.

TRL's batches, rewards, advantages and losses are made for its own objectives and not used: placeholders as data ask for
one update at a time, and `training_step` computes it with `steps.py`. Written for TRL 1.16, whose private names it
overrides; `tests/trainers/backends/` is the contract with that version.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
import transformers
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.models import prepare_deepspeed, prepare_fsdp
from trl.trainer.utils import add_fused_lm_head

from harness.core.errors import ConfigError, nearest
from harness.trainers.backends.trl.learner import policy_optimizer
from harness.trainers.backends.trl.steps import Steps
from harness.trainers.backends.trl.world import World
from harness.trainers.config import TrainConfig
from harness.trainers.setup import TrainSetup


class ObjectiveTrainer(GRPOTrainer):  # type: ignore[misc]
    """Runs the updates that `steps` gives it."""

    steps: Steps
    make_learner: Any
    """Builds the learner, once accelerate has wrapped the model and the optimiser."""

    def __init__(self, module: Any, tokenizer: Any, arguments: GRPOConfig, config: TrainConfig, n_updates: int) -> None:
        transformers.logging.set_verbosity_error()  # what it would print is about its own losses and batches
        self._own_config = config
        self._n_updates = n_updates
        placeholders = Dataset.from_dict({"prompt": ["-"] * max(1, n_updates)})
        super().__init__(
            model=module,
            reward_funcs=_no_reward,
            args=arguments,
            train_dataset=placeholders,
            processing_class=tokenizer,
        )
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)
        self.add_callback(_Events(self))

    # --- what it is asked for

    def get_train_dataloader(self) -> DataLoader[int]:
        return DataLoader(range(max(1, self._n_updates)), collate_fn=lambda _: {})  # type: ignore[arg-type]

    def create_optimizer(self, model: Any = None) -> Any:
        if self.optimizer is None:  # type: ignore[has-type]
            self.optimizer = policy_optimizer(self.model if model is None else model, self._own_config.optimizer)
        return self.optimizer

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:  # noqa: ARG002
        self.steps.policy.wrapped = model
        return self.steps.update()

    # --- what it would do besides

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:  # noqa: ARG002
        return grad_norm  # the learner has computed and clipped it

    def floating_point_ops(self, inputs: Any) -> int:  # noqa: ARG002
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Do nothing: the recorder writes what the steps measured."""

    # --- the reference

    def prepare_reference(self, module: Any) -> Any:
        """Prepare the reference as the model is, with the fused output layer."""
        add_fused_lm_head(module, self.temperature, self.args.cast_lm_head_to_fp32)
        module.requires_grad_(False)
        if self.is_deepspeed_enabled:
            return prepare_deepspeed(module, self.accelerator)
        if self.is_fsdp_enabled:
            return prepare_fsdp(module, self.accelerator)
        return self.accelerator.prepare_model(module, evaluation_mode=True)


def _no_reward(**_: Any) -> list[float]:
    raise AssertionError("the steps grade their completions themselves")


class _Events(TrainerCallback):  # type: ignore[misc]
    def __init__(self, trainer: ObjectiveTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        trainer = self._trainer
        trainer.steps.begin(trainer.make_learner())

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self._trainer.steps.end_update()
        control.should_training_stop |= self._trainer.steps.is_done


# --- arguments ----------------------------------------------------------------------------------------------------


def trl_arguments(
    setup: TrainSetup, world: World, options: Any, folder: str, n_updates: int, *, use_cpu: bool
) -> GRPOConfig:
    """Return TRL's arguments: those that follow from the recipe, and those that the options of the backend add."""
    config = setup.config
    loop, n_each = config.loop, max(2, config.loop.samples_per_prompt)
    is_autocast = loop.precision == "bfloat16"
    fixed = {
        "output_dir": folder,
        "max_steps": max(1, n_updates),
        # For TRL's checks of its batches, and the size of vLLM's.
        "per_device_train_batch_size": n_each * -(-loop.prompts_per_step // world.size),
        "num_generations": n_each,
        "gradient_accumulation_steps": 1,
        "max_completion_length": setup.max_tokens,
        "temperature": setup.temperature,
        "beta": 0.0,  # its own KL and reference
        "use_vllm": options.sampler in ("vllm_colocate", "vllm_server"),
        **({"vllm_mode": options.sampler.removeprefix("vllm_")} if options.sampler.startswith("vllm") else {}),
        "use_cpu": use_cpu,
        "ddp_timeout": int(options.wait_s),
        "learning_rate": config.optimizer.lr,
        "lr_scheduler_type": "constant",  # the learner sets the rates of each step
        "max_grad_norm": config.optimizer.grad_clip if _has_deepspeed(options) else 0.0,  # the learner clips
        "bf16": is_autocast,
        "fp16": False,
        "cast_lm_head_to_fp32": is_autocast,
        "gradient_checkpointing": loop.gradient_checkpointing,
        "disable_dropout": True,
        "ddp_find_unused_parameters": False,
        "save_strategy": "no",
        "logging_strategy": "no",
        "eval_strategy": "no",
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": config.seed % 2**31,
    }
    known = {name for name, field in GRPOConfig.__dataclass_fields__.items() if field.init}
    for name in options.arguments:
        if name in fixed:
            raise ConfigError(f"backend.arguments.{name} follows from the recipe; leave it out")
        if name not in known:
            raise ConfigError(
                f"backend.arguments.{name} is not an argument of TRL's GRPOConfig; {nearest(name, known)}"
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # TRL sets gradient_checkpointing under its older name too
            return GRPOConfig(**fixed, **options.arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"TRL refuses backend.arguments: {' '.join(str(error).split())[:300]}") from error


def _has_deepspeed(options: Any) -> bool:
    return "deepspeed" in options.arguments or os.environ.get("ACCELERATE_USE_DEEPSPEED", "false") == "true"
