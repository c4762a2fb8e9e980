"""The backend against SkyRL's server with its JAX backend, on a processor."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

pytest.importorskip("tinker")

from gradient_probe import SGD, Pair
from qwen3_models import save_qwen3
from skyrl_server import VARIABLE, SkyRLServer
from training import figures, recipe, run, weights
from training_parts import make_batch

from harness.core import config as configs
from harness.core.errors import RunError
from harness.models.tinker_server import Server
from harness.runs.folder import RunReader
from harness.trainers.backends.tinker.reduction import measure
from harness.trainers.config import TrainConfig
from harness.trainers.loop import Trainer

pytestmark = [
    pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} does not name SkyRL's environment"),
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: Any) -> Any:
    return save_qwen3(tmp_path_factory.mktemp("qwen3"))


@pytest.fixture(scope="module")
def skyrl(model: Any, tmp_path_factory: Any) -> Any:
    server = SkyRLServer(model, tmp_path_factory.mktemp("skyrl"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def server(skyrl: Any) -> Any:
    connected = Server(skyrl.url, timeout_s=120, dead_after_s=20)
    yield connected
    connected.close()


@pytest.fixture(scope="module")
def pair(server: Any, model: Any, tmp_path_factory: Any) -> Any:
    both = Pair(server, model, tmp_path_factory.mktemp("adapters"), "mean_of_means", is_fused=True)
    config = recipe("countdown-grpo", optimizer={**SGD, "warmup_steps": 0}, loop={"minibatches_per_step": 1})
    both.there(config, make_batch([6, 6, 5, 5], [12, 7, 9, 3], [0, 0, 1, 1]))  # so that neither factor is zero
    yield both
    both.close()


def test_the_reduction_is_measured(server, model):
    probe = server.create(str(model), 1, seed=0)
    assert measure(server, probe, list(range(20, 33))) == "mean_of_means"
    server.unload(probe)


METHODS = {
    "FlowRL": ("countdown-flowrl", {"clip_low": 0.2}),
    "VarGrad": ("countdown-vargrad_tb", {}),
    "GRPO": ("countdown-grpo", {}),
    "MaxRL": ("countdown-maxrl", {}),
}


@pytest.mark.parametrize("method", METHODS)
def test_loss_and_gradient_are_those_of_our_own_loop(pair, method):
    name, options = METHODS[method]
    config = recipe(name, objective=options, optimizer={**SGD, "warmup_steps": 0}, loop={"minibatches_per_step": 1})
    batch = make_batch([6, 6, 6, 5, 5, 5], [12, 7, 9, 3, 11, 1], [0, 0, 0, 1, 1, 1], [1.0, 0.0, 0.0, 0.0, 1.0, 1.0])
    here, there = pair.here(config, batch), pair.there(config, batch)
    assert here.norm > 1e-3
    total = torch.cat([here.gradient[name].flatten() for name in sorted(here.gradient)])
    apart = torch.cat([(there.gradient[n] - here.gradient[n]).flatten() for n in sorted(here.gradient)])
    print(  # the row of docs/explanations/backends.md
        f"{method}: loss {here.loss:.6g}, apart by {abs(there.loss - here.loss):.1e}; gradient norm {here.norm:.6g}, "
        f"apart by {float(apart.norm() / total.norm()):.1e} of it"
    )
    assert there.loss == pytest.approx(here.loss, rel=1e-5, abs=1e-5)
    assert there.norm == pytest.approx(here.norm, rel=1e-4)
    assert float(apart.norm()) < 1e-3 * float(total.norm())
    assert len(there.log_z_gradient) == len(here.log_z_gradient)
    for one, other in zip(there.log_z_gradient, here.log_z_gradient, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@dataclass(frozen=True)
class Unbroken:
    """A run that nothing stopped, and the server that it ran on."""

    server: SkyRLServer
    config: TrainConfig
    folder: Path

    def assert_equal(self, folder: Path) -> None:
        assert figures(self.folder) == figures(folder)
        for name, value in weights(self.folder).items():
            assert torch.equal(weights(folder)[name], value)
        assert completions(self.folder) == completions(folder)


def completions(folder: Path) -> list[Any]:
    held_out = RunReader.read(folder / "evals" / "step-000004")
    return sorted((c.problem_id, c.index, c.text) for _, c in held_out.completions())


@pytest.fixture(scope="module")
def unbroken(model: Path, tmp_path_factory: Any) -> Any:
    folder = tmp_path_factory.mktemp("unbroken")
    server = SkyRLServer(model, folder / "server")
    server.start()
    config = recipe(
        "countdown-base",
        model={"path": str(model), "weights": "pretrained"},
        backend={"id": "tinker", "base_url": server.url, "is_unclipped": True, "dead_after_s": 3.0},
        lora={"rank": 4},
        optimizer={"warmup_steps": 0},
        loop={"steps": 4, "prompts_per_step": 8, "samples_per_prompt": 1, "minibatches_per_step": 1},
        checkpoint={"every_steps": 2},
        held_out={"every_steps": 4, "limit": 4, "n": 2},
    )
    try:
        run(config, folder / "run")
        losses = [row["loss"] for row in figures(folder / "run")]
        assert losses[0] > losses[-1], "it learns"
        yield Unbroken(server, config, folder / "run")
    finally:
        server.stop()


def test_a_run_goes_on_after_it_was_killed_as_if_it_had_not_been(unbroken, tmp_path):
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(configs.to_tree(unbroken.config)))
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "harness", "train", str(tmp_path / "recipe.toml"), "--out", str(folder)]
    process = subprocess.Popen([*command, "--quiet"])
    steps, deadline = folder / "steps.jsonl", time.monotonic() + 300
    while not steps.exists() or steps.read_text().count("\n") < 3:  # after the checkpoint of step 2
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert RunReader.read(folder).status != "done"
    subprocess.run(command, check=True)
    unbroken.assert_equal(folder)


def test_a_run_goes_on_after_its_server_was_killed_as_if_it_had_not_been(unbroken, tmp_path, monkeypatch):
    step = Trainer._step

    def killed_at_4(self, number, learner):
        if number == 4:
            unbroken.server.kill()
        return step(self, number, learner)

    monkeypatch.setattr(Trainer, "_step", killed_at_4)
    started = time.monotonic()
    with pytest.raises(RunError, match=r"has not answered .* the same command"):
        run(unbroken.config, tmp_path / "broken")
    assert time.monotonic() - started < 300, "the client library alone would wait for ever"
    monkeypatch.setattr(Trainer, "_step", step)
    unbroken.server.start()
    run(unbroken.config, tmp_path / "broken")
    unbroken.assert_equal(tmp_path / "broken")
