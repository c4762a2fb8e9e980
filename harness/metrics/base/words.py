"""Texts as numbered words, and their n-grams as numbers, so that lexical metrics are array operations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ids = NDArray[np.int64]

_WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """Split into words (letters, digits and _) and single other characters; white space is dropped."""
    return _WORD.findall(text)


def numbered(texts: Sequence[str]) -> list[Ids]:
    """Return each text as the numbers of its words, which are the same in all of these texts."""
    import numpy as np

    numbers: dict[str, int] = {}
    return [np.array([numbers.setdefault(word, len(numbers)) for word in words(text)], np.int64) for text in texts]


class Ngrams(NamedTuple):
    """All n-grams of several texts: a number for each, equal where the words are, and the text it is in."""

    codes: Ids
    texts: Ids
    n_codes: int


def ngrams_of(texts: Sequence[Ids], most: int) -> Iterator[Ngrams]:
    """Yield the n-grams of the texts for n = 1 .. most."""
    import numpy as np

    ids = np.concatenate([*texts, np.zeros(0, np.int64)])
    owners = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    n_words = int(ids.max(initial=-1)) + 1
    codes = ids
    for n in range(1, most + 1):
        if n > 1:  # the n-gram at a place is the (n-1)-gram there and the word at its end
            codes = codes[:-1] * n_words + ids[n - 1 :]
        different, codes = np.unique(codes, return_inverse=True)
        is_whole = owners[n - 1 :] == owners[: len(codes)]
        yield Ngrams(codes[is_whole], owners[: len(codes)][is_whole], len(different))


def ngram_shares(texts: Sequence[Ids], most: int) -> list[tuple[int, int]]:
    """Return for n = 1 .. most the number of different n-grams of these texts together, and of all."""
    import numpy as np

    return [(len(np.unique(ngrams.codes)), len(ngrams.codes)) for ngrams in ngrams_of(texts, most)]


def clipped_matches(texts: Sequence[Ids], most: int) -> Iterator[tuple[Ids, Ids]]:
    """Yield for n = 1 .. most how many n-grams of each text occur in another one, and how many it has.

    As in BLEU, an n-gram counts at most as often as in the text, other than this, that has it most often. That is the
    largest count of all texts or, for the text which has the largest, the second largest.
    """
    import numpy as np

    for ngrams in ngrams_of(texts, most):
        every = np.bincount(ngrams.texts, minlength=len(texts))
        keys, counts = np.unique(ngrams.codes * len(texts) + ngrams.texts, return_counts=True)
        codes, owners = np.divmod(keys, len(texts))
        order = np.lexsort((-counts, codes))
        codes, owners, counts = codes[order], owners[order], counts[order]
        is_first = np.ones(len(codes), dtype=bool)
        is_first[1:] = codes[1:] != codes[:-1]
        first = np.flatnonzero(is_first)
        second = np.where(np.append(~is_first[1:], False), np.append(counts[1:], 0), 0)[first]
        group = np.cumsum(is_first) - 1
        of_others = np.where(is_first, second[group], counts[first][group])
        hits = np.bincount(owners, weights=np.minimum(counts, of_others), minlength=len(texts))
        yield hits.astype(np.int64), every
