"""trainers/minimal.py, the page that a newcomer reads first, against the loop."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.core import config as configs
from harness.core.progress import Progress
from harness.core.recipes import find_config
from harness.core.seeds import derive
from harness.core.tensors import Batch, ModelShape
from harness.models.loading import checkpoint_folders, resolve
from harness.trainers import minimal
from harness.trainers.batch import collate
from harness.trainers.config import TrainConfig
from harness.trainers.saved_rollouts import RolloutFile
from harness.trainers.train import train

EPS = 1e-3
"""Of AdamW. With its own 1e-8 the first update of a weight is the sign of its gradient, be that a rounding error."""


N_STEPS = 3
"""In the first, log Z is 0 and the policy that of the answers, so that some terms have no part in it."""


def test_step_of_the_minimal_script_equals_a_step_of_the_loop(tmp_path: Path) -> None:
    config = few_steps_of_the_recipe()
    train(config, tmp_path, Progress(quiet=True))
    in_the_loop = load_file(checkpoint_folders(tmp_path)[-1] / "model.safetensors")
    file = RolloutFile(str(tmp_path))

    policy = AutoModelForCausalLM.from_pretrained(resolve("countdown-tiny"))
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    log_z = log_z_of(config, policy.config.hidden_size)
    optimizer = minimal.make_optimizer(policy, log_z)
    for group in optimizer.param_groups:
        group["eps"] = EPS
    reference = copy.deepcopy(policy)
    for step in range(1, N_STEPS + 1):
        rollouts, _ = file.read(step)
        minimal.update(policy, reference, log_z, optimizer, rollouts_of(collate(rollouts.chosen, "cpu")))

    there, here = (
        torch.cat([(tensors[name] - before[name]).flatten() for name in in_the_loop])
        for tensors in (in_the_loop, policy.state_dict())
    )
    assert there.abs().max() > minimal.LR / 2, "the weights moved"
    distance = float((there - here).norm() / there.norm())
    assert distance < 1e-3


def few_steps_of_the_recipe() -> TrainConfig:
    changes = {
        "loop": {"steps": N_STEPS},
        "optimizer": {"warmup_steps": 0, "eps": EPS},
        "rollouts": {"save": True},
    }
    return configs.parse(TrainConfig, configs.merge(configs.read_toml(find_config("countdown-flowrl")), changes))


def log_z_of(config: TrainConfig, hidden_size: int) -> torch.nn.Module:
    """Build the page's log Z head with the weights that the run's begins with; the loop's has dropout layers of 0."""
    objective = config.objective.build()
    objective.prepare(ModelShape(hidden_size, "cpu"), derive(config.seed, "objective"))
    log_z = minimal.make_log_z(hidden_size)
    log_z.load_state_dict(dict(zip(log_z.state_dict(), objective.head.state_dict().values(), strict=True)))
    return log_z


def rollouts_of(batch: Batch) -> minimal.Rollouts:
    """Convert the loop's batch."""
    (n_prompt,) = set(batch.prompt_lengths.tolist())
    answers = torch.zeros_like(batch.completion_mask, dtype=torch.long)
    answers[batch.completion_mask] = batch.sequence_ids[:, n_prompt:][batch.completion_mask]
    return minimal.Rollouts(batch.sequence_ids[:, :n_prompt], answers, batch.completion_mask, batch.rewards)


def test_minimal_script_ends_answers_with_eos_and_grades_them(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, tokenizer, task = parts(monkeypatch)
    torch.manual_seed(1)
    problems = [problem for _, problem in zip(range(6), task.problems("train", seed=0), strict=False)]
    rollouts = minimal.roll_out(policy, tokenizer, task, problems)
    assert rollouts.rewards.shape == (24,) and 0 < float(rollouts.rewards.mean()) < 1
    for ids, inside in zip(rollouts.answers, rollouts.mask, strict=True):
        of_answer = ids[inside].tolist()
        assert len(of_answer) == minimal.MAX_TOKENS or of_answer[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in of_answer[:-1]
        assert set(ids[~inside].tolist()) <= {tokenizer.pad_token_id}


def test_minimal_script_runs_and_prints_a_line_a_step(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    parts(monkeypatch)
    minimal.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(re.fullmatch(r"step +\d  solved \d\.\d\d  distinct \d\.\d  loss \d+\.\d{3}", line) for line in lines)


def parts(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, Any]:
    """Make the run small."""
    for name, value in {"STEPS": 2, "PROMPTS_PER_STEP": 2, "GROUP_SIZE": 4}.items():
        monkeypatch.setattr(minimal, name, value)
    path, task = resolve("countdown-tiny"), configs.parse_plugin("tasks", "countdown").build()
    return AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path), task


def test_minimal_script_stays_short() -> None:
    assert len(Path(minimal.__file__).read_text(encoding="utf-8").splitlines()) < 200
