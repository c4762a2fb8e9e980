"""Sampling and training apart: saved rollouts train like live ones, to the bit, and only where they belong."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from training import assert_same_run, figures, recipe, run, weights
from transformers import AutoModelForCausalLM

from harness.__main__ import main
from harness.core.errors import ConfigError, RunError, RunFolderError
from harness.core.progress import Progress
from harness.core.types import Sampling
from harness.models.loading import checkpoint_folders
from harness.runs.folder import RunReader
from harness.trainers.saved_rollouts import refuse_other_rollouts, weights_digest
from harness.trainers.train import train

ONE = {"steps": 1}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of the base model's rollouts."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    return run(recipe("countdown-grpo", loop={"steps": 2}, rollouts={"only": True}), folder).folder


def on(folder: Path, name: str = "countdown-grpo", **changes: Any) -> Any:
    return recipe(name, rollouts={"source": str(folder)}, **changes)


def without_mode(folder: Path) -> list[dict[str, float]]:
    """Return the metrics that a live run and a replayed one have in common."""
    alone = {"on_policy", "weights_version"}
    return [{key: value for key, value in row.items() if key not in alone} for row in figures(folder)]


def assert_same_weights(one: Path, other: Path) -> None:
    assert all(torch.equal(weights(one)[name], weights(other)[name]) for name in weights(one))


def test_one_step_on_saved_rollouts_equals_the_sampled_step_to_the_bit(saved: Path, tmp_path: Path) -> None:
    run(recipe("countdown-grpo", loop=ONE), tmp_path / "live")
    run(on(saved, loop=ONE), tmp_path / "replayed")
    assert without_mode(tmp_path / "replayed") == without_mode(tmp_path / "live")
    assert_same_weights(tmp_path / "replayed", tmp_path / "live")
    base = torch.load(checkpoint_folders(tmp_path / "live")[-1] / "training_state.pt", weights_only=True)
    assert base["optimizer"]["state"], "something was trained"


def test_run_is_repeated_from_its_saved_rollouts_to_the_bit(tmp_path: Path) -> None:
    run(recipe("countdown-flowrl", loop={"steps": 1}, rollouts={"save": True}), tmp_path / "live")
    run(recipe("countdown-flowrl", loop={"steps": 3}, rollouts={"save": True}), tmp_path / "live")
    run(on(tmp_path / "live", "countdown-flowrl", loop={"steps": 3}), tmp_path / "again")
    assert without_mode(tmp_path / "again") == without_mode(tmp_path / "live")
    assert_same_weights(tmp_path / "again", tmp_path / "live")
    assert [row["on_policy"] for row in figures(tmp_path / "again")] == [1, 1, 1]


def test_two_losses_learn_from_the_same_rollouts_each_the_same_every_time(saved: Path, tmp_path: Path) -> None:
    for name in ("grpo", "flowrl", "grpo"):
        folder = tmp_path / (name if not (tmp_path / name).exists() else name + "-again")
        run(on(saved, f"countdown-{name}", loop={"steps": 2}), folder)
    assert_same_run(tmp_path / "grpo", tmp_path / "grpo-again")
    shared = ("reward", "solve_rate", "mean_tokens", "n_tokens", "entropy", "groups_with_signal")
    rows = [[{key: row[key] for key in shared} for row in figures(tmp_path / name)] for name in ("grpo", "flowrl")]
    assert rows[0] == rows[1] == [{key: row[key] for key in shared} for row in figures(saved)]
    assert not torch.equal(*(next(iter(weights(tmp_path / name).values())) for name in ("grpo", "flowrl")))


def test_saved_rollout_run_resumed_after_one_step_equals_two_steps(saved: Path, tmp_path: Path) -> None:
    run(on(saved, loop={"steps": 2}), tmp_path / "unbroken")
    run(on(saved, loop={"steps": 1}), tmp_path / "broken")
    run(on(saved, loop={"steps": 2}), tmp_path / "broken")
    assert_same_run(tmp_path / "unbroken", tmp_path / "broken")


def test_ratios_are_taken_to_the_stored_log_probabilities(saved: Path, tmp_path: Path, capsys: Any) -> None:
    """The mean weight of step 2, from the checkpoint before it and the tokens in the file."""
    loop = {"steps": 2, "minibatches_per_step": 1}
    weight = {"id": "flowrl_ablation", "importance_weight": "unclipped"}
    changes = {"objective": weight, "checkpoint": {"keep": 9}, "optimizer": {"lr": 2e-3, "warmup_steps": 0}}
    train(on(saved, "countdown-flowrl", loop=loop, **changes), tmp_path / "run", Progress(quiet=True))
    assert "step 2: the policy has moved" in capsys.readouterr().err
    rows = figures(tmp_path / "run")
    assert [row["on_policy"] for row in rows] == [1, 0]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoints" / "step-000001")
    lines = [json.loads(line) for line in (saved / "rollouts.jsonl").read_text().splitlines()]
    second = [
        row["completion"]["tokens"] for row in lines[lines.index(next(r for r in lines if r.get("begin") == 2)) :][1:-1]
    ]
    ratios = [float((logp_of(model, some) - torch.tensor(some["logp_behaviour"])).sum().exp()) for some in second]
    assert max(ratios) > 1.05
    assert rows[1]["importance_weight"] == pytest.approx(sum(ratios) / len(ratios), rel=1e-3)


@torch.no_grad()
def logp_of(model: Any, tokens: dict[str, Any]) -> torch.Tensor:
    n, ids = tokens["n_prompt"], torch.tensor([*tokens["prompt_ids"], *tokens["completion_ids"]])
    logp = model(ids[None]).logits[0].log_softmax(-1)
    return logp[n - 1 : -1].gather(1, ids[n:, None])[:, 0]


def test_saved_rollouts_cut_within_a_step_are_completed(saved: Path, tmp_path: Path) -> None:
    config = recipe("countdown-grpo", loop={"steps": 1}, rollouts={"only": True})
    whole = run(config, tmp_path / "run").folder / "rollouts.jsonl"
    lines = (saved / "rollouts.jsonl").read_bytes().splitlines(keepends=True)
    assert whole.read_bytes().splitlines(keepends=True) == lines[:19], "head, begin, 16 completions, end"
    whole.write_bytes(b"".join(lines[:25]) + lines[25][:40])  # as a kill leaves it
    run(recipe("countdown-grpo", loop={"steps": 2}, rollouts={"only": True}), tmp_path / "run")
    assert [row["step"] for row in figures(tmp_path / "run")] == [1, 2]
    for folder in (saved, tmp_path / "run"):
        run(on(folder, loop={"steps": 2}), tmp_path / f"trained-{folder.parent.name}")
    assert_same_run(*(tmp_path / f"trained-{folder.parent.name}" for folder in (saved, tmp_path / "run")))


@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        ("countdown-grpo", {"model": {"weights": "random"}}, "weights: .* there"),
        ("countdown-grpo", {"task": {"min_solutions": 3}}, "task.min_solutions: . there, 3 now"),
        ("countdown-grpo", {"sampling": {"temperature": 0.7}}, "sampling.temperature: 1.0 there, 0.7 now"),
        ("countdown-grpo", {"loop": {"prompts_per_step": 8}}, "loop.prompts_per_step: 4 there, 8 now"),
        ("countdown-grpo", {"loop": {"steps": 3}}, "holds 2 steps, fewer than loop.steps = 3"),
        ("countdown-remax", {}, "greedy completion of each prompt"),
        (
            "countdown-rloo",
            {"objective": {"surrogate": "score"}, "loop": {"minibatches_per_step": 1}},
            "takes no ratio",
        ),
        ("countdown-base", {}, "learns from demonstrations"),
    ],
)
def test_rollouts_that_do_not_belong_to_the_config_are_refused(
    name: str, changes: Any, complaint: str, saved: Path, tmp_path: Path
) -> None:
    changes = {**changes, "loop": {"steps": 2, **changes.get("loop", {})}}
    with pytest.raises(ConfigError, match=complaint):
        run(on(saved, name, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_score_without_a_ratio_stops_where_saved_rollouts_leave_the_policy(tmp_path: Path) -> None:
    changes: Any = {"objective": {"surrogate": "score"}, "loop": {"steps": 2, "minibatches_per_step": 1}}
    run(recipe("countdown-rloo", rollouts={"save": True}, **changes), tmp_path / "live")
    run(on(tmp_path / "live", "countdown-rloo", **changes), tmp_path / "same")
    assert_same_weights(tmp_path / "live", tmp_path / "same")
    with pytest.raises(RunError, match="step 2: the policy has moved"):
        run(on(tmp_path / "live", "countdown-rloo", **{**changes, "optimizer": {"lr": 1e-3}}), tmp_path / "other")


def test_missing_saved_rollouts_are_one_line_on_the_command_line(tmp_path: Path, capsys: Any) -> None:
    assert main(["train", "countdown-grpo", "--from-rollouts", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    assert "harness train --rollouts-only writes them" in capsys.readouterr().err
    words = ["train", "countdown-grpo", "--rollouts-only", "--out", str(tmp_path / "run"), "--quiet", "--json"]
    assert main([*words, "--set", "loop.steps=1", "--set", "loop.prompts_per_step=2"]) == 0
    assert json.loads(capsys.readouterr().out)["last_step"]["step"] == 1
    assert RunReader.read(tmp_path / "run").record.kind == "rollouts"
    (tmp_path / "run" / "rollouts.jsonl").write_text("hello\n")
    with pytest.raises(RunFolderError, match="holds no rollouts"):
        run(on(tmp_path / "run", loop=ONE), tmp_path / "other")


@pytest.mark.parametrize("top_k", [0, 5])
def test_a_file_from_before_a_sampling_option_existed_was_sampled_with_its_default(top_k: int) -> None:
    sampling = {"max_tokens": 8, "temperature": 1.0, "top_p": 1.0, "stop": []}
    file: Any = SimpleNamespace(path="rollouts.jsonl", facts={"must_agree": {"sampling": sampling}})
    facts = {"must_agree": {"sampling": sampling | asdict(Sampling(8, top_k=top_k)) | {"stop": []}}}
    with pytest.raises(ConfigError, match=r"sampling\.top_k: 0 there, 5 now") if top_k else nullcontext():
        refuse_other_rollouts(file, facts, is_begun=False)


def test_any_changed_bit_of_the_weights_changes_their_digest() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4)).to(torch.bfloat16)
    seen = {weights_digest(module.state_dict().items())}
    for parameter in module.parameters():
        bits = parameter.data.view(torch.int16).flatten()
        for place in range(len(bits)):
            bits[place] ^= 1
            seen.add(weights_digest(module.state_dict().items()))
            bits[place] ^= 1
    assert len(seen) == 1 + sum(p.numel() for p in module.parameters())
    swapped = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4)).to(torch.bfloat16)
    swapped.load_state_dict(module.state_dict())
    assert weights_digest(swapped.state_dict().items()) == weights_digest(module.state_dict().items())
    swapped[0].weight.data = swapped[0].weight.data.flip(0)
    assert weights_digest(swapped.state_dict().items()) != weights_digest(module.state_dict().items())
