"""Refusals and warnings of the backend: what a server can't give, and what it decides by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from harness.core.errors import ConfigError
from harness.trainers.backends.tinker.adapter import ALPHA

if TYPE_CHECKING:
    from harness.trainers.setup import TrainSetup

_GIVES = "a Tinker server gives log-probabilities of tokens and nothing else"
_FROM_LOOP = "or train it with backend.id = 'loop'"
_MISSING: Mapping[str, str] = {
    "completion_hidden": f"reads a value from every hidden state, and {_GIVES}: train 'grpo' or 'rloo', which need no "
    f"critic, {_FROM_LOOP}",
    "prompt_last_hidden": f"reads log Z from the prompt's last hidden state, and {_GIVES}: train 'flowrl' with "
    f"backend.log_z = 'bag_of_tokens', or 'vargrad_tb', which needs no log Z, {_FROM_LOOP}",
    "entropy": f"needs the entropy of whole distributions, and {_GIVES}: set loop.entropy_bonus = 0, or take another "
    f"objective, {_FROM_LOOP}",
}


def check_setup(setup: TrainSetup, log_z: str) -> None:
    """Refuse an objective or setting that can't be carried, with the nearest that can."""
    config, name = setup.config, setup.config.objective.id
    needs = set(setup.objective.needs) | ({"entropy"} if config.loop.entropy_bonus != 0 else set())
    for need, reason in _MISSING.items():
        if need in needs:
            raise ConfigError(f"the objective {name!r} {reason}")
    if "prompt_hidden" in needs and log_z == "off":
        raise ConfigError(
            f"the objective {name!r} learns log Z from hidden states of the prompt, and {_GIVES}: set backend.log_z = "
            "'bag_of_tokens' for a log Z that the client learns from the prompt's tokens, or train 'vargrad_tb', whose "
            f"log Z is the group's own, {_FROM_LOOP}"
        )
    if not getattr(setup.objective.config, "log_z_detach", True):
        raise ConfigError("objective.log_z_detach = false trains hidden states through log Z, which the server keeps")
    for setting, problem in _refused(setup):
        raise ConfigError(f"backend tinker: {setting} {problem}")


def _refused(setup: TrainSetup) -> Iterator[tuple[str, str]]:
    """Yield settings that can't be carried, each with the reason and the remedy."""
    config = setup.config
    rollouts = config.rollouts
    if config.lora.rank == 0:
        yield "lora.rank", "is 0, and a Tinker server trains adapters only: set it, such as --set lora.rank=16"
    if config.lora.alpha != ALPHA:
        yield "lora.alpha", f"is {config.lora.alpha:g}, and every Tinker server uses {ALPHA:g}: leave it out"
    if config.lora.target_modules:
        yield "lora.target_modules", "is set, and the server adapts the seven projections of each layer: leave it out"
    if setup.temperature != 1:
        yield (
            "sampling.temperature",
            f"is {setup.temperature:g}, and the server's log-probabilities are those at 1, from which others can't be "
            "computed: set it to 1 (held_out.temperature may differ)",
        )
    if rollouts.only or rollouts.save or rollouts.source is not None:
        yield "rollouts", "can't be kept or read, because they name the weights that sampled them: leave it out"
    if setup.base.random_seed is not None:
        yield "model.weights", "is 'random', and the server has weights of its own: leave it out"
    if config.reference.reset_optimizer:
        yield "reference.reset_optimizer", "can't be carried: the moments are on the server. Leave it out"
    shares_clip = any(not group.own_clip and list(group.parameters) for group in _groups(setup))
    if shares_clip and config.optimizer.grad_clip > 0:
        yield (
            "optimizer.grad_clip",
            "clips parameters of the objective together with the policy's, whose gradient is on the server: set it to "
            "0, or objective.log_z_clip = 'own'",
        )


def _groups(setup: TrainSetup) -> Any:
    """Return the parameter groups of an objective like the run's, which the run itself has not prepared yet."""
    from harness.core.tensors import ModelShape

    objective = setup.config.objective.build()
    objective.prepare(ModelShape(hidden_size=8, device="cpu"), 0)
    return objective.parameters()


def ignored(setup: TrainSetup) -> list[str]:
    """Return the settings of this config that have no effect, because the server decides."""
    config = setup.config
    is_set = {
        "engine": config.engine.id != "hf",
        "model.dtype": config.model.dtype != "auto",
        "model.device": config.model.device != "auto",
        "loop.precision": config.loop.precision != "float32",
        "loop.gradient_checkpointing": config.loop.gradient_checkpointing,
        "loop.compile": config.loop.compile,
    }
    return [name for name, is_set_here in is_set.items() if is_set_here]
