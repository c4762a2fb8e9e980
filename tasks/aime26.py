"""AIME 2026: thirty competition problems whose answers are integers from 0 to 999."""

from __future__ import annotations

from harness.tasks._base.maths import math_task

# Not verified by this project: the file is on the hub alone, and no copy was read.
TASK = math_task(
    "MathArena/aime_2026",
    title="AIME 2026, I and II",
    id="problem_idx",
    licence="CC-BY-NC-SA-4.0, as its page says; the problems are the MAA's",
    paper="Balunović et al., arXiv 2505.23281",
    size="30 problems",
    released="2026-02-06",
)
