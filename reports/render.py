"""Render tables as markdown, CSV, LaTeX, JSON, data frames and terminal text. The same table gives the same bytes.

Cells may hold text of models and of foreign files. No control character reaches a file or a terminal, markdown has no
links or HTML of theirs, LaTeX no commands, and no cell of a CSV file is a formula.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

from harness.core.text import printable
from harness.core.types import Estimate, MarkedEstimate, Table

if TYPE_CHECKING:
    import pandas as pd

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
        *(_markdown_line([_markdown_cell(cell) for cell in row], escape=str) for row in table.rows),
    ]
    notes = [line for note in table.notes for line in ("", escape_markdown(note))]
    return "\n".join([*lines, *notes]) + "\n"


def _markdown_cell(cell: Cell) -> str:
    text = escape_markdown(_text(cell))
    if isinstance(cell, MarkedEstimate) and cell.mark == "best":
        value, _, interval = text.partition(" ")
        return f"**{value}** {interval}"
    return text


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
    columns name, value, low, high, n_problems, n_completions, n_ungraded and method, and mark where rows are ranked.
    A row without estimates has one line, in which these are empty.
    """
    held = [i for i in range(len(table.columns)) if any(isinstance(row[i], Estimate) for row in table.rows)]
    plain = [i for i in range(len(table.columns)) if i not in held]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = _estimate_columns(table) if held else ()
    writer.writerow([*(_csv_cell(table.columns[i]) for i in plain), *names])
    for row in table.rows:
        repeated = [_csv_cell(row[i]) for i in plain]
        writer.writerows([*repeated, *line] for line in _estimate_lines(table, row, held, names))
    return text.getvalue()


def _estimate_columns(table: Table) -> tuple[str, ...]:
    is_ranked = any(isinstance(cell, MarkedEstimate) for row in table.rows for cell in row)
    return (*ESTIMATE_COLUMNS, "mark") if is_ranked else ESTIMATE_COLUMNS


def _estimate_lines(table: Table, row: Sequence[Cell], held: Sequence[int], names: Sequence[str]) -> list[list[Any]]:
    if not held:
        return [[]]
    lines = [_estimate_line(table.columns[i], row[i], names) for i in held if row[i] is not None]
    return lines if lines else [[""] * len(names)]


def _estimate_line(column: str, cell: Cell, names: Sequence[str]) -> list[Any]:
    if isinstance(cell, Estimate):
        return [_csv_cell(getattr(cell, name, "")) for name in names]
    return [_csv_cell(column), _csv_cell(cell), *[""] * (len(names) - 2)]


def _csv_cell(cell: Any) -> Any:
    if isinstance(cell, str):
        text = printable(cell.replace("\r\n", "\n").replace("\r", "\n"))
        return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text
    return "" if cell is None else cell


# Spreadsheets compute cells that begin like this; an apostrophe marks them as text.
_FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(inf|nan)|-", re.IGNORECASE | re.ASCII)


# --- LaTeX ------------------------------------------------------------------------------------------------------


