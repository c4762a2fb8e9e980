"""Small files of our own in the forms that data sets are published in, and a mirror to put them into."""

from __future__ import annotations

import base64
import csv
import gzip
import json
import pickle
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Rows = Sequence[Mapping[str, Any]]


def write(path: Path, rows: Rows) -> Path:
    """Rows as the file's name says: .jsonl, .json, .csv or .parquet, with .gz or not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    form = path.name.removesuffix(".gz").rpartition(".")[2]
    if form == "parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path, row_group_size=4)
        return path
    open_ = gzip.open if path.suffix == ".gz" else open
    with open_(path, "wt", encoding="utf-8", newline="") as stream:
        if form == "csv":
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        elif form == "json":
            json.dump(list(rows), stream)
        else:
            stream.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def wiki(year: int, contest: str, number: int) -> str:
    """The address of a contest problem: of `AIME_I` or `AMC_12A`."""
    return f"https://artofproblemsolving.com/wiki/index.php/{year}_{contest}_Problems/Problem_{number}"


def verl(problem: str, ground_truth: Any, **more: Any) -> dict[str, Any]:
    """A row in the form that verl trains from."""
    return {
        "data_source": "ours",
        "prompt": [{"content": problem, "role": "user"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": ground_truth, "style": "rule"},
        "extra_info": {"index": "0"},
        **more,
    }


def squeezed(tests: Sequence[Mapping[str, str]], protocol: int = 4) -> str:
    """Private tests as LiveCodeBench publishes most of them."""
    return squeezed_pickle(pickle.dumps(json.dumps(tests), protocol))


def squeezed_pickle(pickled: bytes) -> str:
    return base64.b64encode(zlib.compress(pickled)).decode()


def livecodebench_row(key: str, private: str | None, **changed: Any) -> dict[str, Any]:
    row = {
        "question_title": f"Title of {key}",
        "question_content": f'Do what {key} says. It speaks of "private_test_cases" and of {{problem}}.',
        "platform": "atcoder",
        "question_id": key,
        "contest_id": key[:3],
        "contest_date": "2024-09-01T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": json.dumps([{"input": "1\n", "output": "2\n", "testtype": "stdin"}]),
        "private_test_cases": private,
        "metadata": "{}",
    }
    if private is None:
        del row["private_test_cases"]
    return {**row, **changed}
