"""Ceiling and power against formulas written out, and the price of a study against a count by hand."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest

from harness.cli import main
from harness.stats.planning import components
from harness.study.config import ForecastConfig, bundled_studies, read_study
from harness.study.forecast import forecast

Z = NormalDist().inv_cdf


def frame(arm: str, rates: list[float], *, seeds: int = 1, n: int = 32, step: int = 0, draws: int = 2) -> pd.DataFrame:
    rng = np.random.default_rng(len(arm))
    rows = [
        (arm, seed, step, 0.6, draw, "t", "test", f"p{i}", n, int(rng.binomial(n, rate)), 0, "")
        for seed in range(1, seeds + 1)
        for draw in range(1, draws + 1)
        for i, rate in enumerate(rates)
    ]
    columns = ["arm", "seed", "step", "temperature", "draw", "task", "split", "problem", "n", "correct", "ungraded"]
    return pd.DataFrame(rows, columns=[*columns, "solutions"])


RATES = [0.1, 0.3, 0.5, 0.9]


def test_before_any_arm_the_variances_are_those_assumed_and_the_samples_of_the_base() -> None:
    base = frame("base", RATES)
    settings = ForecastConfig(seed_sd=0.02, problem_sd=0.1, power=0.9)
    (row,) = forecast(base, settings, n_seeds=3, n_arms=3).rows
    right = base.groupby("problem")["correct"].sum()
    p = right / 64
    noise = 2 * float((p * (1 - p) * 64 / 63).mean())
    error = math.sqrt((0.1**2 + noise / (64 * 3)) / 4 + 2 * 0.02**2 / 3)
    detectable = error * (Z(1 - 0.05 / 6) + Z(0.9))  # three pairs of arms
    assert row[:6] == ("t", 0.6, 4, 64, pytest.approx(p.mean()), 1.0)
    assert row[6] == pytest.approx(1 - p.mean()) and row[7] == pytest.approx(detectable)
    assert row[8] == "assumed, but for samples"


def test_with_two_arms_the_variances_are_estimated_from_them() -> None:
    counts = pd.concat(
        [
            frame("base", RATES),
            frame("a", RATES, seeds=3, step=2),
            frame("a", [0.5] * 4, seeds=3, step=1),
            frame("bb", [0.2, 0.5, 0.6, 0.9], seeds=3, step=2),
        ]
    )
    (row,) = forecast(counts, ForecastConfig(), n_seeds=3, n_arms=2).rows

    def sides(arm: str) -> list[list[tuple[int, int]]]:
        rows = counts[(counts["arm"] == arm) & (counts["step"] == counts[counts["arm"] == arm]["step"].max())]
        summed = rows.groupby(["seed", "problem"])["correct"].sum()
        return [[(int(summed[seed, f"p{i}"]), 64) for i in range(4)] for seed in (1, 2, 3)]

    error = components(sides("a"), sides("bb")).error(4, 64, 3)
    assert row[7] == pytest.approx(error * (Z(0.975) + Z(0.8)))
    assert row[8] == "of a and bb"


def test_a_base_that_solves_all_has_no_power() -> None:
    table = forecast(frame("base", [0.99] * 4), ForecastConfig(), 3, 2)
    assert any("t at T = 0.6: NO POWER, above 95%" in note for note in table.notes)


# --- the price --------------------------------------------------------------------------------------------------

STUDY = """
name = "s"
base = "countdown-tiny"
steps = 4
checkpoints = [2, 4]
seeds = [1, 2, 3]
n = 5
limit = 7
[arms.grpo]
recipe = "countdown-grpo"
[arms.remax]
recipe = "countdown-remax"
"""


def test_the_price_counts_cells_completions_and_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.toml").write_text(STUDY)
    assert main(["study", str(tmp_path / "s.toml"), "--dry-run", "--quiet", "--parallel", "1"]) == 0
    printed = capsys.readouterr().out
    n_train = 3 * 4 * 256 * 2 + 3 * 4 * (256 + 16)  # grpo and grpo-kl; ReMax has a greedy completion of each prompt
    n_evals = (1 + 3 * 3 * 2) * 2 * 3  # base and checkpoints, temperatures, draws
    cells = f"{9 + n_evals}: 9 trainings, {n_evals} evaluations, and the controls of 3 checkpoints"
    assert f"cells                           {cells}\n" in printed
    assert f"completions in training         {n_train:,}\n" in printed
    assert f"completions in evaluations      {n_evals * 35:,}\n" in printed
    assert f"tokens of completions, at most  {(n_train + n_evals * 35) * 14:,}\n" in printed
    assert "from 2 steps of grpo and a small evaluation on this machine now" in printed
    assert not (tmp_path / "runs").exists()


def test_the_price_counts_the_settings_that_tuning_tries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuning = "[tuning]\nbudget = 2\nsteps = 3\nseed = 9\nlimit = 6\nn = 4\n[tuning.grid]\n"
    grid = "".join(f"{arm} = {{ 'optimizer.lr' = [1e-4, 2e-4] }}\n" for arm in ("grpo", "remax"))
    (tmp_path / "s.toml").write_text(STUDY + "[controls]\ngrpo_kl = 0.0\n" + tuning + grid)
    assert main(["study", str(tmp_path / "s.toml"), "--dry-run", "--quiet", "--parallel", "1"]) == 0
    printed = capsys.readouterr().out
    n_train = (3 * 4 + 2 * 3) * (256 + 256 + 16)
    n_evals = (1 + 2 * 3 * 2) * 2 * 3
    assert f"{6 + n_evals}: 6 trainings, {n_evals} evaluations" in printed
    assert "settings tried in tuning        4\n" in printed
    assert f"completions in training         {n_train:,}\n" in printed
    assert f"completions in evaluations      {n_evals * 35 + 4 * 6 * 4:,}\n" in printed


@pytest.mark.parametrize("name", bundled_studies())
def test_the_bundled_studies_are_complete_but_for_the_hardware(name: str, tmp_path: Path, capsys) -> None:
    assert main(["study", name, "--dry-run", "--quiet", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "TOO LITTLE" in printed and "not known" not in printed
    study = read_study(bundled_studies()[name])
    assert study.name == name and len(study.seeds) == 3
    assert {"reinforce_pp", "ppo", "grpo", "flowrl"} <= set(study.arms)
