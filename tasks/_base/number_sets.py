"""The given numbers of the countdown tasks and their splits, which both tasks share.

The split depends only on the numbers, so no numbers of the training split of one task occur in validation or test of
either.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from typing import get_args

from harness.core.protocols import Split

DIGITS = range(1, 10)
N_NUMBERS = 6
TARGETS = range(10, 100)

Numbers = tuple[int, ...]


@functools.cache
def multisets() -> dict[Split, list[Numbers]]:
    """Return the sorted given numbers of each split."""
    by_split: dict[Split, list[Numbers]] = {split: [] for split in get_args(Split)}
    for numbers in itertools.combinations_with_replacement(DIGITS, N_NUMBERS):
        by_split[_split_of(numbers)].append(numbers)
    return by_split


def _split_of(numbers: Numbers) -> Split:
    # The key defines the benchmark: another key gives other splits.
    hashed = hashlib.blake2b("-".join(map(str, numbers)).encode(), key=b"countdown split", digest_size=8)
    percentile = int.from_bytes(hashed.digest(), "big") % 100
    if percentile < 5:
        return "test"
    return "validation" if percentile < 10 else "train"
