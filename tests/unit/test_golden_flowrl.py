"""FlowRL's variants against the two published implementations; tests/golden/make_flowrl_losses.py says how they ran."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_losses import golden_batch, golden_outputs

from harness.core.training import ModelShape
from harness.trainers.batch import microbatch, select
from harness.trainers.objectives.flowrl import FlowRL

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "flowrl_losses.json").read_text(encoding="utf-8"))
HIDDEN = torch.tensor(GOLDEN["hidden"], dtype=torch.float64)


def objective_of(source: str, **options: Any) -> FlowRL:
    """With their head's weights. Their prompts are pooled already, and their dropout was off."""
    objective = FlowRL(FlowRL.Config(**{"log_z_dropout": 0.0, "log_z_pooling": "prompt", **options}))
    objective.prepare(ModelShape(HIDDEN.shape[1], "cpu"), seed=0)
    assert objective.log_z_head is not None
    weights = {name: torch.tensor(value) for name, value in GOLDEN[source]["head_weights"].items()}
    objective.log_z_head.double().load_state_dict(weights)  # strict: layer by layer the same network
    return objective


def gradients(objective: FlowRL) -> tuple[torch.Tensor, torch.Tensor]:
    """Of one minibatch, cut as theirs was, at the log-probabilities and at the pooled prompts."""
    batch, (live, frozen) = golden_batch(), golden_outputs()
    hidden = HIDDEN.clone().requires_grad_()
    logp = (live.logp.detach() + torch.tensor(GOLDEN["lift"])[:, None]).requires_grad_()
    live = dataclasses.replace(live, logp=logp, prompt_hidden=hidden)
    credit = objective.credit(batch, frozen)
    for rows in map(torch.tensor, GOLDEN["cut"]):
        part = microbatch(batch, rows, batch.totals)
        objective.loss(part, select(live, rows), select(frozen, rows), select(credit, rows)).loss.backward()
    assert logp.grad is not None and hidden.grad is not None
    return logp.grad, hidden.grad


@pytest.mark.parametrize("variant", ["release", "recipe"])
def test_an_update_of_a_variant_is_theirs(variant: Any) -> None:
    for ours, name in zip(
        gradients(objective_of(variant, variant=variant)), ("gradient", "gradient_of_hidden"), strict=True
    ):
        theirs = torch.tensor(GOLDEN[variant][name], dtype=torch.float64)
        # an epsilon of 1e-8 in their means
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("variant", "options"),
    [
        ("release", {"loss_scale": "mean"}),
        ("release", {"importance_weight": "clipped"}),
        ("recipe", {"importance_weight": "unclipped"}),
        ("recipe", {"loss_scale": "release"}),
        ("recipe", {"beta": 14.9}),
    ],
)
def test_what_tells_the_variants_apart_shows_in_these_numbers(variant: Any, options: dict[str, Any]) -> None:
    ours, _ = gradients(objective_of(variant, variant=variant, **options))
    theirs = torch.tensor(GOLDEN[variant]["gradient"], dtype=torch.float64)
    assert (ours - theirs).abs().max() > 1e-3 * theirs.abs().max()
