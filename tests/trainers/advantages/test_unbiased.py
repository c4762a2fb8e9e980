"""Expected gradients on a bandit small enough to list every possible group: no sampling error.

The policy is a softmax over arms, some of which are right. The estimate of a group is (1/G) sum_i A_i grad log policy
(y_i); its expectation over all groups is compared with the exact gradient that the paper claims.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from training_parts import make_batch

from harness.core.registry import load
from harness.core.tensors import Batch, PolicyOutputs

LOGITS = torch.tensor([0.3, -0.8, 1.1], dtype=torch.float64)
IS_RIGHT = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
G = 5


@functools.cache
def all_groups() -> tuple[Tensor, Batch, PolicyOutputs]:
    """Every group of G arms, (P, G), as one batch."""
    groups = torch.tensor(list(itertools.product(range(len(LOGITS)), repeat=G)))
    arms = groups.flatten()
    ones = [1] * len(arms)
    batch = make_batch(ones, ones, torch.arange(len(groups)).repeat_interleave(G).tolist())
    logp = LOGITS.log_softmax(0)[arms, None]
    return groups, dataclasses.replace(batch, rewards=IS_RIGHT[arms]), PolicyOutputs(logp=logp)


def expected_gradient(advantage_id: str, **options: Any) -> Tensor:
    """The expectation over every group, weighed by its probability."""
    plugin = load("advantages", advantage_id)
    groups, batch, old = all_groups()
    advantages = plugin(plugin.Config(**options)).compute(batch, old).view(groups.shape)  # (P, G)
    logits = LOGITS.clone().requires_grad_()
    logp = logits.log_softmax(0)[groups]  # (P, G)
    probabilities = logp.detach().sum(1).exp()
    assert float(probabilities.sum()) == pytest.approx(1.0)
    (gradient,) = torch.autograd.grad((probabilities * (advantages * logp).mean(1)).sum(), logits)
    return gradient


def exact_gradient(of: Any) -> Tensor:
    """The gradient of a function of the success rate p."""
    logits = LOGITS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(of((logits.softmax(0) * IS_RIGHT).sum()), logits)
    return gradient


def pass_at(k: int) -> Any:
    return lambda p: 1 - (1 - p) ** k


def truncated(order: int) -> Any:
    return lambda p: sum(pass_at(k)(p) / k for k in range(1, order + 1))


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("baseline", ["none", "leave_one_out"])
def test_pkpo_is_unbiased_for_pass_at_k(k: int, baseline: str) -> None:
    found = expected_gradient("pkpo", k=k, baseline=baseline)
    torch.testing.assert_close(found, exact_gradient(pass_at(k)) / k, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_pkpo_with_the_others_as_baseline_has_the_bias_of_its_docstring(k: int) -> None:
    bias = exact_gradient(lambda p: (p * (1 - p) ** (k - 2)).detach() * (k - 1) / (G - 1) * p)
    found = expected_gradient("pkpo", k=k, baseline="others")
    torch.testing.assert_close(found, exact_gradient(pass_at(k)) / k + bias, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("centred", "order"), [(False, G), (True, G - 1)])
def test_maxrl_is_unbiased_for_the_truncated_log_likelihood(centred: bool, order: int) -> None:
    found = expected_gradient("maxrl", centred=centred, eps=1e-15)
    torch.testing.assert_close(found, exact_gradient(truncated(order)), rtol=1e-10, atol=1e-13)


def test_maxrl_approaches_the_gradient_of_the_log_likelihood() -> None:
    distances = [float((exact_gradient(truncated(n)) - exact_gradient(torch.log)).norm()) for n in (1, 4, 16, 64)]
    assert distances == sorted(distances, reverse=True) and distances[-1] < 1e-6


def test_mean_and_leave_one_out_are_the_gradient_of_the_success_rate() -> None:
    exact = exact_gradient(lambda p: p)
    torch.testing.assert_close(expected_gradient("leave_one_out"), exact, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(expected_gradient("mean"), exact * (G - 1) / G, rtol=1e-10, atol=1e-13)


def test_grpo_is_not_unbiased_for_the_success_rate() -> None:
    """The standard deviation of the group belongs to the estimate; so a check that passes anything would pass it."""
    found, exact = expected_gradient("group"), exact_gradient(lambda p: p)
    ratio = float(found.norm() / exact.norm())
    assert not math.isclose(ratio, 1.0, rel_tol=0.05)
