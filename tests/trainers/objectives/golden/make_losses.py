"""Numbers from verl's and TRL's own loss functions, for tests/trainers/objectives/golden/losses.json.

Run by hand in an environment of its own (the two do not agree on transformers; their losses do not care):

    pip install trl==1.16.0 transformers==5.23.0 ray hydra-core peft torchdata omegaconf tensordict codetiming orjson
    pip install --no-deps verl==0.9.1
    python tests/trainers/objectives/golden/make_losses.py

Nothing of this project is imported. Inputs are drawn once in float64 and stored with the results. TRL's losses are
methods of its trainers: they run here on a stand-in for the trainer that hands them the stored log-probabilities.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

LENGTHS = [3, 5, 1, 4, 2, 5, 2, 3]
GROUPS = [0, 0, 0, 1, 1, 1, 2, 2]
LONGEST = 6


def draw_inputs() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(20)
    mask = torch.arange(LONGEST) < torch.tensor(LENGTHS)[:, None]

    def values(scale: float) -> torch.Tensor:
        return torch.randn(mask.shape, generator=generator, dtype=torch.float64) * scale

    old = -values(1.0).abs() - 0.1
    rewards = torch.tensor([1.0, 0.0, 1.0, 0.5, 0.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    return {
        "lengths": LENGTHS,
        "groups": GROUPS,
        "logp": ((old + values(0.5)) * mask).tolist(),
        "logp_old": (old * mask).tolist(),
        "logp_reference": ((old + values(0.5)) * mask).tolist(),
        "rewards": rewards.tolist(),
        "greedy_rewards": [0.5, 0.5, 0.5, 0.0, 0.0, 0.0, 1.0, 1.0],
        "values": (values(0.6) * mask).tolist(),
        "values_old": (values(0.6) * mask).tolist(),
        "is_weights": (values(0.4).exp() * mask).tolist(),
    }


class Inputs:
    def __init__(self, stored: dict[str, Any]) -> None:
        self.mask = (torch.arange(LONGEST) < torch.tensor(stored["lengths"])[:, None]).double()
        for name in ("logp_old", "logp_reference", "rewards", "greedy_rewards", "values_old", "is_weights"):
            setattr(self, name, torch.tensor(stored[name], dtype=torch.float64))
        self.logp = torch.tensor(stored["logp"], dtype=torch.float64, requires_grad=True)
        self.values = torch.tensor(stored["values"], dtype=torch.float64, requires_grad=True)
        self.index = np.array(stored["groups"])
        self.token_rewards = torch.zeros_like(self.mask)
        self.token_rewards[torch.arange(len(LENGTHS)), torch.tensor(stored["lengths"]) - 1] = self.rewards


def measured(x: Inputs, function: str, package: str, settings: dict[str, Any], loss: torch.Tensor) -> dict[str, Any]:
    (gradient,) = torch.autograd.grad(loss, x.logp)
    return {
        "package": package,
        "version": version(package),
        "function": function,
        "settings": settings,
        "loss": float(loss.detach()),
        "gradient": gradient.tolist(),
    }


# --- verl -------------------------------------------------------------------------------------------------------


def verl_cases(x: Inputs) -> dict[str, Any]:
    from verl.trainer.ppo import core_algos as core

    advantages = verl_advantages(x, core)
    cases: dict[str, Any] = {}

    def policy_loss(name: str, loss_mode: str, advantage: str, agg: str, **settings: Any) -> None:
        function = core.get_policy_loss_fn(loss_mode)
        weights = x.is_weights if settings.pop("with_is_weights", False) else None
        loss, _ = function(
            old_log_prob=x.logp_old,
            log_prob=x.logp,
            advantages=advantages[advantage],
            response_mask=x.mask,
            loss_agg_mode=agg,
            config=actor_config(**settings),
            rollout_is_weights=weights,
        )
        described = {"loss_mode": loss_mode, "advantage": advantage, "loss_agg_mode": agg, **settings}
        cases[name] = measured(x, "trainer.ppo.core_algos." + function.__name__, "verl", described, loss)

    policy_loss("verl_grpo_token_mean", "vanilla", "grpo", "token-mean")
    policy_loss("verl_grpo_sequence_mean", "vanilla", "grpo", "seq-mean-token-mean")
    policy_loss("verl_dual_clip", "vanilla", "grpo", "token-mean", clip_ratio_c=1.2)
    policy_loss("verl_dr_grpo", "vanilla", "dr_grpo", "seq-mean-token-sum-norm", loss_scale_factor=9)
    policy_loss("verl_dapo", "vanilla", "grpo", "token-mean", clip_ratio_high=0.28)
    policy_loss("verl_reinforce_pp", "vanilla", "reinforce_pp", "token-mean")
    policy_loss("verl_reinforce_pp_baseline", "vanilla", "reinforce_pp_baseline", "token-mean")
    policy_loss("verl_rloo", "vanilla", "rloo", "token-mean")
    policy_loss("verl_remax", "vanilla", "remax", "token-mean")
    policy_loss("verl_ppo_policy", "vanilla", "gae", "token-mean")
    policy_loss("verl_gspo", "gspo", "grpo", "seq-mean-token-mean", clip_ratio_low=0.1, clip_ratio_high=0.2)
    policy_loss("verl_gmpo", "geo_mean", "grpo", "token-mean", clip_ratio_low=0.3, clip_ratio_high=0.3)
    policy_loss("verl_cispo", "cispo", "grpo", "token-mean", clip_ratio_low=10, clip_ratio_high=0.2)
    policy_loss("verl_grpo_truncated_is", "vanilla", "grpo", "token-mean", with_is_weights=True)
    for estimator in ("k1", "k2", "k3", "k1+", "k3+"):
        kl = (core.kl_penalty(x.logp, x.logp_reference, estimator) * x.mask).sum() / x.mask.sum()
        cases[f"verl_kl_{estimator}"] = measured(
            x, "trainer.ppo.core_algos.kl_penalty", "verl", {"kl_penalty": estimator}, kl
        )
    cases["verl_value_loss"] = value_loss_case(x, core)
    return cases


def verl_advantages(x: Inputs, core: Any) -> dict[str, torch.Tensor]:
    config = SimpleNamespace(gamma=0.9)
    arguments = {"token_level_rewards": x.token_rewards.clone(), "response_mask": x.mask}
    grouped = {**arguments, "index": x.index}
    return {
        "grpo": core.compute_grpo_outcome_advantage(**{**grouped, "token_level_rewards": x.token_rewards.clone()})[0],
        "dr_grpo": core.compute_grpo_outcome_advantage(**grouped, norm_adv_by_std_in_grpo=False)[0],
        "reinforce_pp": core.compute_reinforce_plus_plus_outcome_advantage(**arguments, config=config)[0],
        "reinforce_pp_baseline": core.compute_reinforce_plus_plus_baseline_outcome_advantage(**grouped)[0],
        "rloo": core.compute_rloo_outcome_advantage(**grouped)[0],
        "remax": core.compute_remax_outcome_advantage(**arguments, reward_baselines=x.greedy_rewards)[0],
        "gae": core.compute_gae_advantage_return(x.token_rewards, x.values_old, x.mask, gamma=0.9, lam=0.8)[0],
    }


def actor_config(**settings: Any) -> Any:
    from verl.workers.config import ActorConfig

    loss_scale_factor = settings.get("loss_scale_factor")
    info = {"loss_scale_factor": loss_scale_factor} if loss_scale_factor is not None else {}
    return ActorConfig(strategy="fsdp", rollout_n=3, ppo_micro_batch_size_per_gpu=8, global_batch_info=info, **settings)


def value_loss_case(x: Inputs, core: Any) -> dict[str, Any]:
    _, returns = core.compute_gae_advantage_return(x.token_rewards, x.values_old, x.mask, gamma=0.9, lam=0.8)
    loss, _ = core.compute_value_loss(x.values, returns, x.values_old, x.mask, cliprange_value=0.5)
    (gradient,) = torch.autograd.grad(loss, x.values)
    return {
        "package": "verl",
        "version": version("verl"),
        "function": "trainer.ppo.core_algos.compute_value_loss",
        "settings": {"gamma": 0.9, "lam": 0.8, "cliprange_value": 0.5},
        "loss": float(loss.detach()),
        "gradient": gradient.tolist(),
    }


# --- TRL --------------------------------------------------------------------------------------------------------


def trl_cases(x: Inputs) -> dict[str, Any]:
    from trl import GRPOTrainer, RLOOTrainer
    from trl.experimental.gmpo.gmpo_trainer import GMPOTrainer

    cases: dict[str, Any] = {}

    def case(name: str, trainer: type, **settings: Any) -> None:
        loss = trainer._compute_loss(*stand_in(x, **settings))
        cases[name] = measured(x, f"{trainer.__module__}.{trainer.__name__}._compute_loss", "trl", settings, loss)

    case("trl_grpo", GRPOTrainer, loss_type="grpo", beta=0.04)
    case("trl_bnpo", GRPOTrainer, loss_type="bnpo", beta=0.0)
    case("trl_dr_grpo", GRPOTrainer, loss_type="dr_grpo", beta=0.0, scale_rewards="none")
    case("trl_dapo", GRPOTrainer, loss_type="dapo", beta=0.0, epsilon_high=0.28)
    case("trl_gspo", GRPOTrainer, loss_type="grpo", beta=0.0, importance_sampling_level="sequence", epsilon_low=0.1)
    case("trl_cispo", GRPOTrainer, loss_type="cispo", beta=0.0, epsilon_high=1.3)
    case("trl_weighted_kl", GRPOTrainer, loss_type="bnpo", beta=0.5, use_bias_correction_kl=True)
    case("trl_rloo_first_update", RLOOTrainer, loss_type="rloo", beta=0.0)
    case("trl_gmpo", GMPOTrainer, loss_type="grpo", beta=0.0, epsilon_low=0.3, epsilon_high=0.3)
    return cases


def stand_in(x: Inputs, **settings: Any) -> tuple[Any, None, dict[str, torch.Tensor]]:
    """A trainer's attributes as far as `_compute_loss` reads them, and its inputs."""
    from collections import defaultdict

    gathering = SimpleNamespace(
        num_processes=1, gather=lambda value: value, reduce=lambda value, reduction: value, sync_gradients=True
    )
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (x.logp, torch.zeros_like(x.logp), None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=settings.get("importance_sampling_level", "token"),
        beta=settings["beta"],
        loss_type=settings["loss_type"],
        epsilon_low=settings.get("epsilon_low", 0.2),
        epsilon_high=settings.get("epsilon_high", 0.2),
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        max_completion_length=9,
        current_gradient_accumulation_steps=1,
        accelerator=gathering,
        model=SimpleNamespace(training=True),
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
        args=SimpleNamespace(
            delta=None, steps_per_generation=1, use_bias_correction_kl=settings.get("use_bias_correction_kl", False)
        ),
    )
    ids = torch.ones_like(x.mask, dtype=torch.long)
    centred = torch.stack([x.rewards[i] - x.rewards[x.index == g].mean() for i, g in enumerate(x.index)])
    scales = torch.stack([x.rewards[x.index == g].std() for g in x.index])
    advantages = centred if settings.get("scale_rewards") == "none" else centred / (scales + 1e-4)
    if settings["loss_type"] == "rloo":
        sizes = torch.tensor([(x.index == g).sum() for g in x.index])
        advantages = centred * sizes / (sizes - 1)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1],
        "completion_ids": ids,
        "completion_mask": x.mask,
        "advantages": advantages,
        "old_per_token_logps": x.logp_old,
        "old_logps": (x.logp.detach() * x.mask).sum(1),  # read by RLOO alone, whose ratios are then 1
        "ref_per_token_logps": x.logp_reference,
        "num_items_in_batch": x.mask.sum(),
    }
    return trainer, None, inputs


if __name__ == "__main__":
    stored = draw_inputs()
    inputs = Inputs(stored)
    cases = {**verl_cases(inputs), **trl_cases(inputs)}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(case)}" for name, case in cases.items())
    text = f'{{"inputs": {json.dumps(stored)},\n"cases": {{\n{lines}\n}}}}\n'
    Path(__file__).with_name("losses.json").write_text(text)
