"""Hill numbers of the solutions among N right samples: all of them, the frequent ones, the very frequent ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from harness.metrics.base.diversity import OfSolutions

ORDERS = (0, 1, 2)


class HillNumbers(OfSolutions):
    """The effective number of solutions among N right samples, of order 0, 1 and 2.

    Order 0 counts solutions, order 1 is the exponential of their entropy, order 2 the inverse of the chance that two
    samples agree. They are taken from the expected frequencies of N samples (Chao et al. 2014), so different numbers of
    right samples compare.
    """

    name = "hill"

    def values(self, features: Sequence[Any], size: int) -> Iterator[tuple[str, float | None]]:
        from harness.stats.diversity import class_counts, hill_number  # numpy

        counts = class_counts(features)
        for order in ORDERS:
            yield f"{self.prefix}hill{order}", hill_number(counts, size, order)


METRIC = HillNumbers
