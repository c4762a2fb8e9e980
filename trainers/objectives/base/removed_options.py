"""Options that objectives had in earlier versions, each with what to write in its place."""

from __future__ import annotations

from collections.abc import Mapping

_ABLATION = "it is one of objective.id = 'flowrl_ablation'"
FLOWRL: Mapping[str, str] = {
    "variant": (
        "'paper' is objective.id = 'flowrl' itself, 'release' is 'flowrl_release' and 'recipe' is 'flowrl_recipe'; "
        "'no_log_z', 'vargrad', 'random_z' and 'const_z' are 'flowrl_ablation' with log_z = 'none', 'group_mean', "
        "'random' and 'constant'"
    ),
    "cap": "it is one of objective.id = 'flowrl_recipe', and of 'flowrl_ablation' with importance_weight = 'capped'",
    "importance_weight": _ABLATION,
    "importance_weight_over": _ABLATION,
    "normalise_by_length": _ABLATION,
    "group_statistics": _ABLATION,
    "anchor": _ABLATION,
    "loss_scale": _ABLATION,
    "log_z": _ABLATION,
    "log_z_constant": _ABLATION,
    "log_z_pooling": _ABLATION,
    "log_z_detach": _ABLATION,
    "log_z_from_zero": _ABLATION,
}

GROUP_ADVANTAGE: Mapping[str, str] = {
    "normalise_by_std": "false is objective.advantage = 'mean', and true is the default, objective.advantage = 'group'",
    "std_eps": "it is objective.advantage.eps, of the advantage 'group'",
}
REINFORCE: Mapping[str, str] = {
    "baseline": "it is objective.advantage.mean of the advantage 'baseline': 'running', 'batch' or 'none'",
    "baseline_decay": "it is objective.advantage.decay of the advantage 'baseline'",
}
