"""Two steps of a run in verl on a processor, then a third after a restart; only the sampling is made up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("verl")

import verl_run
from training import recipe

from harness.models.loading import load_tokenizer
from harness.trainers.backends.verl.convert import ShardedPolicy
from harness.trainers.backends.verl.data import PROMPTS, write_prompts
from harness.trainers.backends.verl.follow import MetricsFile
from harness.trainers.backends.verl.settings import environment, overrides, settings_of
from harness.trainers.setup import build_setup


def run(folder: Path, steps: int, log: str) -> tuple[Any, list[dict[str, float]]]:
    loop = {"steps": steps, "prompts_per_step": 4, "samples_per_prompt": 4, "minibatches_per_step": 2}
    backend = {"id": "verl", "gpus_per_node": 2, "attention": "sdpa"}
    config = recipe("countdown-flowrl", backend=backend, loop=loop, checkpoint={"every_steps": 1})
    setup = build_setup(config, folder)
    write_prompts(config, setup.task, load_tokenizer(setup.base), folder / PROMPTS, 512)
    variables = environment(setup)
    support, package = str(Path(verl_run.__file__).parent), str(Path(sys.modules["harness"].__file__).parents[1])
    variables |= {
        "VERL_USE_EXTERNAL_MODULES": f"verl_run,{variables['VERL_USE_EXTERNAL_MODULES']}",
        "VERL_FILE_LOGGER_PATH": str(folder / log),
        "VERL_PLATFORM": "cpu",
        "HARNESS_TEST_VERL_CPU": "1",
        "PYTHONPATH": f"{support}:{package}",
        "OMP_NUM_THREADS": "1",
        "RAY_worker_register_timeout_seconds": "400",
    }
    job = {"settings": overrides(settings_of(setup, setup.backend.config, folder)), "environment": variables}
    (folder / "job.json").write_text(json.dumps(job))
    command = [sys.executable, verl_run.__file__, str(folder / "job.json")]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return setup, list(MetricsFile(folder / log).new_rows())


@pytest.mark.slow
def test_verl_trains_checkpoints_and_resumes_with_our_objective(tmp_path: Path) -> None:
    setup, (first, second) = run(tmp_path, 2, "one.jsonl")
    assert (first["step"], second["step"]) == (1, 2)
    assert first["n_completions"] == 16
    assert first["n_ungraded"] == 0
    assert 0 <= first["reward"] <= 1
    # Before the first update: the sampler, the policy and the reference are one model.
    assert first["logp_gap_max"] < 1e-4
    assert abs(first["kl_to_reference"]) < 1e-6
    assert second["logp_gap"] > 10 * first["logp_gap"]  # the made-up sampler keeps the old weights
    assert first["log_z"] == pytest.approx(0, abs=0.05)
    assert min(first["grad_norm"], first["grad_norm_own"]) > 0
    assert first["updates_skipped"] == 0
    assert first["effective_temperature"] == pytest.approx(1 / (0.6 * first["mean_tokens"]), rel=0.05)
    assert second["lr"] == pytest.approx(setup.config.optimizer.lr * 2 / 6)
    checkpoints = tmp_path / "checkpoints"
    assert (checkpoints / "latest_checkpointed_iteration.txt").read_text() == "2"
    one, two = (
        ShardedPolicy(setup.base, checkpoints / f"global_step_{step}" / "actor").objective_state() for step in (1, 2)
    )
    assert any(not torch.equal(one[name], two[name]) for name in one)
    _, rows = run(tmp_path, 3, "two.jsonl")
    assert [row["step"] for row in rows] == [3]  # and not from the beginning
    assert rows[0]["kl_to_reference"] != first["kl_to_reference"]
