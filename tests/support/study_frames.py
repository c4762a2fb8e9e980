"""Frames of counts as a study writes them, drawn from arms of a known accuracy and diversity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

Places = Mapping[tuple[int, float], tuple[float, float]]
"""By step and temperature: the logit of pass@1, and the power that sharpens the shares of the solutions."""
GREEDY: Places = {(80, 1.0): (0.4, 1.6), (80, 0.6): (0.9, 2.4), (160, 1.0): (1.1, 3.0), (160, 0.6): (1.5, 5.0)}
DIVERSE: Places = {(80, 1.0): (0.3, 1.0), (80, 0.6): (0.8, 1.3), (160, 1.0): (1.0, 1.2), (160, 0.6): (1.5, 1.6)}
N_SAMPLES, N_PROBLEMS, N_SOLUTIONS = 64, 60, 8


def study_frame(
    arms: Mapping[str, Places],
    seeds: Sequence[int] = (1, 2, 3),
    n_problems: int = N_PROBLEMS,
    seed_effect: float = 0.1,
    n_draws: int = 1,
) -> pd.DataFrame:
    """Draw the counts of a study. The problems are the same for all arms."""
    rng = np.random.default_rng(11)
    logits = rng.normal(0, 0.8, size=n_problems)
    shares = rng.dirichlet(np.ones(N_SOLUTIONS), size=n_problems)
    rows = []
    for arm, places in arms.items():
        for seed in seeds if arm != "base" else [0]:
            effect = rng.normal(0, seed_effect)
            for (step, temperature), (shift, sharpness) in places.items():
                powers = shares**sharpness
                rates = 1 / (1 + np.exp(-logits - shift - effect))
                each = rates[:, None] * powers / powers.sum(axis=1, keepdims=True)
                for draw in range(1, n_draws + 1):
                    counts = rng.multinomial(N_SAMPLES, np.c_[each, 1 - each.sum(axis=1)].clip(0, 1))[:, :-1]
                    cell = (arm, seed, step, temperature, draw, "countdown", "test")
                    rows += [(*cell, f"p{i}", N_SAMPLES, c.sum(), 0, _text(c)) for i, c in enumerate(counts)]
    names = "arm seed step temperature draw task split problem n correct ungraded solutions"
    return pd.DataFrame(rows, columns=names.split())


def _text(counts: Sequence[int]) -> str:
    return " ".join(str(c) for c in sorted(counts, reverse=True) if c)
