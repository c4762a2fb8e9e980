"""The scale of gradients under every reduction, and how it is measured."""

from __future__ import annotations

import pytest
import torch
from gradient_probe import SGD, Pair
from training import recipe
from training_parts import make_batch

from harness.core.errors import ConfigError
from harness.models.loading import resolve
from harness.models.tinker_server import Server
from harness.trainers.backends.tinker.policy import BagOfTokens
from harness.trainers.backends.tinker.reduction import factors, measure
from harness.trainers.backends.tinker.requests import from_batch, sequences_of, to_batch


def connected(fake):
    return Server(fake.url, timeout_s=120, dead_after_s=60)


@pytest.mark.parametrize("reduction", ["sum", "mean_of_means", "token_mean"])
def test_the_gradient_is_that_of_our_own_loop_under_every_reduction(reduction, make_fake, tmp_path):
    server = connected(make_fake(reduction=reduction))
    probe = server.create("countdown-tiny", 1, seed=0)
    assert measure(server, probe, list(range(20, 33))) == reduction
    pair = Pair(server, resolve("countdown-tiny"), tmp_path, reduction)
    settings = {"optimizer": {**SGD, "warmup_steps": 0}, "loop": {"minibatches_per_step": 1}}
    batch = make_batch([6, 6, 5, 5], [12, 7, 9, 1], [0, 0, 1, 1])
    pair.there(recipe("countdown-grpo", **settings), batch)  # so that neither factor of the adapters is zero
    for name in ("countdown-grpo", "countdown-vargrad_tb"):
        config = recipe(name, **settings)
        here, there = pair.here(config, batch), pair.there(config, batch)
        assert there.loss == pytest.approx(here.loss, rel=1e-5, abs=1e-5)
        assert there.norm == pytest.approx(here.norm, rel=1e-4)
        whole = torch.cat([value.flatten() for value in here.gradient.values()])
        apart = torch.cat([(there.gradient[n] - value).flatten() for n, value in here.gradient.items()])
        assert float(apart.norm()) < 1e-3 * float(whole.norm())


def test_an_unknown_scale_is_refused(make_fake):
    server = connected(make_fake(reduction="mean over tokens, sum over sequences"))
    with pytest.raises(ConfigError, match="scales gradients in an unknown way"):
        measure(server, server.create("countdown-tiny", 1, seed=0), list(range(20, 33)))


def test_a_server_without_a_norm_is_not_measured(make_fake):
    server = connected(make_fake(gives_norm=False))
    assert measure(server, server.create("countdown-tiny", 1, seed=0), list(range(20, 33))) is None


def test_factors_undo_the_reduction():
    assert factors("sum", [3, 5]) == [1.0, 1.0]
    assert factors("mean_of_means", [3, 5]) == [6.0, 10.0]
    assert factors("token_mean", [3, 5]) == [8.0, 8.0]


def test_values_find_their_places_in_a_batch():
    batch = make_batch([4, 2], [3, 1], [0, 1])
    sequences = sequences_of(batch)
    assert [len(tokens) for tokens in sequences] == [7, 3]
    per_target = [torch.arange(1.0, 7.0), torch.arange(1.0, 3.0)]
    placed = to_batch(per_target, batch)
    assert placed.tolist() == [[4, 5, 6], [2, 0, 0]], (
        "the first token of a completion is predicted by the prompt's last"
    )
    assert [row.tolist() for row in from_batch(placed, batch)] == [[0, 0, 0, 4, 5, 6], [0, 2]]


def test_features_of_a_prompt_are_those_of_its_bag_of_tokens():
    batch = make_batch([4, 4, 3], [2, 2, 2], [0, 1, 2])
    batch.sequence_ids[1, :4] = batch.sequence_ids[0, :4].flip(0)
    one, other, third = BagOfTokens(1).features(batch)
    assert torch.allclose(one, other, atol=1e-6), "the order does not count"
    assert not torch.allclose(one, third, atol=1e-2)
    assert torch.equal(BagOfTokens(1).features(batch), BagOfTokens(1).features(batch))
    assert not torch.allclose(BagOfTokens(1).features(batch), BagOfTokens(2).features(batch), atol=1e-2)
