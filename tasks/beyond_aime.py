"""BeyondAIME: 100 problems in the form of AIME and harder, with integer answers."""

from __future__ import annotations

from harness.tasks._base.maths import math_task

# Not verified by this project: the file is on the hub alone, and no copy was read.
TASK = math_task(
    "ByteDance-Seed/BeyondAIME",
    title="BeyondAIME",
    file="data/test-00000-of-00001.parquet",
    licence="CC0-1.0, as its page says",
    paper="ByteDance Seed, arXiv 2504.13914",
    size="100 problems",
)
