"""best@k: the probability that the sample with the highest score among k is right, for any score on record."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.types import Graded
from harness.metrics.base.grouping import AtSeveralK, Family, Means, ProblemSamples

Levels = tuple[int, tuple[tuple[int, int], ...]]
"""Graded samples, and for each score in ascending order the samples that have it and the right ones among them."""
DETAIL = "details."
NAMES = ("reward", "tokens", "logprob")


class BestOfK(Family):
    """The mean over problems of the chance that the best of k samples by a score is right, over all subsets of k.

    k of the n graded samples are drawn without replacement. Samples that share the best score share the choice.
    `score` is `reward` (the grader's, so that this is pass@k for rewards of 0 and 1), `tokens` (the length), `logprob`
    (the mean log-probability of the tokens, in runs with `store_ids`), or `details.KEY`: a number that the grader
    records with each verdict. A minus in front (`-tokens`) takes the lowest. A problem with a sample that lacks the
    score is left out, and counted; there is no estimate where all are.

    For k = 1, 2, 4, 8 ... and n itself, n being the smallest number of graded samples of a problem.
    """

    @dataclass(frozen=True, slots=True)
    class Config(AtSeveralK.Config):
        score: str = "-tokens"
        """reward, tokens, logprob or details.KEY, with a minus for the lowest."""

        def __post_init__(self) -> None:
            AtSeveralK.Config.__post_init__(self)
            name = self.score.removeprefix("-")
            if name not in NAMES and not (name.startswith(DETAIL) and len(name) > len(DETAIL)):
                raise ValueError(f"score is one of {', '.join(NAMES)} and details.KEY, not {self.score!r}")

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.name = f"best({config.score})"

    def means(self, problems: Sequence[ProblemSamples]) -> Iterable[Means]:
        scored = [problem for problem in problems if None not in map(self._score, problem.graded)]
        n_without = len(problems) - len(scored)
        notes = (f"{n_without} problems with samples without the score left out",) if n_without else ()
        return [
            Means(means.name, means.used, means.values, means.upper, (*means.notes, *notes))
            for means in super().means(scored)
        ]

    def count(self, problem: ProblemSamples) -> Levels:
        right: dict[float, list[bool]] = defaultdict(list)
        for item in problem.graded:
            score = self._score(item)
            assert score is not None
            right[score].append(item.verdict.outcome == "correct")
        return problem.n_graded, tuple((len(found), sum(found)) for _, found in sorted(right.items()))

    def values(self, counts: Sequence[Levels], k: int) -> Sequence[float]:
        return [_chosen_is_right(n, levels, k) for n, levels in counts]

    def _score(self, item: Graded[Any]) -> float | None:
        """Return the score with its sign, so that the highest is best; None where it is not on record."""
        name = self.config.score.removeprefix("-")
        value = _on_record(item, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return None
        return -float(value) if name != self.config.score else float(value)


def _on_record(item: Graded[Any], name: str) -> object:
    if name == "reward":
        return item.verdict.reward
    if name == "tokens":
        return item.completion.tokens.n_completion
    if name == "logprob":
        logprobs = item.completion.load().tokens.logp_behaviour
        return math.fsum(logprobs) / len(logprobs) if logprobs else None
    return item.verdict.details.get(name.removeprefix(DETAIL))


def _chosen_is_right(n: int, levels: Sequence[tuple[int, int]], k: int) -> float:
    """Return the sum over scores of the chance that it is the best of k, times the share of right samples with it."""
    chance, n_below = 0.0, 0
    for n_here, n_right in levels:
        ways = math.comb(n_below + n_here, k) - math.comb(n_below, k)
        chance += ways / math.comb(n, k) * n_right / n_here
        n_below += n_here
    return min(1.0, chance)  # rounding must not lift a certain choice above 1


METRIC = BestOfK
