"""Vendi score: the effective number of different samples of a problem, by the embeddings of a sentence model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.metrics.base.embeddings import Embeddings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class VendiScore(Embeddings):
    """The exponential of the entropy of the eigenvalues of K / m, where K has the cosines of m embeddings.

    (Friedman and Dieng 2023.) It is 1 for equal texts and m for orthogonal embeddings; embeddings of one problem are
    never near that, so read it next to its floor and ceiling. The smaller of the two Gram matrices is decomposed, and
    never one of more than a problem's samples.
    """

    name = "vendi_score"

    def of_directions(self, directions: NDArray[np.float64]) -> float:
        from harness.stats.diversity import vendi_score

        return vendi_score(directions)

    def upper(self, size: int) -> float:
        return float(size)


METRIC = VendiScore
