"""One root seed, any number of independent named streams.

A seed is a hash of the root and of a path of names, so a resumed, extended or re-batched run asks for exactly the
same randomness, and no state of a generator has ever to be stored.
"""

from __future__ import annotations

import hashlib


def derive(root: int, *path: str | int) -> int:
    """A 63-bit seed for the stream `path` of the run with seed `root`."""
    text = "\x1f".join([str(root), *(f"{type(part).__name__}:{part}" for part in path)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
