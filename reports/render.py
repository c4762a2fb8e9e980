"""Render tables as markdown, CSV, terminal text and JSON values. The same table gives the same bytes.

Cells may hold text of models and of foreign files. No control character reaches a file or a terminal, markdown has no
links or HTML of theirs, and no cell of a CSV file is a formula.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from harness.core.text import printable
from harness.core.types import Estimate, Table

Cell = str | int | float | Estimate | None
ABSENT = "-"
TERMINAL_WIDTH = 120
"""The width where stdout is not a terminal."""
NARROWEST, WIDEST = 60, 200
ESTIMATE_COLUMNS = tuple(field.name for field in fields(Estimate))
GAP = "  "


# --- markdown ---------------------------------------------------------------------------------------------------


def to_markdown(table: Table) -> str:
    """Render a heading, the rows, and the notes below them."""
    lines = [
        f"## {escape_markdown(table.title)}",
        "",
        _markdown_line(table.columns),
        _markdown_line(["---:" if _is_numeric(table, i) else "---" for i in range(len(table.columns))], escape=str),
        *(_markdown_line([_text(cell) for cell in row]) for row in table.rows),
    ]
    notes = [line for note in table.notes for line in ("", escape_markdown(note))]
    return "\n".join([*lines, *notes]) + "\n"


def _markdown_line(cells: Sequence[str], escape: Callable[[str], str] | None = None) -> str:
    return "| " + " | ".join((escape if escape is not None else escape_markdown)(cell) for cell in cells) + " |"


def escape_markdown(text: str) -> str:
    """Escape a text so that nothing in it ends a cell or is markup, a link or HTML; join its lines."""
    text = printable(" ".join(text.splitlines()) if "\n" in text or "\r" in text else text)
    return _MARKDOWN.sub(r"\\\g<0>", text)


# Brackets alone make no link, and an @ between words only before a domain: `avg@4 [0.1, 0.2]` stays as it is.
_MARKDOWN = re.compile(
    r"[\\|`*<~$]|&(?=#?\w+;)|\](?=[(\[:])|:(?=//)|(?<=www)\.|(?<=\w)@(?=[\w-]+\.\w)|(?<=mailto):|(?<=xmpp):"
    r"|^[#>+=-](?=[#>+=\s-])|(?<!\w)_|_(?!\w)",
    re.IGNORECASE,
)


def _is_numeric(table: Table, column: int) -> bool:
    cells = [row[column] for row in table.rows if row[column] is not None]
    return bool(cells) and all(isinstance(cell, (int, float)) for cell in cells)


# --- CSV --------------------------------------------------------------------------------------------------------


def to_csv(table: Table) -> str:
    """Render the rows in full precision, absent cells empty.

    A table with estimates is in long form: a line for each estimate, with the row's other cells repeated, and the
    columns name, value, low, high, n_problems, n_completions, n_ungraded and method. A row without estimates has one
    line, in which these are empty.
    """
    held = [i for i in range(len(table.columns)) if any(isinstance(row[i], Estimate) for row in table.rows)]
    plain = [i for i in range(len(table.columns)) if i not in held]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(_csv_cell(table.columns[i]) for i in plain), *(ESTIMATE_COLUMNS if held else ())])
    for row in table.rows:
        repeated = [_csv_cell(row[i]) for i in plain]
        writer.writerows([*repeated, *line] for line in _estimate_lines(table, row, held))
    return text.getvalue()


def _estimate_lines(table: Table, row: Sequence[Cell], held: Sequence[int]) -> list[list[Any]]:
    if not held:
        return [[]]
    lines = [_estimate_line(table.columns[i], row[i]) for i in held if row[i] is not None]
    return lines if lines else [[""] * len(ESTIMATE_COLUMNS)]


def _estimate_line(column: str, cell: Cell) -> list[Any]:
    if isinstance(cell, Estimate):
        return [_csv_cell(getattr(cell, name)) for name in ESTIMATE_COLUMNS]
    return [_csv_cell(column), _csv_cell(cell), *[""] * (len(ESTIMATE_COLUMNS) - 2)]


def _csv_cell(cell: Any) -> Any:
    if isinstance(cell, str):
        text = printable(cell.replace("\r\n", "\n").replace("\r", "\n"))
        return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text
    return "" if cell is None else cell


# Spreadsheets compute cells that begin like this; an apostrophe marks them as text.
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(inf|nan)|-", re.IGNORECASE | re.ASCII)


# --- plain text -------------------------------------------------------------------------------------------------


def terminal_width() -> int:
    """Return the columns of the terminal that stdout is, or COLUMNS, within what a table can be laid out for."""
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        return TERMINAL_WIDTH
    return min(WIDEST, max(NARROWEST, shutil.get_terminal_size((TERMINAL_WIDTH, 24)).columns))


def to_terminal(table: Table, width: int | None = None) -> str:
    """Render aligned columns that fit the width; no cell is broken.

    Columns without a value are left out. In a table that is too wide, a column with one value in all rows becomes a
    line above it, and what is still too wide continues below, next to the columns that identify the rows.
    """
    width = width if width is not None else terminal_width()
    table = _select(table, [i for i in range(len(table.columns)) if _has_values(table, i)])
    lines = [table.title]
    if sum(_widths(table)) + len(GAP) * (len(table.columns) - 1) > width and len(table.rows) > 1:
        table, constant = _without_constants(table)
        lines += [_wrapped(f"in all rows: {constant}", width)] if constant else []
    if not _fits_next_to_keys(table, width):
        table = _numbered(table)
    widths = _widths(table)
    blocks = [_block(table, widths, columns) for columns in _fitting(widths, _key_width(table), width)]
    notes = ["\n".join(_wrapped(note, width) for note in table.notes)] if table.notes else []
    return "\n\n".join(["\n".join([*lines, blocks[0]]), *blocks[1:], *notes])


def _texts(table: Table) -> list[list[str]]:
    """Return the head and the rows as texts on one line each."""
    return [list(table.columns), *([" ".join(_text(cell).split()) for cell in row] for row in table.rows)]


def _widths(table: Table) -> list[int]:
    return [max(map(len, column)) for column in zip(*_texts(table), strict=True)]


def _has_values(table: Table, column: int) -> bool:
    return not table.rows or any(row[column] is not None for row in table.rows)


def _select(table: Table, columns: Sequence[int]) -> Table:
    rows = tuple(tuple(row[i] for i in columns) for row in table.rows)
    return replace(table, columns=tuple(table.columns[i] for i in columns), rows=rows)


def _without_constants(table: Table) -> tuple[Table, str]:
    """Return the table without the columns that have one value in all rows, and these as a text.

    Estimates stay, and so does the first column.
    """
    constant = [
        i
        for i in range(1, len(table.columns))
        if not isinstance(table.rows[0][i], Estimate) and len({row[i] for row in table.rows}) == 1
    ]
    text = ", ".join(f"{table.columns[i]} {_text(table.rows[0][i])}" for i in constant)
    return _select(table, [i for i in range(len(table.columns)) if i not in constant]), text


def _fits_next_to_keys(table: Table, width: int) -> bool:
    widths, n_keys = _widths(table), _key_width(table)
    keys = sum(widths[:n_keys]) + len(GAP) * n_keys
    return all(keys + column <= width for column in widths[n_keys:])


def _numbered(table: Table) -> Table:
    """Return the table with a first column that numbers the rows, as a short key of them."""
    rows = tuple((number, *row) for number, row in enumerate(table.rows, 1))
    return replace(table, columns=("#", *table.columns), rows=rows)


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(text, width, subsequent_indent=GAP, break_long_words=False, break_on_hyphens=False)


def _fitting(widths: Sequence[int], n_keys: int, width: int) -> Iterator[list[int]]:
    """Split columns into blocks of at most `width` characters, each with the key columns and at least one other."""
    keys = list(range(n_keys))
    block = list(keys)
    for column in range(n_keys, len(widths)):
        if len(block) > n_keys and sum(widths[i] + len(GAP) for i in (*block, column)) > width + len(GAP):
            yield block
            block = list(keys)
        block.append(column)
    yield block


def _key_width(table: Table) -> int:
    """Return the number of leading columns that identify the rows."""
    for n_keys in range(1, len(table.columns)):
        if len({row[:n_keys] for row in table.rows}) == len(table.rows):
            return n_keys
    return min(1, len(table.columns))


def _block(table: Table, widths: Sequence[int], columns: Sequence[int]) -> str:
    aligns = {i: str.rjust if _is_numeric(table, i) else str.ljust for i in columns}
    lines = [[aligns[i](line[i], widths[i]) for i in columns] for line in _texts(table)]
    ruled = [lines[0], ["-" * widths[i] for i in columns], *lines[1:]]
    return "\n".join(GAP.join(line).rstrip() for line in ruled)


# --- one cell ---------------------------------------------------------------------------------------------------


def _text(cell: Cell) -> str:
    if isinstance(cell, Estimate):
        return _estimate_text(cell)
    if isinstance(cell, float):
        return _number(cell)
    return ABSENT if cell is None else printable(str(cell))


def _estimate_text(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _number(value: float) -> str:
    return f"{value:.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"


def to_plain(table: Table) -> dict[str, Any]:
    """Convert the table to JSON values; an estimate becomes an object."""
    rows = [{name: _plain(cell) for name, cell in zip(table.columns, row, strict=True)} for row in table.rows]
    return {"title": table.title, "columns": list(table.columns), "rows": rows, "notes": list(table.notes)}


def _plain(cell: Cell) -> Any:
    if isinstance(cell, Estimate):
        return {name: _plain(value) for name, value in asdict(cell).items()}
    return cell
