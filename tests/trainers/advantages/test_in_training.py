"""Advantages chosen in a config: what is refused before anything is loaded, and what a run does with them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from altered_runs import change_record, replace_text
from training import recipe, run
from training_parts import detached, graded, make_batch, make_outputs

from harness.cli import main
from harness.core import config as configs
from harness.core.config import parse_plugin
from harness.core.errors import ConfigError, RunError
from harness.core.types import Graded, Verdict
from harness.trainers.batch import collate, select

GROUPED = {"id": "grpo", "kl_beta": 0.0, "reduction": "token_mean"}


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (["objective.advantage=maxlr"], "no advantage is called 'maxlr'; did you mean 'maxrl'"),
        (["objective.advantage.id=pkpo", "objective.advantage.kk=3"], "unknown key 'objective.advantage.kk'"),
        (
            ["objective.advantage.id=pkpo", "objective.advantage.k=17"],
            "the advantage 'pkpo' with these options takes at least 17 completions of a prompt",
        ),
        (
            ["objective.advantage.id=pass_at_k", "objective.advantage.k=17"],
            "the advantage 'pass_at_k' with these options takes at least 17 completions of a prompt",
        ),
        (["objective.id=gspo", "objective.advantage=batch"], "the ratio of a sequence is one number for a completion"),
        (["objective.id=gmpo", "objective.advantage=batch"], "gives an advantage to each token"),
        (
            ["objective.advantage=maxrl", "overlong.buffer_tokens=2"],
            "the advantage 'maxrl' is defined for rewards in [0, 1], and overlong.buffer_tokens subtracts a penalty",
        ),
        (["objective.advantage=unlikeliness", "kl.place=reward"], "kl.place = 'reward' subtracts a KL"),
        (["objective.advantage=group", "loop.samples_per_prompt=1"], "compares the completions of a prompt"),
        (["objective.normalise_by_std=false"], "is not an option any more: false is objective.advantage = 'mean'"),
        (["objective.id=reinforce", "objective.baseline=none"], "is not an option any more: it is objective.advantage"),
    ],
)
def test_advantage_that_can_not_work_is_refused_in_one_line(
    settings: list[str], complaint: str, tmp_path: Path, capsys: Any
) -> None:
    words = ["train", "countdown-grpo", "--out", str(tmp_path / "run")]
    assert main([*words, *(word for s in settings for word in ("--set", s))]) == 2
    printed = capsys.readouterr().err
    assert complaint in printed and printed.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_rewards_of_the_grader_are_checked_before_anything_is_loaded(tmp_path: Path, capsys: Any) -> None:
    words = ["train", "flowrl-math-7b", "--set", "objective.id=grpo", "--set", "objective.advantage=maxrl"]
    assert main([*words, "--set", "task.id=countdown", "--out", str(tmp_path / "run")]) == 2
    assert (
        "the grader 'legacy_dapo' gives rewards from -1 to 1; change that, or the advantage" in capsys.readouterr().err
    )


def test_advantage_of_solutions_is_refused_for_a_grader_that_names_none(tmp_path: Path) -> None:
    config = recipe("countdown-grpo", objective={**GROUPED, "advantage": "rarity"}, grader="exact")
    with pytest.raises(ConfigError, match=r"the grader 'exact' does not name them: set objective.advantage.classes"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("objective_id", ["grpo", "gspo", "gmpo", "cispo", "trpo", "reinforce"])
def test_every_policy_gradient_takes_its_advantages_from_the_plugin(objective_id: str) -> None:
    batch = make_batch([2] * 4, [1, 2, 3, 2], [0, 0, 1, 1], [1, 0, 1, 1])
    objective = parse_plugin("objectives", {"id": objective_id, "advantage": "maxrl"}).build()
    values = objective.advantages(batch, detached(make_outputs(batch))).values
    torch.testing.assert_close(values, torch.tensor([1.0, -1.0, 0.0, 0.0]))
    assert objective.requires >= {"group", "unit_rewards"}


def test_options_of_an_advantage_may_be_set_without_its_id() -> None:
    config = configs.parse_plugin("objectives", {"id": "grpo", "advantage": {"eps": 0.5}})
    assert configs.to_tree(config)["advantage"] == {"id": "group", "eps": 0.5}


def test_objective_states_the_needs_of_its_advantage() -> None:
    objective = parse_plugin("objectives", {**GROUPED, "kl_beta": 0.1, "advantage": "ucpo"}).build()
    assert objective.needs == {"reference_logp", "logp_old"}


# --- classes ----------------------------------------------------------------------------------------------------


def completions() -> list[Graded[Any]]:
    """Two problems; the right ones of the first have the solutions s, s and t, and answers without regard to them."""
    verdicts = [
        ("p", Verdict("correct", 1.0, extracted="1", details={"solution": "s"})),
        ("p", Verdict("incorrect", 0.0, extracted="2")),
        ("p", Verdict("correct", 1.0, extracted="1", details={"solution": "t"})),
        ("p", Verdict("correct", 1.0, extracted="3", details={"solution": "s"})),
        ("q", Verdict("correct", 1.0, extracted="1", details={"solution": "s"})),
        ("q", Verdict("incorrect", 0.0)),
    ]
    return [
        dataclasses.replace(graded(problem, index, 0.0), verdict=verdict)
        for index, (problem, verdict) in enumerate(verdicts)
    ]


@pytest.mark.parametrize(
    ("need", "alike"),
    [("solution_classes", [[0, 3], [2], [4]]), ("answer_classes", [[0, 2], [1], [3], [4]])],
)
def test_batch_has_the_classes_that_are_needed(need: Any, alike: list[list[int]]) -> None:
    classes = collate(completions(), "cpu", needs=frozenset({need})).classes
    assert classes is not None
    found = [(classes == number).nonzero()[:, 0].tolist() for number in classes.unique() if number >= 0]
    assert sorted(found) == alike
    assert (classes == -1).sum() == 6 - sum(map(len, alike))


def test_batch_has_no_classes_unless_they_are_needed() -> None:
    assert collate(completions(), "cpu").classes is None


def test_right_completion_without_a_solution_stops_with_one_line() -> None:
    unnamed = dataclasses.replace(completions()[0], verdict=Verdict("correct", 1.0, extracted="1"))
    with pytest.raises(RunError, match=r"does not name its solution.*classes = 'answer'"):
        collate([unnamed], "cpu", needs=frozenset({"solution_classes"}))


def test_classes_follow_their_rows() -> None:
    batch = collate(completions(), "cpu", needs=frozenset({"solution_classes"}))
    rows = torch.tensor([3, 0])
    assert torch.equal(select(batch, rows).classes, batch.classes[rows])


# --- runs -------------------------------------------------------------------------------------------------------


def test_run_records_its_advantage_and_resumes_with_it_alone(tmp_path: Path) -> None:
    changes = {"loop": {"steps": 1}, "objective": {**GROUPED, "advantage": {"id": "pkpo", "k": 3}}}
    view = run(recipe("countdown-grpo", **changes), tmp_path / "run")
    assert view.config()["objective"]["advantage"] == {"id": "pkpo", "k": 3, "baseline": "none"}
    changes["objective"] = {**GROUPED, "advantage": {"id": "pkpo", "k": 2}}
    with pytest.raises(Exception, match=r"objective\.advantage\.k: 3 there, 2 now"):
        run(recipe("countdown-grpo", **changes), tmp_path / "run")


def test_run_of_a_version_without_advantages_is_reported_and_not_resumed(tmp_path: Path, capsys: Any) -> None:
    """Its config has `normalise_by_std`; the record is as that version left it."""
    config = recipe("countdown-grpo", loop={"steps": 1})
    view = run(config, tmp_path / "run")
    text = (view.folder / "config.toml").read_text()
    assert "[objective.advantage]" in text
    head, _, rest = text.partition("[objective.advantage]")
    former = head.rstrip() + "\nnormalise_by_std = true\nstd_eps = 1e-6\n\n[" + rest.partition("\n[")[2]
    replace_text(view.folder, "config.toml", former)
    change_record(view.folder, config_digest="0" * 16)
    assert main(["report", str(view.folder), "--out", str(tmp_path / "page")]) == 0
    assert main(["show", str(view.folder)]) == 0
    assert "normalise_by_std = true" in capsys.readouterr().out
    with pytest.raises(Exception, match=r"'objective.normalise_by_std', 'objective.std_eps' of its config"):
        run(config, tmp_path / "run")
