"""lm-evaluation-harness' own filters and metrics, for its tasks (`lm_eval:gsm8k`)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from harness.core.protocols import Grader
from harness.core.types import Completion, Problem, Verdict
from harness.graders.references.lm_eval import LmEvalReference


class LmEvalGrader(Grader[LmEvalReference]):
    """A completion is correct if the task's first metric under its first filter is 1. Details hold every value.

    A metric that is a measurement, such as a perplexity, has no right and wrong: its value is the reward.
    """

    def grade(self, problem: Problem[LmEvalReference], completion: Completion) -> Verdict:
        reference: object = problem.reference
        if not isinstance(reference, LmEvalReference):
            return Verdict("ungraded", None, reason="not a problem of lm-eval")
        try:
            values, filtered = reference.evaluate([completion])
            pipeline, metric = reference.deciding_metric(values)
            value = values[pipeline][metric]
        except Exception as error:  # the task's own code may raise anything
            return Verdict("ungraded", None, reason=f"lm-eval: {type(error).__name__}: {error}")
        number = _number(value)
        extracted = _extracted(filtered[pipeline], completion)
        details = {"lm_eval": json.loads(json.dumps(values, default=_plain))}
        if number == 1:
            return Verdict("correct", 1.0, extracted, details=details)
        reason = "wrong" if number == 0 else "neither right nor wrong"
        return Verdict("incorrect", number if number is not None else 0.0, extracted, reason, details)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _extracted(replies: Sequence[Any], completion: Completion) -> str | None:
    """Return the answer that the filter extracted; with several passages, the index of the likeliest."""
    if len(completion.likelihoods) > 1:
        logps = [likelihood.logp for likelihood in completion.likelihoods]
        return str(logps.index(max(logps)))
    return replies[0] if isinstance(replies[0], str) else None


def _plain(value: Any) -> Any:
    """Convert numpy's numbers and arrays to Python's."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


GRADER = LmEvalGrader
