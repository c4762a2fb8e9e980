"""engine time: wall seconds of generation per right answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.core.protocols import Metric
from harness.core.types import Estimate, Graded
from harness.metrics.base.grouping import by_problem, per_right_answer, with_samples


class EngineTime(Metric):
    """The time spent waiting for the engine, over the number of right answers among the graded samples.

    The wait for a batch is recorded with its first completion, so only the sum is meaningful, and the interval is wider
    than necessary. There is no estimate where a completion has no recorded time, where nothing is right, or where so
    few problems are used that the interval has no upper end.
    """

    def estimate(self, graded: Sequence[Graded[Any]]) -> Sequence[Estimate]:
        problems = by_problem(graded)
        used, _ = with_samples(problems, 1)
        times = [[item.completion.engine_s for item in problem.graded] for problem in used]
        known = [[engine_s for engine_s in some if engine_s is not None] for some in times]
        if known != times:
            return []
        return per_right_answer("engine seconds per right answer", list(map(sum, known)), used, problems)


METRIC = EngineTime
