"""Write the results of `harness validate --metric` where reports and the page on diversity show them from.

    python tools/make_metric_tests.py [ENCODER]

ENCODER is a sentence-transformers model, tested on several made-up runs; without one the rows of embeddings are kept as
they are. The table of the page is what `page` returns for these rows, as a test checks.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.core.types import Table
from harness.diversity.measures import measures
from harness.diversity.validation import validate_metrics
from harness.reports.tables.diversity_tests import RESULTS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "explanations" / "diversity.md"
BEGIN, END = "<!-- metric tests of embeddings -->\n", "<!-- end -->\n"
N_RUNS = 5
EMBEDDINGS = ("embedding_distance", "vendi_score")


def written(tables: list[Table]) -> None:
    with RESULTS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(tables[0].columns)
        writer.writerows([cell if cell is not None else "" for cell in row] for table in tables for row in table.rows)


def kept() -> Table:
    """Return the rows of embeddings that the file has."""
    with RESULTS.open(encoding="utf-8", newline="") as file:
        columns, *rows = csv.reader(file, delimiter="\t")
    return Table("", tuple(columns), tuple(tuple(row) for row in rows if row[0].startswith(EMBEDDINGS)))


def page(text: str, table: Table) -> str:
    """Return the text of the page with the rows of embeddings between its two marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    lines = [_line(table.columns), _line(["---"] * len(table.columns)), *map(_line, table.rows)]
    return f"{before}{BEGIN}{''.join(lines)}{END}{after}"


def _line(cells: Sequence[object]) -> str:
    return "| " + " | ".join("" if cell is None else str(cell) for cell in cells) + " |\n"


def main(encoder: str | None = None) -> None:
    cheap = validate_metrics([{"id": name} for name in measures(with_models=False)])
    if encoder is not None:
        settings = [{"id": name, "model": encoder} for name in measures(with_models=True)]
        written([cheap, validate_metrics(settings, n_runs=N_RUNS)])
    else:
        written([cheap, kept()])
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), kept()), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
