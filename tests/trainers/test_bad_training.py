"""Bad input in training: one line that says what to change, and a run folder that can be resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from training import assert_same_run, figures, recipe, run

from harness.cli import main
from harness.core.errors import ConfigError, ModelError, RunError, RunFolderError
from harness.engines.hf import HuggingFaceEngine
from harness.models.loading import checkpoint_folders, resolve
from harness.runs.folder import RunReader, RunWriter
from harness.trainers import learner
from harness.trainers.checks import check_demonstrations
from harness.trainers.policy.model import Policy

MEMORY = 2**50


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return shutil.copytree(resolve("countdown-tiny"), tmp_path / "model")


@pytest.mark.parametrize("only", [False, True])
def test_training_without_a_chat_template_is_refused_and_starts_once_there_is_one(
    model: Path, tmp_path: Path, only: bool
) -> None:
    template = (model / "chat_template.jinja").rename(tmp_path / "template")
    config = recipe("countdown-grpo", model={"path": str(model)}, loop={"steps": 1}, rollouts={"only": only})
    with pytest.raises(ModelError, match=r"no chat template.*set `chat_template` in its tokenizer_config"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists(), "it would hold the model as it was, and refuse it once it is mended"
    template.rename(model / "chat_template.jinja")
    assert run(config, tmp_path / "run").record.status == "done"


def test_missing_pad_token_does_not_change_training(model: Path, tmp_path: Path) -> None:
    for name in ("tokenizer_config.json", "config.json", "generation_config.json"):
        tree = json.loads((model / name).read_text())
        kept = {key: value for key, value in tree.items() if key not in ("pad_token", "pad_token_id")}
        assert kept != tree
        (model / name).write_text(json.dumps(kept))
    changes = {"loop": {"steps": 2}}
    with_one = run(recipe("countdown-grpo", **changes), tmp_path / "with")
    without = run(recipe("countdown-grpo", model={"path": str(model)}, **changes), tmp_path / "without")
    assert figures(without.folder) == figures(with_one.folder)


@pytest.mark.parametrize("only", [False, True])
def test_a_tokenizer_of_another_model_is_refused(model: Path, tmp_path: Path, only: bool) -> None:
    path = model / "tokenizer.json"
    tree = json.loads(path.read_text())
    for word, number in tree["model"]["vocab"].items():
        tree["model"]["vocab"][word] = number + (200 if number > 2 else 0)  # of the first three are padding and end
    tree["added_tokens"] = [token for token in tree["added_tokens"] if token["special"]]
    path.write_text(json.dumps(tree))
    config = recipe("countdown-grpo", model={"path": str(model)}, rollouts={"only": only})
    with pytest.raises(ModelError, match=r"the model has 110 tokens: it belongs to another model"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("only", [False, True])
def test_completions_that_would_not_fit_the_model_leave_no_folder(tmp_path: Path, only: bool) -> None:
    changes: dict[str, Any] = {"rollouts": {"only": only}, "loop": {"steps": 1}}
    with pytest.raises(ModelError, match=r"context of 64; set sampling.max_tokens to at most 55"):
        run(recipe("countdown-grpo", sampling={"max_tokens": 56}, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert run(recipe("countdown-grpo", sampling={"max_tokens": 55}, **changes), tmp_path / "run").steps()
    # what is demonstrated is not sampled
    run(recipe("countdown-base", sampling={"max_tokens": 56}, loop={"steps": 1}), tmp_path / "demonstrated")


def test_out_of_memory_error_names_the_settings_to_lower_and_the_run_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, calls = Policy.forward, []

    def too_much(self: Policy, *arguments: Any) -> Any:
        calls.append(torch.empty(MEMORY) if len(calls) == 6 else None)  # after the first step
        return forward(self, *arguments)

    config = recipe("countdown-grpo", loop={"steps": 4, "logp_old": "engine"})
    with monkeypatch.context() as patched:
        patched.setattr(Policy, "forward", too_much)
        with pytest.raises(RunError, match=r"out of memory. Lower loop.tokens_per_microbatch .* the same command"):
            run(config, tmp_path / "broken")
    assert RunReader.read(tmp_path / "broken").record.status == "failed"
    done = RunReader.read(tmp_path / "broken").steps()
    assert 0 < len(done) < 4
    assert checkpoint_folders(tmp_path / "broken")[-1].name == f"step-{done[-1]['step']:06d}"
    run(config, tmp_path / "unbroken")
    run(config, tmp_path / "broken")
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")


def test_other_torch_errors_are_not_reported_as_out_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Policy, "forward", lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        run(recipe("countdown-grpo", loop={"steps": 1, "logp_old": "recompute"}), tmp_path / "run")


def test_loss_that_is_not_a_number_stops_the_run_without_that_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    clip, calls = learner.clip_gradients, []

    def no_number_in_the_second_step(*arguments: Any) -> dict[str, float]:
        calls.append(clip(*arguments))
        return {"grad_norm": float("nan")} if len(calls) == 3 else calls[-1]

    monkeypatch.setattr(learner, "clip_gradients", no_number_in_the_second_step)
    words = ["train", "countdown-grpo", "--quiet", "--out", str(tmp_path / "run")]
    words += [f"--set=loop.{key}={value}" for key, value in {"steps": 3, "prompts_per_step": 4}.items()]
    assert main(words) == 1
    assert "run the same command again with --set optimizer.on_non_finite=skip" in capsys.readouterr().err
    assert [row["step"] for row in RunReader.read(tmp_path / "run").steps()] == [1]
    calls[:] = calls[:2]
    assert main([*words, "--set=optimizer.on_non_finite=skip"]) == 0
    rows = RunReader.read(tmp_path / "run").steps()
    assert [row["updates_skipped"] for row in rows] == [0, 0.5, 0]


@pytest.mark.parametrize("only", [False, True])
def test_the_engine_is_closed_when_the_run_folder_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only: bool
) -> None:
    opened, closed = [], []
    open_engine = HuggingFaceEngine.open

    def opening(self: Any, source: Any) -> None:
        opened.append(self)
        open_engine(self, source)

    def taken(*_: Any, **__: Any) -> Any:
        raise RunFolderError("another process was quicker")

    monkeypatch.setattr(HuggingFaceEngine, "open", opening)
    monkeypatch.setattr(HuggingFaceEngine, "close", lambda self: closed.append(self))
    monkeypatch.setattr(RunWriter, "open", taken)
    with pytest.raises(RunFolderError, match="another process was quicker"):
        run(recipe("countdown-grpo", loop={"steps": 1}, rollouts={"only": only}), tmp_path / "run")
    assert len(opened) == 1
    assert closed == opened


def test_an_engine_that_samples_nothing_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opening(*_: Any) -> None:
        raise AssertionError("nothing is sampled")

    monkeypatch.setattr(HuggingFaceEngine, "open", opening)
    run(recipe("countdown-base", loop={"steps": 1}), tmp_path / "run")
    with pytest.raises(AssertionError, match="nothing is sampled"):
        run(recipe("countdown-base", loop={"steps": 1}, held_out={"every_steps": 1}), tmp_path / "held out")


def test_a_task_without_demonstrations_is_refused() -> None:
    task: Any = SimpleNamespace(problems=None, has_demonstrations=False)
    check_demonstrations(task, recipe("countdown-grpo").objective.build())
    with pytest.raises(ConfigError, match="this task has none"):
        check_demonstrations(task, recipe("countdown-base").objective.build())
