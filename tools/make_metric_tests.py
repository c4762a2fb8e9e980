"""Write the results of `harness validate --metric` into the file that reports show them from.

    python tools/make_metric_tests.py [ENCODER]

ENCODER is a sentence-transformers model; without one the rows of embeddings are kept as they are.
"""

from __future__ import annotations

import csv
import sys

from harness.core.types import Table
from harness.diversity.measures import measures
from harness.diversity.validation import validate_metrics
from harness.reports.tables.diversity_tests import RESULTS


def written(tables: list[Table]) -> None:
    with RESULTS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(tables[0].columns)
        writer.writerows([cell if cell is not None else "" for cell in row] for table in tables for row in table.rows)


def kept() -> Table:
    """Return the rows of embeddings that the file has."""
    with RESULTS.open(encoding="utf-8", newline="") as file:
        columns, *rows = csv.reader(file, delimiter="\t")
    names = ("embedding_distance", "vendi_score")
    return Table("", tuple(columns), tuple(tuple(row) for row in rows if row[0].startswith(names)))


def main(encoder: str | None = None) -> None:
    cheap = validate_metrics([{"id": name} for name in measures(with_models=False)])
    if encoder is None:
        written([cheap, kept()] if RESULTS.exists() else [cheap])
    else:
        written([cheap, validate_metrics([{"id": name, "model": encoder} for name in measures(with_models=True)])])


if __name__ == "__main__":
    main(*sys.argv[1:])
