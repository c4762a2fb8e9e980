"""tools/gradient_cosines.py: gradients of recipes on the same rollouts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gradient_cosines import gradient, merged, page
from training import recipe, run


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder: Path = tmp_path_factory.mktemp("rollouts") / "run"
    run(recipe("countdown-grpo", loop={"steps": 1, "samples_per_prompt": 16}, rollouts={"only": True}), folder)
    return str(folder)


def test_surrogates_agree_before_anything_has_moved_and_advantages_do_not(
    rollouts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradient_cosines.ONE_UPDATE", {"steps": 1, "prompts_per_step": 4, "minibatches_per_step": 1})
    grpo, cispo, maxrl = (gradient(f"countdown-{name}", rollouts, None) for name in ("grpo", "cispo", "maxrl"))
    assert float(torch.cosine_similarity(grpo, cispo, 0)) == pytest.approx(1.0, abs=1e-4)
    assert 0 < float(torch.cosine_similarity(grpo, maxrl, 0)) < 0.999


def test_rows_that_agree_with_the_first_of_a_row_are_merged() -> None:
    cosines = torch.tensor([[1.0, 0.999, 0.2], [0.999, 1.0, 0.2], [0.2, 0.2, 1.0]])
    groups = merged(cosines, 0.995)
    assert groups == [[0, 1], [2]]
    lines = page(["grpo", "cispo", "maxrl"], cosines, groups).splitlines()
    assert [line.split() for line in lines] == [
        ["1", "2"],
        ["1", "grpo", "1.00", "0.20"],
        ["2", "maxrl", "0.20", "1.00"],
        [],
        ["1", "grpo,", "cispo"],
    ]
