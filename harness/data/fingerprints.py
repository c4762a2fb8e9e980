"""Fingerprints of data sets: one for the whole, and a digest a row, so that a load that differs can say where.

A row is (id, problem, reference) as text. White space is folded before hashing, since copies of one data set differ
in it; nothing else is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.core.errors import DataError

DIGEST_CHARACTERS = 10


def row_digest(problem: str, reference: str) -> str:
    """What a row says, in ten characters. The id is not part of it, so that a renumbered copy can be recognised."""
    said = f"{_folded(problem)}\n{_folded(reference)}"  # folded, neither has a line end of its own
    return hashlib.sha256(_bytes(said)).hexdigest()[:DIGEST_CHARACTERS]


def fingerprint(digests: Mapping[str, str]) -> str:
    """Of all rows, in whatever order they are."""
    total = hashlib.sha256()
    for problem_id, digest in sorted(digests.items()):
        total.update(_bytes(f"{problem_id}\t{digest}\n"))
    return total.hexdigest()[:16]


def differences(found: Mapping[str, str], expected: Mapping[str, str]) -> tuple[str, ...]:
    """One line for each row that is altered, new or missing."""
    altered = (f"{key}: altered" for key in found if key in expected and found[key] != expected[key])
    new = (f"{key}: not in the data on record" for key in found if key not in expected)
    missing = (f"{key}: missing" for key in expected if key not in found)
    return (*altered, *new, *missing)


def read_digests(path: Path) -> dict[str, str]:
    """The digests on record: lines of an id, a tab and a digest."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t") for line in lines)


def write_digests(path: Path, digests: Mapping[str, str]) -> None:
    lines = (f"{key}\t{digest}\n" for key, digest in sorted(digests.items()))
    path.write_text("".join(lines), encoding="utf-8")


def unique(ids: Iterable[str], where: str) -> None:
    """Refuse rows that share an id: they would be taken for one."""
    seen: set[str] = set()
    for key in ids:
        if key in seen:
            raise DataError(f"{where} has the id {key} twice; the file is damaged or not the one it should be")
        seen.add(key)


def _bytes(text: str) -> bytes:
    """Of any text, also of one that JSON escapes have left with half a surrogate pair."""
    return text.encode("utf-8", "surrogatepass")


def _folded(text: str) -> str:
    return " ".join(text.split())
