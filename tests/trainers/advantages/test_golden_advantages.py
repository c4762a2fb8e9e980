"""Advantages against the numbers that their authors' published functions give; golden/make_advantages.py says how."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from training_parts import make_batch

from harness.core.registry import load
from harness.core.tensors import Batch, PolicyOutputs
from harness.trainers.functional import group_normalise

GOLDEN = json.loads((Path(__file__).parent / "golden" / "advantages.json").read_text(encoding="utf-8"))
ROWS, CASES = GOLDEN["inputs"]["rows"], GOLDEN["cases"]

OURS: dict[str, dict[str, Any]] = {
    "maxrl": {},
    "pkpo": {"k": 3, "baseline": "others"},
    "pass_at_k": {"k": 3},
    "ucpo": {"q": "mean"},
    "risk_sensitive": {},
    "unlikeliness": {"form": "release"},
}
TOLERANCE = {"ucpo": 5e-6, "risk_sensitive": 1e-6, "pkpo": 1e-6, "unlikeliness": 2e-6}
"""UCPO's code adds 1e-8 to the standard deviation, not 1e-6; the others compute parts in float32."""


def inputs() -> tuple[Batch, PolicyOutputs]:
    batch = make_batch([2] * len(ROWS), [len(row["logp"]) for row in ROWS], [row["group"] for row in ROWS])
    logp = torch.zeros(batch.completion_mask.shape, dtype=torch.float64)
    logp[batch.completion_mask] = torch.tensor([v for row in ROWS for v in row["logp"]], dtype=torch.float64)
    rewards = torch.tensor([row["reward"] for row in ROWS], dtype=torch.float64)
    classes = torch.tensor([row["class"] for row in ROWS])
    return dataclasses.replace(batch, rewards=rewards, classes=classes), PolicyOutputs(logp=logp)


def compute(advantage_id: str, **options: Any) -> torch.Tensor:
    plugin = load("advantages", advantage_id)
    values: torch.Tensor = plugin(plugin.Config(**options)).compute(*inputs())
    return values


@pytest.mark.parametrize("advantage_id", OURS)
def test_advantage_equals_the_authors(advantage_id: str) -> None:
    theirs = torch.tensor(CASES[advantage_id]["values"], dtype=torch.float64)
    tolerance = TOLERANCE.get(advantage_id, 1e-12)
    torch.testing.assert_close(compute(advantage_id, **OURS[advantage_id]), theirs, rtol=tolerance, atol=tolerance)


def test_rarity_of_rewards_equals_the_authors_factors() -> None:
    batch, _ = inputs()
    factors = torch.tensor(CASES["rarity_factors"]["values"], dtype=torch.float64)
    theirs = group_normalise(batch.rewards * factors, batch.group_ids, by_std=False)
    torch.testing.assert_close(compute("rarity", form="reward"), theirs)


def test_every_golden_case_is_used_and_names_its_commit() -> None:
    assert {*OURS, "rarity_factors"} == set(CASES)
    assert all(len(case["commit"]) == 40 for case in CASES.values())
