"""Independent random streams, derived by name from one root seed.

A seed is a hash of the root seed and a path of names. A resumed, extended or re-batched run therefore uses the same
randomness, and no generator state is stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator


def derive(root: int, *path: str | int) -> int:
    """Return a 63-bit seed for the stream `path` of the run with seed `root`."""
    return _seed(_hash(root, path))


def derive_each(root: int, *path: str | int, n: int) -> Iterator[int]:
    """Yield `derive(root, *path, i)` for each i below n, in less time."""
    begun = _hash(root, path)
    for index in range(n):
        whole = begun.copy()
        whole.update(b"\x1fint:%d" % index)
        yield _seed(whole)


def _hash(root: int, path: tuple[str | int, ...]) -> hashlib.blake2b:
    text = "\x1f".join([str(root), *(f"{type(part).__name__}:{part}" for part in path)])
    return hashlib.blake2b(text.encode(), digest_size=8)


def _seed(hashed: hashlib.blake2b) -> int:
    return int.from_bytes(hashed.digest(), "big") >> 1
