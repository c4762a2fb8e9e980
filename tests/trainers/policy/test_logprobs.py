"""Log-probs and entropy from hidden states, in chunks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import CONFIGS
from torch.utils._python_dispatch import TorchDispatchMode
from training_parts import make_batch, tiny_module
from transformers import AutoModelForCausalLM as Models

from harness.trainers.config import (
    Precision,
)
from harness.trainers.policy import model
from harness.trainers.policy.model import Head, Policy, chunk_rows, head_of, token_logp


class LargestTensor(TorchDispatchMode):
    """Remembers the largest tensor with the vocabulary as its last axis that any operation makes."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.rows = vocabulary, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs if kwargs is not None else {}))
        if func is torch.ops.aten.t.default:  # the transposed weight, a view
            return result
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.dim() > 0 and tensor.shape[-1] == self.vocabulary:
                self.rows = max(self.rows, tensor.numel() // self.vocabulary)
        return result


@pytest.mark.parametrize("n_rows", [1, 5, 2**15])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_chunked_logp_and_gradients_equal_the_plain_ones(
    monkeypatch: pytest.MonkeyPatch, n_rows: int, softcap: float | None
) -> None:
    monkeypatch.setattr(model, "chunk_rows", lambda *_: n_rows)
    torch.manual_seed(0)
    hidden = torch.randn(17, 8, requires_grad=True)
    weight, bias = torch.randn(110, 8, requires_grad=True), torch.randn(110, requires_grad=True)
    ids, upstream = torch.randint(0, 110, (17,)), torch.randn(17)
    logp, entropy = token_logp(Head(weight, bias, 0.7, softcap, 1.3), hidden, ids, with_entropy=True)
    ours = torch.autograd.grad(logp, (hidden, weight, bias), upstream)
    logits = (hidden @ weight.T + bias).double() * 1.3
    logits = (torch.tanh(logits / softcap) * softcap if softcap is not None else logits) / 0.7
    plain = torch.log_softmax(logits, -1)
    assert entropy is not None
    torch.testing.assert_close(entropy.double(), -(plain.exp() * plain).sum(-1), rtol=1e-5, atol=1e-5)
    picked = plain.gather(-1, ids[:, None])[:, 0]
    torch.testing.assert_close(logp.double(), picked, rtol=1e-5, atol=1e-5)
    theirs = torch.autograd.grad(picked, (hidden, weight, bias), upstream.double())
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("reads_entropy", [False, True])
def test_no_tensor_of_all_logits_is_created(
    precision: Precision, reads_entropy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "chunk_rows", lambda *_: 4)
    policy = Policy(tiny_module(), 1.0, precision=precision)
    batch = make_batch([4] * 4, [9, 8, 7, 6], [0, 0, 1, 1])
    with LargestTensor(110) as largest:
        outputs = policy.forward(batch, frozenset({"entropy"} if reads_entropy else set()))
        loss = outputs.logp.sum() + (outputs.entropy.sum() if outputs.entropy is not None else 0)
    with LargestTensor(110) as largest_backward:
        loss.backward()
    assert 0 < largest.rows <= 4, "30 completion tokens are scored, at most 4 at once"
    assert 0 < largest_backward.rows <= 4


@pytest.mark.parametrize(
    ("vocabulary", "hidden", "device", "n_rows"),
    [
        (512, 256, "cpu", 8192),  # 16 MiB
        (151_936, 896, "cpu", 112),  # an eighth of the layer, 65 MiB, where 16 MiB are 27 rows
        (151_936, 64, "cpu", 27),
        (151_936, 896, "cuda", 441),  # 256 MiB
        (151_936, 5120, "cuda", 640),
        (2**30, 4, "cpu", 1),
    ],
)
def test_a_chunk_is_sized_by_bytes_and_device(vocabulary: int, hidden: int, device: str, n_rows: int) -> None:
    assert chunk_rows(vocabulary, hidden, device) == n_rows


def test_head_reads_the_scale_its_config_declares() -> None:
    assert head_of(Models.from_config(CONFIGS["granite"]), 1.0).scale == pytest.approx(1 / 5.0)
    assert head_of(Models.from_config(CONFIGS["cohere2"]), 1.0).scale == pytest.approx(0.25)


@pytest.mark.parametrize("n_rows", [2, 1000])
def test_entropy_and_its_gradient(n_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, 4, generator=generator, requires_grad=True)
    weight = torch.randn(7, 4, generator=generator, requires_grad=True)
    ids, upstream = torch.tensor([0, 6, 2, 2, 5]), torch.linspace(-1, 1, 5)
    monkeypatch.setattr(model, "chunk_rows", lambda *_: n_rows)
    logp, entropy = token_logp(Head(weight, None, 0.7, softcap=2.0), hidden, ids, with_entropy=True)
    assert entropy is not None
    plain = torch.log_softmax(torch.tanh(hidden @ weight.T / 2) * 2 / 0.7, -1)
    expected = -(plain.exp() * plain).sum(-1)
    torch.testing.assert_close(entropy, expected)
    one = torch.autograd.grad((entropy * upstream + logp).sum(), (hidden, weight))
    other = torch.autograd.grad((expected * upstream + plain[torch.arange(5), ids]).sum(), (hidden, weight))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
