"""Helpers of the tests that train: small recipes, runs, their metrics and weights, a learner made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from harness.core import config as configs
from harness.core.progress import Progress
from harness.core.recipes import find_config
from harness.models.loading import checkpoint_folders
from harness.runs.folder import RunReader
from harness.trainers.config import KlConfig, ReferenceConfig, TrainConfig
from harness.trainers.kl import AdaptiveKl
from harness.trainers.learner import Learner
from harness.trainers.policy.model import Policy
from harness.trainers.reference import ReferenceReset
from harness.trainers.train import train

SMALL = {"steps": 4, "prompts_per_step": 4, "samples_per_prompt": 4, "minibatches_per_step": 2}


def recipe(name: str, **changes: Any) -> TrainConfig:
    tree = configs.merge(configs.read_toml(find_config(name)), {"loop": SMALL}, changes)
    return configs.parse(TrainConfig, tree)


def run(config: TrainConfig, folder: Path) -> RunReader:
    return train(config, folder, Progress(quiet=True))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint_folders(folder)[-1] / "model.safetensors")


def figures(folder: Path) -> list[dict[str, float]]:
    """Step records without the clock."""
    return [{k: v for k, v in row.items() if not k.endswith("_s")} for row in RunReader.read(folder).steps()]


def assert_same_run(one: Path, other: Path) -> None:
    assert figures(one) == figures(other)
    assert weights(one).keys() == weights(other).keys()
    assert all(torch.equal(weights(one)[name], weights(other)[name]) for name in weights(one))
    # optimiser, the objective's own parameters, data position, what is steered; and a reference that was reset
    torch.testing.assert_close(training_state(one), training_state(other), rtol=0, atol=0)


def training_state(folder: Path) -> dict[str, Any]:
    files = sorted(checkpoint_folders(folder)[-1].glob("*.pt"))
    return {file.stem: torch.load(file, weights_only=True) for file in files}


def make_learner(
    config: Any,
    objective: Any,
    policy: Policy,
    reference: Any = None,
    optimizer: Any = None,
    largest: float = 1e-4,
    *,
    is_exact: bool = True,
    resets: ReferenceConfig = ReferenceConfig(),  # noqa: B008  # frozen
) -> Learner:
    return Learner(
        config=config,
        objective=objective,
        policy=policy,
        reference=reference,
        optimizer=optimizer,
        max_tokens=8,
        engine_logp_is_exact=is_exact,
        largest_mismatch=largest,
        kl=AdaptiveKl(KlConfig()),
        resets=ReferenceReset(resets),
    )


def assert_same_evaluation(one: Path, other: Path) -> None:
    views = RunReader.read(one), RunReader.read(other)
    assert views[0].estimates() == views[1].estimates()
    texts = [sorted((task, c.problem_id, c.index, c.text) for task, c in view.completions()) for view in views]
    assert texts[0] == texts[1], "each completion once, with the same text"
