"""The backend against SkyRL's server with its JAX backend, on a processor."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

pytest.importorskip("tinker")

from gradient_probe import SGD, Pair
from qwen3_models import save_qwen3
from skyrl_server import VARIABLE, SkyRLServer
from training import recipe
from training_parts import make_batch

from harness.models.tinker_server import Server
from harness.trainers.backends.tinker.reduction import measure

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
