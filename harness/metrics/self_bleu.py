"""1 - self-BLEU: how little of each sample's wording occurs in the other samples of its problem (Zhu et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.metrics.base.diversity import Diversity, texts_of
from harness.metrics.base.grouping import ProblemSamples


class SelfBleu(Diversity):
    """1 less the mean BLEU of each of m samples, with the other m - 1 as its references.

    BLEU is that of NLTK's `sentence_bleu` with `SmoothingFunction().method1`, and of sacrebleu's sentence BLEU with
    `smooth_method="floor"`, `smooth_value=0.1`, `effective_order=True`, both on our words: n-grams up to 4, the closest
    length as reference length, and 0.1 in place of a count of 0. n for which a text has no n-gram are left out, as
    sacrebleu does. It sees wording alone: a reworded solution is far away, and one with another idea may be near.
    """

    name = "1-self_bleu"

    @dataclass(frozen=True, slots=True)
    class Config(Diversity.Config):
        most: int = 4
        """The largest n."""

    config: Config

    def features(self, problem: ProblemSamples) -> Sequence[Any]:
        from harness.metrics.base.words import numbered

        return numbered(texts_of(problem))

    def value(self, features: Sequence[Any]) -> float | None:
        from harness.metrics.base.words import clipped_matches

        matches = list(clipped_matches(features, self.config.most))
        lengths = sorted(len(text) for text in features)
        scores = [
            _bleu(len(text), _closest(len(text), lengths), [(int(hit[i]), int(every[i])) for hit, every in matches])
            for i, text in enumerate(features)
        ]
        return min(1.0, max(0.0, 1 - math.fsum(scores) / len(scores)))


def _closest(length: int, lengths: Sequence[int]) -> int:
    """Return the length closest to a text's among those of the others, the shorter of two."""
    others = list(lengths)
    others.remove(length)
    return min(others, key=lambda other: (abs(other - length), other))


def _bleu(length: int, reference: int, matches: Sequence[tuple[int, int]]) -> float:
    """Return BLEU from the matching and all n-grams of each order. An empty text matches an empty one alone."""
    if length == 0:
        return float(reference == 0)
    if matches[0][0] == 0:
        return 0.0
    logs = [math.log(max(hit, 0.1) / every) for hit, every in matches if every]
    penalty = min(0.0, 1 - reference / length)
    return math.exp(penalty + math.fsum(logs) / len(logs))


METRIC = SelfBleu
