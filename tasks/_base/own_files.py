"""Files of one's own data: which of them make up each split, on this machine or on the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import DataError
from harness.core.protocols import Split
from harness.core.registry import is_data_file
from harness.core.types import DataFile
from harness.data import download
from harness.data.files import MIRROR

WHOLE: tuple[Split, ...] = ("train", "test")
"""Splits that a file serves whose name is not that of a split."""
SPLIT_WORDS: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
_WORDS = re.compile(r"(?<![a-z])(" + "|".join(SPLIT_WORDS) + r")(?![a-z])")


@dataclass(frozen=True, slots=True)
class OwnFiles:
    """The files of each split, and where they come from."""

    splits: Mapping[Split, tuple[DataFile, ...]]
    source: str


def local_files(path: Path) -> OwnFiles:
    """Return the files of a path: one file, or a folder with a file for each split. Raise DataError without any."""
    if path.is_file():
        return OwnFiles(dict.fromkeys(WHOLE, (_local(path),)), str(path))
    if not path.is_dir():
        raise DataError(f"{path} does not exist; name a JSONL, JSON, CSV or parquet file, or a folder of them")
    names = sorted(file.name for file in path.iterdir() if file.is_file() and is_data_file(file.name))
    found = by_split(names, str(path))
    return OwnFiles({split: tuple(_local(path / name) for name in some) for split, some in found.items()}, str(path))


def _local(path: Path) -> DataFile:
    return DataFile(path.name, url=path.resolve().as_uri())


def hub_files(repo: str, revision: str, subset: str) -> OwnFiles:
    """Return the files of a data set on the hub, at the commit that the revision is now or was when first read."""
    listing = _mirrored(repo, revision)
    listing = listing if listing is not None else download.listing(repo, revision)
    names = [name for name in listing.files if is_data_file(name) and _is_in(name, subset)]
    where = f"{repo} at {listing.commit}"
    if not names:
        inside = f" in the subset {subset!r}" if subset else ""
        raise DataError(f"{where} has no JSONL, JSON, CSV or parquet file{inside}; it has {_some(listing.files)}")
    subsets = {name.partition("/")[0] for name in names if "/" in name} - {"data"}
    if not subset and len(subsets) > 1:
        raise DataError(f"{where} has several subsets; set subset to one of {_some(sorted(subsets))}")
    found = by_split(names, where)
    files = {split: tuple(DataFile(name, repo, listing.commit) for name in some) for split, some in found.items()}
    return OwnFiles(files, where)


def _mirrored(repo: str, revision: str) -> download.Listing | None:
    """Return the files of the data set in the local mirror; None if it is not there."""
    mirror = os.environ.get(MIRROR)
    folder = Path(mirror, repo) if mirror else None
    if folder is None or not folder.is_dir():
        return None
    return download.Listing(revision, sorted(str(path.relative_to(folder)) for path in folder.rglob("*.*")))


def _is_in(name: str, subset: str) -> bool:
    return not subset or subset in name.split("/")[:-1]


def by_split(names: Sequence[str], where: str) -> Mapping[Split, list[str]]:
    """Sort files by the split in their names. A single file without one serves training and tests alike."""
    found: dict[Split, list[str]] = {}
    for name in names:
        words = _WORDS.findall(name.lower())
        if words:
            found.setdefault(SPLIT_WORDS[words[-1]], []).append(name)
    if not found and len(names) == 1:
        return {split: list(names) for split in WHOLE}
    if not found:
        raise DataError(
            f"{where} has no data file with train, validation or test in its name"
            + (f"; it has {_some(names)}, name one of them" if names else "")
        )
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
