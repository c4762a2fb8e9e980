"""Embedding distance: the mean cosine distance between the samples of a problem, by a sentence model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.metrics.base.embeddings import Embeddings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class EmbeddingDistance(Embeddings):
    """The mean of 1 - cos(a, b) over all pairs of embeddings, of all samples and of the right ones.

    A text longer than the model reads is embedded in windows and never cut. The mean over pairs does not depend on the
    number of samples, so all pairs of a problem count. Equal texts are at distance 0. Distant texts may still be one
    solution in other words, and different answers may be near: read it next to its floor and ceiling.
    """

    name = "embedding_distance"
    depends_on_size = False

    def of_directions(self, directions: NDArray[np.float64]) -> float:
        from harness.stats.diversity import mean_distance

        return mean_distance(directions)

    def rarefied(self, features: Sequence[Any], size: int) -> float | None:  # noqa: ARG002
        return self.value(features)

    def upper(self, size: int) -> float:  # noqa: ARG002
        return 2.0


METRIC = EmbeddingDistance