def to_latex(table: Table, label: str = "") -> str:
    """Render a table environment for the packages booktabs and graphicx. A table wider than the line is scaled down.

    Any engine compiles it: a character that pdfTeX has no glyph for is written as its code point.
    """
    align = "".join(
        "r" if _is_numeric(table, i) or _has_estimates(table, i) else "l" for i in range(len(table.columns))
    )
    lines = [
        r"% \usepackage{booktabs,graphicx}",
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{escape_latex(table.title)}}}",
        *([rf"\label{{tab:{re.sub('[^A-Za-z0-9-]', '-', label)}}}"] if label else []),
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        _latex_line([escape_latex(column) for column in table.columns]),
        r"\midrule",
        *(_latex_line([_latex_cell(cell) for cell in row]) for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}}",
        *(rf"\par\smallskip{{\footnotesize {escape_latex(note)}}}" for note in table.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _has_estimates(table: Table, column: int) -> bool:
    return any(isinstance(row[column], Estimate) for row in table.rows)


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_cell(cell: Cell) -> str:
    if not isinstance(cell, Estimate):
        return "--" if cell is None else escape_latex(cell if isinstance(cell, str) else _text(cell))
    value, _, interval = _text(cell).partition(" ")
    mark = cell.mark if isinstance(cell, MarkedEstimate) else ""
    interval = escape_latex(interval.removesuffix(_SUFFIXES.get(mark, "")))
    value = rf"\textbf{{{value}}}" if mark == "best" else escape_latex(value)
    return rf"{value}{_LATEX_MARKS.get(mark, '')} {{\scriptsize {interval}}}"


_SUFFIXES = {"tied": " †", "significant": " *"}
_LATEX_MARKS = {"tied": r"$^{\dagger}$", "significant": "$^{*}$"}


def escape_latex(text: str) -> str:
    """Escape a text so that nothing in it is a command, a comment or the end of a cell; join its lines."""
    return "".join(map(_latex_character, printable(" ".join(text.split()))))


def _latex_character(character: str) -> str:
    if character in _LATEX:
        return _LATEX[character]
    if " " <= character <= "~" or (character in _LATIN):
        return character
    return rf"\texttt{{U+{ord(character):04X}}}"


_LATIN = frozenset(map(chr, range(0xC0, 0x100))) - set("ÐÞðþ×÷")
_GREEK = {"α": "alpha", "β": "beta", "γ": "gamma", "ε": "epsilon", "λ": "lambda", "π": "pi", "σ": "sigma", "τ": "tau"}
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    # Brackets after a line break would be an argument, and two signs in a row a ligature.
    **{character: f"{{{character}}}" for character in "[]-`'"},
    **{letter: rf"$\{name}$" for letter, name in _GREEK.items()},
    "±": r"$\pm$",
    "×": r"$\times$",
    "÷": r"$\div$",
    "·": r"$\cdot$",
    "°": r"$^\circ$",
    "−": "$-$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "→": r"$\rightarrow$",
    "‖": r"$\Vert$",
    "†": r"$^{\dagger}$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "’": "'",
    "‘": "`",
    "“": "``",
    "”": "''",
}  # fmt: skip


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
    if not isinstance(estimate, MarkedEstimate):
        return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
    value, low, high = (_shown(x, estimate) for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]{_SUFFIXES.get(estimate.mark, '')}"


def _shown(value: float, estimate: MarkedEstimate) -> str:
    if estimate.in_percent:
        return f"{100 * value:.2f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 1000 else f"{value:.0f}"


def _number(value: float) -> str:
    return f"{value:.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.4g}"


# --- values -----------------------------------------------------------------------------------------------------


def to_json(table: Table) -> str:
    """Render the values of `to_plain` as strict JSON, without the control characters of foreign texts."""
    return json.dumps(_strict(to_plain(table)), indent=1) + "\n"


def _strict(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_frame(table: Table) -> pd.DataFrame:
    """Return the rows as a data frame: an estimate is its value, and its other fields are columns after it.

    Column `avg@16` brings `avg@16.low`, `avg@16.high` and so on. `attrs` holds the title and the notes.
    """
    import pandas as pd

    columns: dict[str, list[Any]] = {}
    for place, name in enumerate(table.columns):
        cells = [row[place] for row in table.rows]
        if not _has_estimates(table, place):
            columns[name] = cells
            continue
        columns[name] = [cell.value if isinstance(cell, Estimate) else cell for cell in cells]
        for part in _estimate_columns(table)[2:]:
            columns[f"{name}.{part}"] = [getattr(cell, part, None) for cell in cells]
    frame = pd.DataFrame(columns)
    frame.attrs = {"title": table.title, "notes": list(table.notes)}
    return frame


def to_plain(table: Table) -> dict[str, Any]:
    """Convert the table to JSON values; an estimate becomes an object."""
    rows = [{name: _plain(cell) for name, cell in zip(table.columns, row, strict=True)} for row in table.rows]
    return {"title": table.title, "columns": list(table.columns), "rows": rows, "notes": list(table.notes)}


def _plain(cell: Cell) -> Any:
    if isinstance(cell, Estimate):
        return {name: _plain(value) for name, value in asdict(cell).items()}
    return cell
