"""Render tables as markdown, CSV, terminal text and JSON values. The same table gives the same bytes."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from typing import Any

from harness.core.types import Estimate, Table

Cell = str | int | float | Estimate | None
ABSENT = "-"
TERMINAL_WIDTH = 120
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
    """Escape a text so that nothing in it ends a cell or is markup or HTML; join its lines."""
    for special in "\\|`*<":
        text = text.replace(special, "\\" + special)
    return " ".join(text.splitlines()) if "\n" in text or "\r" in text else text


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
    writer.writerow([*(table.columns[i] for i in plain), *(ESTIMATE_COLUMNS if held else ())])
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
    return [column, _csv_cell(cell), *[""] * (len(ESTIMATE_COLUMNS) - 2)]


def _csv_cell(cell: Any) -> Any:
    if isinstance(cell, str):
        return cell.replace("\r\n", "\n").replace("\r", "\n")  # the csv module does not quote a lone carriage return
    return "" if cell is None else cell


# --- plain text -------------------------------------------------------------------------------------------------


def to_terminal(table: Table, width: int = TERMINAL_WIDTH) -> str:
    """Render aligned columns. Columns beyond the width continue below, next to those that identify the rows."""
    texts = [list(table.columns), *([" ".join(_text(cell).split()) for cell in row] for row in table.rows)]
    widths = [max(len(line[i]) for line in texts) for i in range(len(table.columns))]
    blocks = [_block(table, texts, widths, columns) for columns in _fitting(widths, _key_width(table), width)]
    notes = ["\n".join(table.notes)] if table.notes else []
    return "\n\n".join([f"{table.title}\n{blocks[0]}", *blocks[1:], *notes])


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


def _block(table: Table, texts: Sequence[Sequence[str]], widths: Sequence[int], columns: Sequence[int]) -> str:
    aligns = {i: str.rjust if _is_numeric(table, i) else str.ljust for i in columns}
    lines = [[aligns[i](line[i], widths[i]) for i in columns] for line in texts]
    ruled = [lines[0], ["-" * widths[i] for i in columns], *lines[1:]]
    return "\n".join(GAP.join(line).rstrip() for line in ruled)


# --- one cell ---------------------------------------------------------------------------------------------------


def _text(cell: Cell) -> str:
    if isinstance(cell, Estimate):
        return _estimate_text(cell)
    if isinstance(cell, float):
        return _number(cell)
    return ABSENT if cell is None else str(cell)


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
