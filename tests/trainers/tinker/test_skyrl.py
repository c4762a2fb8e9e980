"""The backend against SkyRL's server with its JAX backend, on a processor."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
import torch

pytest.importorskip("tinker")

from gradient_probe import SGD, Pair
from qwen3_models import save_qwen3
from skyrl_server import VARIABLE, SkyRLServer
from training import figures, recipe, run, weights
from training_parts import make_batch

from harness.core.errors import RunError
from harness.models.tinker_server import Server
from harness.runs.folder import RunReader
from harness.trainers.backends.tinker.reduction import measure
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


def test_a_run_goes_on_after_its_server_was_killed_as_if_it_had_not_been(model, tmp_path, monkeypatch):
    skyrl = SkyRLServer(model, tmp_path / "server")
    skyrl.start()
    backend = {"id": "tinker", "base_url": skyrl.url, "is_unclipped": True, "dead_after_s": 3.0}
    config = recipe(
        "countdown-base",
        model={"path": str(model), "weights": "pretrained"},
        backend=backend,
        lora={"rank": 4},
        optimizer={"warmup_steps": 0},
        loop={"steps": 4, "prompts_per_step": 8, "samples_per_prompt": 1, "minibatches_per_step": 1},
        checkpoint={"every_steps": 2},
        held_out={"every_steps": 4, "limit": 4, "n": 2},
    )
    try:
        run(config, tmp_path / "unbroken")
        step = Trainer._step

        def killed_at_4(self, number, learner):
            if number == 4:
                skyrl.kill()
            return step(self, number, learner)

        monkeypatch.setattr(Trainer, "_step", killed_at_4)
        started = time.monotonic()
        with pytest.raises(RunError, match=r"has not answered .* the same command"):
            run(config, tmp_path / "broken")
        assert time.monotonic() - started < 300, "the client library alone would wait for ever"
        monkeypatch.setattr(Trainer, "_step", step)
        skyrl.start()
        run(config, tmp_path / "broken")
    finally:
        skyrl.stop()
    one, other = figures(tmp_path / "unbroken"), figures(tmp_path / "broken")
    assert one == other
    assert one[0]["loss"] > one[-1]["loss"], "it learns"
    for name, value in weights(tmp_path / "unbroken").items():
        assert torch.equal(weights(tmp_path / "broken")[name], value)
    completions = [
        sorted(
            (c.problem_id, c.index, c.text) for _, c in RunReader.read(folder / "evals" / "step-000004").completions()
        )
        for folder in (tmp_path / "unbroken", tmp_path / "broken")
    ]
    assert completions[0] == completions[1]
