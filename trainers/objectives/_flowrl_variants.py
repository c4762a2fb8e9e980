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
