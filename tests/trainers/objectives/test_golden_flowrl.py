"""FlowRL's variants against the two published implementations; see `golden/make_flowrl_losses.py`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_losses import golden_batch, golden_outputs

from harness.core.registry import load
from harness.core.tensors import ModelShape
from harness.trainers.batch import microbatch, select
from harness.trainers.objectives.flowrl import FlowRL
from harness.trainers.objectives.flowrl_ablation import FlowRLAblation

GOLDEN = json.loads((Path(__file__).parent / "golden" / "flowrl_losses.json").read_text(encoding="utf-8"))
HIDDEN = torch.tensor(GOLDEN["hidden"], dtype=torch.float64)


SOURCES = {
    "release": {"importance_weight": "unclipped", "loss_scale": "release"},
    "recipe": {"importance_weight": "capped"},
}
"""The choices of the two implementations, as the ablation has them."""


def sibling_of(source: str) -> FlowRL:
    """The objective of that name. The golden prompts are pooled already: a last token at their mean changes nothing."""
    plugin = load("objectives", f"flowrl_{source}")
    return with_their_head(plugin(plugin.Config(log_z_dropout=0.0)), source)


def ablation_of(source: str, **options: Any) -> FlowRL:
    choices = {**SOURCES[source], "log_z_from_zero": False, "log_z_detach": False, **options}
    return with_their_head(FlowRLAblation(FlowRLAblation.Config(**choices)), source)


def with_their_head(objective: FlowRL, source: str) -> FlowRL:
    objective.prepare(ModelShape(HIDDEN.shape[1], "cpu"), seed=0)
    weights = {name: torch.tensor(value) for name, value in GOLDEN[source]["head_weights"].items()}
    objective.head.double().load_state_dict(weights)  # strict: layer by layer the same network
    return objective


def gradients(objective: FlowRL) -> tuple[torch.Tensor, torch.Tensor]:
    """Of one minibatch, cut as theirs was, at the log-probabilities and at the pooled prompts."""
    batch, (current, old) = golden_batch(), golden_outputs()
    hidden = HIDDEN.clone().requires_grad_()
    logp = (current.logp.detach() + torch.tensor(GOLDEN["lift"])[:, None]).requires_grad_()
    current = dataclasses.replace(current, logp=logp, prompt_hidden=hidden, prompt_last_hidden=hidden)
    advantages = objective.advantages(batch, old)
    for rows in map(torch.tensor, GOLDEN["cut"]):
        part = microbatch(batch, rows, batch.totals)
        objective.loss(part, select(current, rows), select(old, rows), select(advantages, rows)).loss.backward()
    assert logp.grad is not None and hidden.grad is not None
    return logp.grad, hidden.grad


@pytest.mark.parametrize("variant", ["release", "recipe"])
@pytest.mark.parametrize("made", [sibling_of, ablation_of])
def test_an_update_of_release_and_recipe_equals_the_published_code(variant: str, made: Any) -> None:
    for ours, name in zip(gradients(made(variant)), ("gradient", "gradient_of_hidden"), strict=True):
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
def test_each_choice_of_the_flowrl_variants_changes_the_golden_gradients(variant: Any, options: dict[str, Any]) -> None:
    ours, _ = gradients(ablation_of(variant, **options))
    theirs = torch.tensor(GOLDEN[variant]["gradient"], dtype=torch.float64)
    assert (ours - theirs).abs().max() > 1e-3 * theirs.abs().max()
