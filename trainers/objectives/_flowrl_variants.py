"""The named variants of FlowRL: which choice each makes where paper, release and recipe disagree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Variant = Literal["paper", "release", "recipe", "no_log_z", "vargrad", "random_z", "const_z"]

_PAPER: Mapping[str, Any] = {
    "beta": 15.0,
    "importance_weight": "clipped",
    "importance_weight_over": "sum",
    "clip_low": 0.2,
    "clip_high": 0.2,
    "cap": 10.0,
    "normalise_by_length": True,
    "group_statistics": "mean_and_std",
    "anchor": "reference",
    "loss_scale": "mean",
    "log_z": "learned",
    "log_z_constant": 0.5,
    "log_z_layers": 3,
    "log_z_width": 0,
    "log_z_dropout": 0.0,
    "log_z_pooling": "prompt",
    "log_z_detach": True,
    "log_z_from_zero": True,
    "log_z_lr": 1e-3,
    "log_z_weight_decay": 0.0,
}
_RELEASE: Mapping[str, Any] = {
    **_PAPER,
    "importance_weight": "unclipped",
    "loss_scale": "release",
    "log_z_dropout": 0.1,
    "log_z_pooling": "prompt_but_last",
    "log_z_detach": False,
    "log_z_from_zero": False,
    "log_z_lr": "policy",
    "log_z_weight_decay": "policy",
}
VARIANTS: Mapping[Variant, Mapping[str, Any]] = {
    "paper": _PAPER,
    "release": _RELEASE,
    "recipe": {**_RELEASE, "importance_weight": "capped", "loss_scale": "mean"},
    "no_log_z": {**_PAPER, "log_z": "none"},
    "vargrad": {**_PAPER, "log_z": "group_mean"},
    "random_z": {**_PAPER, "log_z": "random"},
    "const_z": {**_PAPER, "log_z": "constant"},
}


def without_effect(options: Any) -> list[str]:
    """A line on options that are not as the variant has them, and that the others leave without effect.

    They are told and not refused, so that a recipe's options may stand while another variant is tried.
    """
    changed = {name for name, value in VARIANTS[options.variant].items() if getattr(options, name) != value}
    ignored = {reason: sorted(changed & names) for reason, names in _without_effect(options).items()}
    return [f"{', '.join(names)}: without effect where {reason}" for reason, names in ignored.items() if names]


def _without_effect(options: Any) -> Mapping[str, set[str]]:
    """By what leaves them so."""
    weight, log_z = options.importance_weight, options.log_z
    of_head = {name for name in _PAPER if name.startswith("log_z_") and name != "log_z_constant"}
    return {
        f"importance_weight = {weight!r}, which is not clipped": {"clip_low", "clip_high"}
        if weight != "clipped"
        else set(),
        f"importance_weight = {weight!r}, which is not capped": {"cap"} if weight != "capped" else set(),
        "importance_weight = 'none'": {"importance_weight_over"} if weight == "none" else set(),
        f"log_z = {log_z!r}, which is not learned": of_head if log_z != "learned" else set(),
        f"log_z = {log_z!r}, which is not constant": {"log_z_constant"} if log_z != "constant" else set(),
        "log_z_layers = 1, which has nothing inside": {"log_z_width", "log_z_dropout"}
        if options.log_z_layers == 1
        else set(),
    }
