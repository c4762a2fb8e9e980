"""The study file: how it expands, and its errors, found before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from training import recipe

from harness.cli import main
from harness.study.arms import arms_of
from harness.study.cells import TrainCell, checkpoint_settings, segments
from harness.study.config import read_study
from harness.trainers.config import CheckpointConfig

TOP = 'name = "s"\nbase = "countdown-tiny"\nsteps = 4\n'
ARM = '[arms.grpo]\nrecipe = "countdown-grpo"\n'


def arms(tmp_path: Path, text: str):
    (tmp_path / "s.toml").write_text(TOP + text)
    return arms_of(read_study(tmp_path / "s.toml"), tmp_path)


def test_lists_expand_into_arms_and_their_settings_stand_above_the_common_ones(tmp_path):
    text = """
[common.optimizer]
lr = 1e-4
weight_decay = 0.5

[arms.flowrl]
recipe = "countdown-flowrl"
beta = [0.3, 1]
set = { "optimizer.lr" = 3e-4 }
sweep = { "loop.minibatches_per_step" = [1, 4] }
"""
    found = arms(tmp_path, text)
    assert [arm.name for arm in found] == [
        "flowrl[beta=0.3, minibatches_per_step=1]",
        "flowrl[beta=0.3, minibatches_per_step=4]",
        "flowrl[beta=1, minibatches_per_step=1]",
        "flowrl[beta=1, minibatches_per_step=4]",
        "grpo-kl",
    ]
    assert found[1].folder_name == "flowrl-beta=0.3-minibatches_per_step=4"
    tree = found[1].tree({"optimizer": {"lr": 1e-4, "weight_decay": 0.5}})
    assert (tree["objective"]["beta"], tree["loop"]["minibatches_per_step"]) == (0.3, 4)
    assert (tree["optimizer"]["lr"], tree["optimizer"]["weight_decay"]) == (3e-4, 0.5)
    assert tree["objective"]["clip_high"] == 0.28  # of the recipe


def test_grpo_with_kl_is_a_control_unless_an_arm_is_or_the_study_declines(tmp_path):
    control = arms(tmp_path, ARM + "clip_high = 0.3\n")[-1]
    tree = control.tree({})
    assert control.name == "grpo-kl"
    assert (tree["objective"]["id"], tree["objective"]["kl_beta"], tree["objective"]["clip_high"]) == ("grpo", 0.1, 0.3)
    from_flowrl = arms(tmp_path, '[arms.f]\nrecipe = "countdown-flowrl"\nbeta = 0.3\n')[-1].tree({})
    assert from_flowrl["objective"] == {"id": "grpo", "kl_beta": 0.1}
    assert len(arms(tmp_path, ARM + "kl_beta = 0.05\n")) == 1
    assert len(arms(tmp_path, "[controls]\ngrpo_kl = 0\n" + ARM)) == 1


@pytest.mark.parametrize(
    ("wanted", "own", "every", "keep", "stops"),
    [
        ([80, 160], None, 16, 6, [160]),
        ([160], None, 16, 2, [160]),
        ([50, 77], None, 8, 5, [50, 77]),
        ([97], None, 10, 2, [97]),
        ([2, 4], None, 1, 3, [4]),
        ([80, 160], 10, 10, 9, [160]),
        ([100, 200], 50, 50, 3, [200]),
    ],
)
def test_the_wanted_checkpoints_are_saved_and_kept(wanted, own, every, keep, stops):
    config = recipe("countdown-grpo", loop={"steps": max(wanted)}, checkpoint={"every_steps": own} if own else {})
    settings = checkpoint_settings(config, wanted)
    assert settings == {"every_steps": every, "keep": keep}
    cell = TrainCell("a", 1, Path("a"), {"checkpoint": settings}, tuple(wanted), "a")
    assert list(segments(cell)) == stops
    # by brute force: what is saved on the way, and what of it stays
    saved = [s for s in range(1, max(wanted) + 1) if s % every == 0 or s in stops]
    assert set(wanted) <= set(saved[-keep:])
    assert CheckpointConfig(**settings).interval(max(wanted)) == every


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds = [1, 1]\n" + ARM, "seeds has 1 twice"),
        ("checkpoints = [8]\n" + ARM, "there is no checkpoint 8 in 4 steps; raise steps"),
        ("seeds = []\n" + ARM, "seeds and temperatures need one entry"),
        ("draws = 0\n" + ARM, "'draws' must be at least 1"),
        ("arms = {}", "arms is empty"),
        ("sedes = [1]\n" + ARM, "unknown key 'sedes'; did you mean 'seeds'"),
        ("common.loop.steps = 3\n" + ARM, "common.loop.steps is set for the whole study: use steps"),
        ("evaluation.n = 3\n" + ARM, "evaluation.n is set for the whole study: use n"),
        ("[arms.base]\nrecipe = 'countdown-grpo'\n", "an arm can't be called 'base'"),
        ("[arms.grpo]\nset = { seed = 3 }\nrecipe = 'countdown-grpo'\n", "arms.grpo sets seed, which all arms share"),
        ("[arms.grpo]\nrecipe = 'countdown-gpro'\n", "or 'countdown-grpo'"),
        ("[arms.grpo]\n", "arms.grpo needs a recipe"),
        (ARM + "bta = 3\n", "the arm 'grpo': unknown key 'objective.bta'; did you mean"),
        (ARM + "sweep = { 'optimizer.lr' = [] }\n", "the sweep of 'optimizer.lr' needs a list of values"),
        (ARM + "sweep = { 'optimizer.lr' = [1, 1] }\n", "two arms would be called 'grpo[lr=1]'"),
        ("evaluation.preset = 'flowrll'\n" + ARM, "did you mean 'flowrl'"),
        ("tasks = ['countdwn']\n" + ARM, "did you mean 'countdown'"),
        (ARM.replace("]", "]\nset = { 'model.device' = 'tpu' }"), "tpu"),
        ("limit =\n", "can't be read"),
    ],
)
def test_a_wrong_study_is_refused_in_one_line_and_writes_nothing(text, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("s.toml").write_text(TOP + text)
    assert main(["study", "s.toml", "--quiet"]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.toml"]


def test_a_base_that_is_not_there_and_a_study_that_is_not_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("s.toml").write_text(TOP.replace("countdown-tiny", "countdown-tny") + ARM)
    assert main(["study", "s.toml", "--quiet"]) == 2
    assert "no model is called 'countdown-tny'" in capsys.readouterr().err
    assert main(["study", "no.toml"]) == 2
    assert "there is no study file no.toml" in capsys.readouterr().err
    Path("model").mkdir()
    Path("model/config.json").write_text("{}")
    Path("s.toml").write_text(TOP.replace("countdown-tiny", "model") + ARM)
    assert main(["study", "s.toml", "--quiet"]) == 2
    assert "the arm 'grpo' can't load the base model" in capsys.readouterr().err
    assert not Path("runs").exists()
