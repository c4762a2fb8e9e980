"""The numbers of the committed studies are those of their committed counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.reports.frontier import read_curves
from harness.stats.frontier import level_in, matched, overlap
from harness.study.counts import read_counts

STUDIES = Path(__file__).parents[2] / "docs" / "studies"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("grpo-kl[kl_beta=0.3]", "flowrl[beta=0.3]"),
        ("grpo-kl[kl_beta=0.1]", "flowrl[beta=0.6]"),
        ("grpo-kl[kl_beta=0.03]", "flowrl[beta=2]"),
        ("grpo", "flowrl[beta=0.6]"),
    ],
)
def test_the_ratios_of_beta_and_kl_follow_from_the_counts(first: str, second: str) -> None:
    (curves,) = read_curves(read_counts(STUDIES / "kl-or-beta" / "counts.csv.gz"))
    one, other = curves.frontier(first), curves.frontier(second)
    span = overlap(one, other)
    assert span is not None
    found = matched(one, other, level_in(span))
    low, high = found.ratio_interval.low, found.ratio_interval.high
    row = f"| `{first}` | `{second}` | {found.accuracy:.3f} | {found.first:.2f} | {found.second:.2f} | "
    row += f"{found.ratio:.2f} [{low:.2f}, {high:.2f}] |"
    assert row in (STUDIES / "kl-or-beta" / "index.md").read_text(encoding="utf-8")
