"""Fingerprints of datasets: one for the dataset and one digest per row, so that differing rows can be named.

A row is (id, problem, reference) as text. Only white space is normalised before hashing, since copies of one dataset
differ in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.core.errors import DataError

DIGEST_CHARACTERS = 10


def row_digest(problem: str, reference: str) -> str:
    """Return the digest of a row, ten characters. It excludes the id, so that a renumbered copy is recognised."""
    text = f"{_normalised(problem)}\n{_normalised(reference)}"  # neither contains a line break after normalisation
    return hashlib.sha256(_bytes(text)).hexdigest()[:DIGEST_CHARACTERS]


def fingerprint(digests: Mapping[str, str]) -> str:
    """Return the fingerprint of all rows, independent of their order."""
    total = hashlib.sha256()
    for problem_id, digest in sorted(digests.items()):
        total.update(_bytes(f"{problem_id}\t{digest}\n"))
    return total.hexdigest()[:16]


def differences(found: Mapping[str, str], expected: Mapping[str, str]) -> tuple[str, ...]:
    """Return one line per row that is altered, new or missing."""
    altered = (f"{key}: altered" for key in found if key in expected and found[key] != expected[key])
    new = (f"{key}: not in the recorded data" for key in found if key not in expected)
    missing = (f"{key}: missing" for key in expected if key not in found)
    return (*altered, *new, *missing)


def read_digests(path: Path) -> dict[str, str]:
    """Read a file of digests: one line per row with id, tab and digest."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t") for line in lines)


def write_digests(path: Path, digests: Mapping[str, str]) -> None:
    lines = (f"{key}\t{digest}\n" for key, digest in sorted(digests.items()))
    path.write_text("".join(lines), encoding="utf-8")


def unique(ids: Iterable[str], where: str) -> None:
    """Raise DataError if two rows share an id: they would be treated as one problem."""
    seen: set[str] = set()
    for key in ids:
        if key in seen:
            raise DataError(f"{where} has the id {key} twice; the file is damaged or not the expected one")
        seen.add(key)


def _bytes(text: str) -> bytes:
    """Encode any text, including lone surrogates from JSON escapes."""
    return text.encode("utf-8", "surrogatepass")


def _normalised(text: str) -> str:
    return " ".join(text.split())
