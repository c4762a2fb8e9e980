"""Exports with an objective: to verl as a plug-in, to prime-rl as a loss; and an environment of verifiers."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from training_parts import make_batch

import harness
from harness.cli import main
from harness.core import config as configs
from harness.core.config import parse_plugin
from harness.core.errors import ConfigError
from harness.core.tensors import Advantages, PolicyOutputs
from harness.interop.verifiers_export import score, ungraded
from harness.trainers.token_loss import token_loss

PACKAGE = str(Path(harness.__file__).parents[1])


def exported(form: str, folder: Path, *arguments: str) -> Path:
    assert main(["export", form, str(folder), *arguments]) == 0
    return folder


def module_of(package: Path) -> Any:
    spec = importlib.util.spec_from_file_location(package.name, package / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- verl


def test_a_recipe_becomes_a_plugin_of_verl(tmp_path: Path) -> None:
    small = ("--set", "loop.steps=2", "--set", "backend.gpus_per_node=1")
    folder = exported("verl", tmp_path / "out", "--recipe", "countdown-flowrl", *small)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["verl.plugins"] == {"harness_objective": "harness_objective"}
    command = (folder / "command.sh").read_text()
    assert "trainer.v1.trainer_mode='\"'\"'harness'\"'\"'" in command
    assert str((folder / "harness_objective" / "prompts.parquet").resolve()) in command
    assert "HARNESS_VERL_RUN" not in command  # the plug-in sets it


def test_verl_loads_the_exported_plugin(tmp_path: Path) -> None:
    pytest.importorskip("verl")
    small = ("--set", "loop.steps=2", "--set", "backend.gpus_per_node=1")
    folder = exported("verl", tmp_path / "out", "--recipe", "countdown-flowrl", *small)
    code = (
        "import verl\n"
        "from harness.trainers.backends.verl.plugin import registered\n"
        "from harness.trainers.backends.verl.run import run_config\n"
        "print(sorted(registered().values()), run_config().objective.id)"
    )
    variables = {"VERL_USE_EXTERNAL_MODULES": "harness_objective", "PYTHONPATH": f"{folder}:{PACKAGE}"}
    environment = {name: value for name, value in os.environ.items() if name != "VERL_PLATFORM"}  # of other tests
    environment |= variables
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["[True, True, True] flowrl"], done.stderr[-2000:]


# --- verifiers


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    return exported("verifiers", tmp_path / "out", "--tasks", "countdown", "--split", "train", "--limit", "4")


def right_answer(problem_id: str) -> str:
    task = parse_plugin("tasks", "countdown").build()
    problems = {problem.id: problem for problem, _ in zip(task.problems("train", 0), range(4), strict=False)}
    return str(task.right_texts(problems[problem_id])[0])


def test_a_taskset_of_verifiers_is_a_package_with_our_grader(environment: Path) -> None:
    package = environment / "harness_environment"
    rows = [json.loads(line) for line in (package / "train.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    for row in rows:
        asked = (package / "tasks.json", row["harness_task"], row["problem_id"])
        assert (score(*asked, right_answer(row["problem_id"])), ungraded(*asked, "no answer")) == (1.0, 0.0)
        assert score(*asked, "no answer") == 0.0
    assert tomllib.loads((environment / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"] == [
        "harness_environment"
    ]


def test_verifiers_loads_the_taskset_and_scores_with_it(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vf = pytest.importorskip("verifiers.v1")
    import asyncio

    from verifiers.v1.utils.loaders import load_taskset

    class Trace:
        """The part of a trace that scoring uses."""

        def __init__(self, reply: str) -> None:
            self.last_reply, self.rewards, self.metrics = reply, {}, {}

        def record_reward(self, name: str, value: float, weight: float) -> None:
            self.rewards[name] = value * weight

        def record_metric(self, name: str, value: float) -> None:
            self.metrics[name] = value

    monkeypatch.syspath_prepend(str(environment))
    tasks = list(load_taskset(vf.TasksetConfig(id="harness_environment")))
    assert [task.data.idx for task in tasks] == [0, 1, 2, 3]
    for task in tasks:
        right, wrong = Trace(right_answer(task.data.problem_id)), Trace("no answer")
        for trace in (right, wrong):
            asyncio.run(task.score(trace))
        assert (right.rewards, wrong.rewards) == ({"reward": 1.0}, {"reward": 0.0})
        assert right.metrics == wrong.metrics == {"ungraded": 0.0}


# --- prime-rl


def test_the_loss_of_single_completions_is_the_objectives_token_mean() -> None:
    choice = {"id": "grpo", "kl_beta": 0.0, "reduction": "token_mean", "clip_high": 0.28}
    objective = parse_plugin("objectives", choice).build()
    batch = make_batch([2, 2, 2], [4, 1, 6], [0, 0, 0])
    generator = torch.Generator().manual_seed(0)
    mask = batch.completion_mask
    logp = (-torch.rand(mask.shape, generator=generator) * mask).requires_grad_()
    old = -torch.rand(mask.shape, generator=generator) * mask
    advantages = torch.tensor([1.0, -0.5, -0.5])
    whole = objective.loss(batch, PolicyOutputs(logp), PolicyOutputs(old), Advantages(advantages, {})).loss
    (expected,) = torch.autograd.grad(whole, logp)
    text = json.dumps(configs.to_tree(parse_plugin("objectives", choice)))
    pieces = [  # with a prompt before each, whose tokens are masked
        token_loss(
            text,
            torch.nn.functional.pad(logp[i], (3, 0)),
            torch.nn.functional.pad(old[i], (3, 0)),
            advantages[i].expand(logp.shape[1] + 3),
            torch.nn.functional.pad(mask[i], (3, 0)),
        )[0]
        for i in range(3)
    ]
    summed = torch.stack(pieces).sum() / mask.sum()
    torch.testing.assert_close(summed, whole)
    torch.testing.assert_close(torch.autograd.grad(summed, logp)[0], expected)
    nothing, metrics = token_loss(text, logp[0], old[0], logp[0].detach(), torch.zeros_like(mask[0]))
    assert (float(nothing.detach()), metrics) == (0.0, {})


def test_a_recipe_becomes_a_loss_and_an_environment_for_prime_rl(tmp_path: Path) -> None:
    folder = exported("prime-rl", tmp_path / "out", "--recipe", "countdown-grpo", "--limit", "4")
    settings = tomllib.loads((folder / "prime-rl.toml").read_text())
    assert settings["trainer"]["loss"] == {"type": "custom", "import_path": "harness_objective.loss"}
    (source,) = settings["orchestrator"]["train"]["source"]
    assert source["env"]["taskset"] == {"id": "harness_environment"}
    assert settings["orchestrator"]["batch_size"] == 16 * settings["orchestrator"]["group_size"]
    assert json.loads(module_of(folder / "harness_objective").OBJECTIVE)["id"] == "grpo"
    packages = tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert packages == ["harness_environment", "harness_objective"]


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ("countdown-flowrl", r"'flowrl' needs more \(it reads .*reference_logp"),
        ("countdown-dr_grpo", r"needs more \(its reduction is 'sequence_sum'\)"),
        ("countdown-prorl", r"needs more \(it reads .*reference_logp|nothing for"),
    ],
)
def test_what_prime_rls_loss_cant_see_is_refused(recipe: str, reason: str, tmp_path: Path, capsys: Any) -> None:
    from harness.interop.recipe_export import export_prime_rl

    with pytest.raises(ConfigError, match=reason):
        export_prime_rl(recipe, {}, {}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert main(["export", "verifiers", str(tmp_path / "out"), "--recipe", "countdown-grpo"]) == 2
    assert "only trl, verl and prime-rl" in capsys.readouterr().err
