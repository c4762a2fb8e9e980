"""torch.compile for the training forward: the same numbers, few compilations, a clear word where it can't be."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from training_parts import make_batch
from transformers import AutoModelForCausalLM, LlamaConfig

from harness.core.tensors import Batch
from harness.trainers.policy.model import Policy

needs_compiler = pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="needs a C++ compiler")

# Shapes of five steps: rows, lengths and shared prompts differ, and one has a single row.
BATCHES = [
    make_batch([5, 5, 5, 5], [9, 7, 8, 3], [0, 0, 1, 1]),
    make_batch([3, 8, 6], [4, 2, 11], [0, 1, 2]),
    make_batch([7], [5], [0]),
    make_batch([4] * 7, [6, 1, 2, 3, 4, 5, 6], [0] * 7),
    make_batch([1], [1], [0]),
]


def module() -> Any:
    torch.manual_seed(0)
    shape = LlamaConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, vocab_size=110
    )
    return AutoModelForCausalLM.from_config(shape).eval()


def logp_and_gradients(policy: Policy, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    policy.module.zero_grad()
    logp = policy.forward(batch, frozenset()).logp
    logp.mul(torch.linspace(-1, 1, logp.numel()).view_as(logp)).sum().backward()
    return logp.detach(), {name: p.grad.clone() for name, p in policy.module.named_parameters()}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of itself
@pytest.mark.parametrize(
    "backend",
    [
        "eager",  # traces as the other does, and compiles nothing
        pytest.param("inductor", marks=[needs_compiler, pytest.mark.slow]),
    ],
)
def test_compiled_layers_give_the_same_values_and_compile_once_for_all_shapes(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    torch._dynamo.reset()
    counters.clear()
    plain, compiled = Policy(module(), 0.7), Policy(module(), 0.7, is_compiled=True)
    made = []
    for batch in BATCHES:
        expected, found = logp_and_gradients(plain, batch), logp_and_gradients(compiled, batch)
        # float32 in another order of adding
        torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-5)
        for name, gradient in expected[1].items():
            torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(compiled.forward(batch, frozenset()).logp, expected[0], rtol=1e-5, atol=1e-5)
        made.append(counters["stats"]["unique_graphs"])
    assert made[0] > 0
    assert made[-1] == made[0], "one for the passes with gradient and one for those without, whatever the shape"


def test_a_missing_compiler_is_reported_before_the_run(tmp_path: Path) -> None:
    code = (
        "import torch; from harness.models.loading import check_compiler; "
        "check_compiler(torch.device('cpu'), 'loop.compile')"
    )
    # An empty cache, for what was compiled before needs no compiler.
    environment = {**os.environ, "CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert "ConfigError: loop.compile needs torch.compile, which does not work here" in done.stderr
    assert "g++" in done.stderr.splitlines()[-1]
