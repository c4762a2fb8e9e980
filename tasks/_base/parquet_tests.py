"""Tests of programs in parquet files, read on demand by file, row group and row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import DataError
from harness.graders.code.reference import Origin, ProgramTest, TestSource
from harness.tasks._base.program_tests import tests_of


@dataclass(frozen=True, slots=True)
class CellTests:
    """The tests in one cell of a table."""

    path: Path
    row_group: int
    row: int
    column: str
    origin: Origin

    def read(self) -> Sequence[ProgramTest]:
        value = cell(self.path, self.row_group, self.row, self.column)
        return tests_of(value if value is not None else [], self.origin, f"row {self.row} of {self.path}")


@dataclass(frozen=True, slots=True)
class TableTests:
    """The tests of one problem in a table with one test per row."""

    path: Path
    problem: str
    origin: Origin

    def read(self) -> Sequence[ProgramTest]:
        from pyarrow import ArrowException, parquet

        try:
            chosen = [("problem_id", "=", self.problem)]
            table = parquet.read_table(self.path, columns=["input", "output"], filters=chosen)
        except (ArrowException, OSError) as error:
            raise DataError(f"the tests in {self.path} can't be read: {error}") from error
        return tests_of(table.to_pylist(), self.origin, f"{self.problem} in {self.path}")


@dataclass(frozen=True, slots=True)
class JoinedTests:
    """The tests of several sources, concatenated."""

    sources: tuple[TestSource, ...]

    def read(self) -> Sequence[ProgramTest]:
        return [test for source in self.sources for test in source.read()]


def located_rows(
    path: Path, columns: Sequence[str], *, optional: Sequence[str] = ()
) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield each row's row group, its position in the group, and the columns."""
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            missing = sorted(set(columns) - set(file.schema_arrow.names))
            if missing:
                raise DataError(f"{path} has no column {missing[0]!r}; this is not the expected file")
            present = [*columns, *(name for name in optional if name in file.schema_arrow.names)]
            for group in range(file.num_row_groups):
                for row, record in enumerate(file.read_row_group(group, columns=present).to_pylist()):
                    yield group, row, record
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} can't be read: {error}; fetch it again (`harness fetch TASK --again`)") from error


def cell(path: Path, row_group: int, row: int, column: str) -> Any:
    """Read one value, and no more than its column of one row group."""
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            return file.read_row_group(row_group, columns=[column]).column(0)[row].as_py()
    except (ArrowException, OSError, IndexError) as error:
        raise DataError(f"the tests in {path} can't be read: {error}") from error
