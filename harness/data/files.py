"""Dataset files: find them in a local mirror or the cache, else download them; read them by column.

A file is searched under HARNESS_DATA_DIR, then in the cache, then downloaded. A file that is on this machine needs no
network. Only plain files are downloaded; no dataset's own code is executed.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from harness.core.errors import DataError
from harness.core.types import DataFile
from harness.data import download

MIRROR = "HARNESS_DATA_DIR"
REPEATING_ROWS = 1 << 18
"""Rows per batch in which repeats are searched."""

Record = dict[str, Any]


# --- finding ----------------------------------------------------------------------------------------------------


def mirrored(file: DataFile) -> Path | None:
    """Return the file in the local mirror, or None."""
    mirror = os.environ.get(MIRROR)
    if not mirror:
        return None
    if not Path(mirror).is_dir():
        raise DataError(
            f"{MIRROR} is {mirror}, which is not a folder; correct it, or unset it to use the cache and the hub"
        )
    names = (file.mirrored_as, f"{file.repo}/{file.path}" if file.repo is not None else None)
    found = (Path(mirror, name) for name in names if name is not None)
    return next((path for path in found if path.is_file()), None)


def is_local(file: DataFile) -> bool:
    """Return whether the file can be read without the network."""
    return mirrored(file) is not None or download.cached(file) is not None


def locate(file: DataFile, *, again: bool = False) -> Path:
    """Return the path of the file on this machine; download it first if needed. `again` replaces the cached copy."""
    mirror_path = mirrored(file)
    if mirror_path is not None:
        return mirror_path
    cached = None if again else download.cached(file)
    return cached if cached is not None else download.download(file)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, read in chunks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# --- reading ----------------------------------------------------------------------------------------------------


def read_records(
    path: Path, columns: Sequence[str], *, optional: Sequence[str] = (), skip_repeats: bool = False
) -> Iterator[Record]:
    """Yield the rows of a JSONL, JSON, CSV or parquet file (gzip or not), each with at least these columns.

    Only these columns of a parquet file are read; `a.b` names the field b of the struct a. `skip_repeats` drops rows
    that repeat an earlier row, as far as that is cheap to detect.
    """
    form = path.name.removesuffix(".gz").rpartition(".")[2]
    if form not in _READERS:
        raise DataError(f"{path} has an unsupported format ({', '.join(_READERS)})")
    wanted = {column.partition(".")[0] for column in columns}
    try:
        for number, record in enumerate(_READERS[form](path, [*columns, *optional], skip_repeats), 1):
            if not wanted <= record.keys():
                raise DataError(
                    f"row {number} of {path} has no field {min(wanted - record.keys())!r} (it has "
                    f"{', '.join(record)}); the file is not the one this task was written for"
                )
            yield record
    except (OSError, EOFError, ValueError, csv.Error, zlib.error) as error:
        raise DataError(
            f"{path} can't be read ({type(error).__name__}: {error}); the file is damaged or has "
            "another format: fetch it again (`harness fetch TASK --again`), or repair the mirror"
        ) from error


def _opened(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _read_jsonl(path: Path, *_: Any) -> Iterator[Record]:
    with _opened(path) as stream:
        for line in stream:
            if line.strip():
                yield _record(json.loads(line))


def _read_json(path: Path, *_: Any) -> Iterator[Record]:
    with _opened(path) as stream:
        rows = json.load(stream)
    if not isinstance(rows, list):
        raise ValueError("not a list of rows")
    yield from map(_record, rows)


def _record(row: Any) -> Record:
    if not isinstance(row, dict):
        raise ValueError("a row is not an object")
    return row


def _read_csv(path: Path, *_: Any) -> Iterator[Record]:
    limit = csv.field_size_limit(2**31 - 1)
    try:
        with _opened(path) as stream:
            for record in csv.DictReader(stream, strict=True):
                if None in record or None in record.values():
                    raise ValueError("a row has more or fewer fields than the header")
                yield record
    finally:
        csv.field_size_limit(limit)


def _read_parquet(path: Path, columns: Sequence[str], skip_repeats: bool) -> Iterator[Record]:
    import pyarrow
    from pyarrow import parquet

    with contextlib.closing(parquet.ParquetFile(path)) as file:
        present = [column for column in columns if column.partition(".")[0] in file.schema_arrow.names]
        n_rows = REPEATING_ROWS if skip_repeats else 1024
        try:
            for batch in file.iter_batches(batch_size=n_rows, columns=present):
                yield from (_drop_repeats(batch) if skip_repeats else batch).to_pylist()
        except pyarrow.ArrowException as error:
            raise ValueError(str(error)) from error


def _drop_repeats(batch: Any) -> Any:
    """Drop rows that repeat an earlier one, if each column has exactly one value per row."""
    import pyarrow

    values = [value for column in batch.columns for value in _values(column)]
    if any(len(value) != len(batch) for value in values):
        return batch
    names = [str(number) for number in range(len(values))]
    rows = pyarrow.table([*values, pyarrow.array(range(len(batch)))], names=[*names, "row"])
    first = rows.group_by(names, use_threads=False).aggregate([("row", "min")])["row_min"]
    return batch.take(first.combine_chunks())


def _values(column: Any) -> list[Any]:
    """Return the columns of plain values inside a column of structs or of one-element lists."""
    from pyarrow import compute, types

    if types.is_list(column.type):
        is_single = compute.all(compute.equal(compute.list_value_length(column), 1)).as_py()
        return _values(column.flatten()) if is_single else [[]]
    if types.is_struct(column.type):
        return [value for field in column.flatten() for value in _values(field)]
    return [column]


_READERS: dict[str, Callable[[Path, Sequence[str], bool], Iterator[Record]]] = {
    "jsonl": _read_jsonl,
    "json": _read_json,
    "csv": _read_csv,
    "parquet": _read_parquet,
}
