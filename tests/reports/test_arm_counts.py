"""Arms, seeds and steps of plain runs, and that no two protocols meet in one frontier."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import drawn, write_eval, write_train

from harness.core.errors import UsageError
from harness.reports.arm_counts import arm_counts, tables_of_arms
from harness.reports.frontier import CELL
from harness.reports.frontier_tables import frontier_tables
from harness.reports.methods import methods_of
from harness.reports.with_base import with_base
from harness.runs.folder import RunReader

TASK = {"countdown": 6}
BASE_CELL = {"arm": "base", "seed": 0, "step": 0, "split": "test"}
SAMPLING = {"temperature": 0.6, "top_p": 1.0, "max_tokens": 64}


def evaluation(folder: Path, model: str | Path, *, rate: float = 0.5, **config: Any) -> RunReader:
    draw = drawn(rate, config.get("seed", 0))
    options = {"sampling": SAMPLING, "names_solutions": True, **config}
    return RunReader.read(write_eval(folder, str(model), draw, tasks=TASK, **options))


def training(folder: Path, seed: int = 0, objective: str = "grpo") -> Path:
    return write_train(folder, objective={"id": objective}, seed=seed)


def checkpoint(trained: Path, step: int) -> Path:
    return trained / "checkpoints" / f"step-{step:06d}"


def cells_of(runs: list[RunReader]) -> set[tuple[Any, ...]]:
    (found,) = arm_counts(runs)
    return set(found.counts[CELL].drop_duplicates().itertuples(index=False, name=None))


def test_an_arm_is_an_objective_with_its_seeds_and_steps(tmp_path):
    trained = [training(tmp_path / f"grpo-{seed}", seed) for seed in (3, 4)]
    runs = [evaluation(tmp_path / "base", "model")]
    runs += [
        evaluation(tmp_path / f"{folder.name}-{step}", checkpoint(folder, step))
        for folder in trained
        for step in (10, 20)
    ]
    steps = {("grpo", seed, step, 0.6) for seed in (3, 4) for step in (10, 20)}
    assert cells_of(runs) == {("base", 0, 0, 0.6)} | steps


def test_a_training_named_by_a_number_is_not_a_step(tmp_path):
    trained = training(tmp_path / "40")
    runs = [evaluation(tmp_path / "base", "model"), evaluation(tmp_path / "last", trained)]
    assert ("grpo", 0, 20, 0.6) in cells_of(runs), "the run folder itself is its last checkpoint"


def test_a_named_training_has_the_step_that_was_its_last_then(tmp_path):
    trained = training(tmp_path / "grpo")
    runs = [
        evaluation(tmp_path / f"at-{step}", trained, facts={"model": {"name": f"step-{step:06d}"}}, seed=step)
        for step in (3, 20)
    ]
    assert cells_of(runs) == {("grpo", 0, 3, 0.6), ("grpo", 0, 20, 0.6)}


def test_other_models_are_other_arms_and_not_one_base(tmp_path):
    runs = [evaluation(tmp_path / "one", "small"), evaluation(tmp_path / "two", "large")]
    assert {arm for arm, *_ in cells_of(runs)} == {"base (small)", "base (large)"}


def test_other_protocols_are_apart_and_named(tmp_path):
    trained = training(tmp_path / "grpo")
    runs = []
    for tokens in (64, 128):
        sampling = {**SAMPLING, "max_tokens": tokens}
        runs.append(evaluation(tmp_path / f"base-{tokens}", "model", sampling=sampling))
        runs.append(evaluation(tmp_path / f"grpo-{tokens}", checkpoint(trained, 20), sampling=sampling))
    found = arm_counts(runs)
    assert sorted(one.protocol for one in found) == ["max tokens 128", "max tokens 64"]
    assert all(len(one.counts[CELL].drop_duplicates()) == 2 for one in found)
    notes = [note for table in tables_of_arms(runs, frontier_tables) for note in table.notes]
    assert {"PROTOCOL: max tokens 64", "PROTOCOL: max tokens 128"} <= set(notes)


def test_temperatures_and_numbers_of_samples_are_points_of_one_frontier(tmp_path):
    hotter = {**SAMPLING, "temperature": 1.0}
    runs = [
        evaluation(tmp_path / "cold", "model", n=8),
        evaluation(tmp_path / "hot", "model", n=4, sampling=hotter),
    ]
    assert cells_of(runs) == {("base", 0, 0, 0.6), ("base", 0, 0, 1.0)}


def test_two_evaluations_with_one_seed_are_refused(tmp_path):
    runs = [evaluation(tmp_path / name, "model") for name in ("one", "again")]
    runs.append(evaluation(tmp_path / "hot", "model", sampling={**SAMPLING, "temperature": 1.0}))
    (found,) = arm_counts(runs)
    with pytest.raises(UsageError, match=r"two evaluations of base .* have the seed 0"):
        found.curves()


def test_runs_in_a_study_that_are_not_in_its_index_are_left_out(tmp_path):
    study = tmp_path / "study"
    inside = [evaluation(study / "cells" / name, "model", seed=draw) for draw, name in enumerate(("a", "b", "control"))]
    rows = [
        {
            "folder": f"cells/{name}",
            "arm": "base",
            "seed": 0,
            "step": 0,
            "temperature": 0.6 + draw,
            "draw": draw,
            "split": "test",
        }
        for draw, name in enumerate(("a", "b"))
    ]
    (study / "study.json").write_text(json.dumps({"evaluations": rows}), encoding="utf-8")
    (found,) = arm_counts(inside)
    assert set(found.counts["draw"]) == {0, 1}


def test_checkpoints_of_one_training_are_not_seeds_of_a_method(tmp_path):
    trained = training(tmp_path / "grpo")
    runs = [evaluation(tmp_path / f"at-{step}", checkpoint(trained, step)) for step in (10, 20)]
    named = [(run, run.record.id) for run in runs]
    assert [len(method.runs) for method in methods_of(named)] == [1, 1]


def test_a_base_under_another_protocol_is_not_compared(tmp_path):
    trained = write_train(tmp_path / "grpo", objective={"id": "grpo"}, model="model")
    runs = [evaluation(tmp_path / "trained", checkpoint(trained, 20))]
    runs.append(evaluation(tmp_path / "base", "model", facts={"countdown": {"prompt": "another"}}))
    assert with_base(runs) == []
    runs.append(evaluation(tmp_path / "like", "model"))
    assert len(with_base(runs)) == 1
