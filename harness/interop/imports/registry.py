"""The formats that can be imported, and which of them a file has."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness.core.errors import ConfigError, DataError, UnknownNameError
from harness.data.rows import RowFile
from harness.interop.imports.base import Format, Row, RowSource
from harness.interop.imports.code_tools import EvalPlusResults, EvalPlusSamples, LiveCodeBenchOutputs
from harness.interop.imports.columns import Columns
from harness.interop.imports.inspect_eval import InspectLog, is_inspect_archive
from harness.interop.imports.lm_eval import LmEvalSamples
from harness.interop.imports.services import NemoSkills, OpenAIBatch
from harness.interop.imports.trainers import TrlCompletions, VerlDump

N_FIRST_ROWS = 20
FORMATS: Mapping[str, Callable[[], Format]] = {
    kind.name: kind
    for kind in (
        InspectLog,
        LmEvalSamples,
        LiveCodeBenchOutputs,
        EvalPlusResults,
        OpenAIBatch,
        VerlDump,
        TrlCompletions,
        NemoSkills,
        EvalPlusSamples,
        Columns,
    )
}


def open_as(path: Path, name: str | None, columns: Mapping[str, str]) -> tuple[Format, RowSource, Sequence[Row]]:
    """Return the named format or the one that the first rows have, with the open file and those rows.

    Raise if the rows are of no format or of several. Plain rows are what is left if no tool's format fits.
    """
    if name is not None and name not in FORMATS:
        raise UnknownNameError("format", name, FORMATS)
    if columns and name not in (None, Columns.name):
        raise ConfigError(f"--map names the columns of plain rows, and the format {name} has its own; leave it out")
    if columns:
        return _opened(Columns(columns), path)
    if name is not None:
        return _opened(FORMATS[name](), path)
    if is_inspect_archive(path):
        return _opened(InspectLog(), path)
    first = _first_rows(RowFile.open(path))
    fitting = [kind for key, kind in FORMATS.items() if key != Columns.name and kind().recognises(first)]
    if len(fitting) > 1:
        names = " or ".join(kind().name for kind in fitting)
        raise DataError(f"{path} may be of several formats; choose one with --format ({names})")
    return _opened(fitting[0]() if fitting else Columns(), path)


def _opened(form: Format, path: Path) -> tuple[Format, RowSource, Sequence[Row]]:
    file = form.open(path)
    first = _first_rows(file)
    if isinstance(form, Columns):
        form.choose(path, first)
    elif not form.recognises(first):
        there = ", ".join(list(first[0])[:12])
        raise DataError(f"{path} is not of the format {form.name}: its first rows have the fields {there}")
    return form, file, first


def _first_rows(file: RowSource) -> list[Row]:
    rows: list[Row] = [row for _, row in itertools.islice(file.rows(), N_FIRST_ROWS)]
    if not rows:
        raise DataError(f"{file.path} has no rows")
    return rows
