"""The printed numbers of the FlowRL paper: consistent with one another, and next to runs of the same protocol."""

import json
import math
import os
import statistics
from bisect import bisect_left
from pathlib import Path

import pytest
from synthetic_runs import drawn, write_eval, write_train

from harness.cli import main
from harness.core.errors import UnknownNameError
from harness.core.types import Estimate
from harness.reports.claims import claims_tables, read_claims
from harness.reports.report import read_runs

GOLDEN = Path(__file__).parent / "golden" / "claims.md"
CLAIMS = read_claims("flowrl")
MATHS = {"aime24": 30, "aime25": 30, "amc23": 40, "math500": 20, "minerva": 15, "olympiadbench": 25}


def frame(table):
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_all_result_tables_of_the_paper_are_there():
    """Tables 1 (two models), 2, 3, 5, 6 and 7; Table 4 is a case study without numbers."""
    sizes = {table.id: (len(table.rows), len(table.columns)) for table in CLAIMS.tables}
    assert sizes == {
        "table1-32b": (5, 7),
        "table1-7b": (5, 7),
        "table2": (5, 5),
        "table3": (3, 7),
        "table5": (5, 7),
        "table6": (5, 7),
        "table7": (4, 7),
    }
    assert all(len(values) == len(table.columns) for table in CLAIMS.tables for values in table.rows.values())
    assert all(method in CLAIMS.methods for t in CLAIMS.tables for method in t.rows if method[:8] != "combined")


def test_printed_means_are_those_of_the_printed_cells():
    """All 27 rows, to the digit that is cut or rounded."""
    for table in CLAIMS.tables:
        for values in table.rows.values():
            if table.columns[-1] == "mean":
                assert values[-1] == pytest.approx(statistics.fmean(values[:-1]), abs=0.0101)
    (table,) = claims_tables("flowrl")["claims-means"]
    assert len(table.rows) == 27
    assert all(row["agrees"] == "yes" for row in frame(table))


def test_small_sets_are_printed_as_counts_of_samples():
    """Shares of AIME and AMC are whole numbers of samples, of 16 or 64 a problem, cut or rounded to two digits."""
    for table in CLAIMS.tables:
        for column in ("aime24", "aime25", "amc23"):
            if column in table.columns:
                n = CLAIMS.problems[column] * table.n
                for method in table.rows:
                    value = table.value(method, column)
                    count = round(value / 100 * n)
                    assert 100 * count / n == pytest.approx(value, abs=0.0101), (table.id, method, column)


def test_rows_that_are_printed_twice_are_equal():
    by_id = {table.id: table for table in CLAIMS.tables}
    row = by_id["table1-7b"].rows["FlowRL"]
    assert by_id["table3"].rows["FlowRL"] == by_id["table7"].rows["beta 15"] == row


def test_percentiles_are_those_of_the_files_of_ratings():
    counts = CLAIMS.populations["below"]
    (table,) = claims_tables("flowrl")["claims-percentiles"]
    for row in frame(table):
        below = counts[row["rating"]]
        assert row["in the authors' file of 2024"] == round(100 * below[0] / 89352, 1) == row["printed percentile"]
        assert row["agrees"] == "yes"
    folder = Path(os.environ.get("HARNESS_DATA_DIR", "absent"))
    if not (folder / "codeforces" / "ratings_2024.json").is_file():
        pytest.skip("the files of ratings are not in HARNESS_DATA_DIR")
    histogram = json.loads((folder / "codeforces" / "ratings_2024.json").read_text())
    everyone = json.loads((folder / "codeforces" / "codeelo_sorted_ratings.json").read_text())
    assert [sum(histogram.values()), len(everyone)] == CLAIMS.populations["users"]
    for rating, below in counts.items():
        of_2024 = sum(n for one, n in histogram.items() if float(one) < float(rating))
        assert [of_2024, bisect_left(everyone, float(rating))] == below


def test_a_difference_is_resolved_by_its_sample_size():
    rows = {
        (row["table"], row["benchmark"], row["with"]): row
        for row in frame(claims_tables("flowrl")["claims-differences"][0])
    }
    assert len(rows) == 4 * 6 * 4 + 2 * 6 + 3 * 6 + 4 * 3
    aime = rows["table1-7b", "aime24", "GRPO"]  # 74 and 65 of 480: 1.87 points
    error = math.sqrt((0.1541 * 0.8459 + 0.1354 * 0.8646) / 480)
    assert (aime["difference"], aime["right samples"]) == (1.87, "74 / 65")
    assert aime["margin, samples"] == pytest.approx(196 * error, abs=0.006)
    assert aime["margin, problems"] == pytest.approx(196 * error * 4, abs=0.02)
    assert aime["resolved"].startswith("no")
    assert rows["table1-7b", "math500", "GRPO"]["resolved"].startswith("yes")
    assert rows["table1-32b", "aime25", "GRPO"]["resolved"].startswith("not shown")
    passed = rows["table2", "livecodebench pass@16", "PPO"]  # one outcome a problem, so the margins are one
    assert passed["margin, samples"] == passed["margin, problems"]
    assert (passed["right samples"], passed["resolved"][:2]) == ("157 / 152", "no")


def test_headline_gains_are_recomputed():
    rows = {(row["reference"], row["claim"]): row for row in frame(claims_tables("flowrl")["claims-others"][0])}
    assert rows["abstract", "points over GRPO on mathematics, 32B"]["recomputed"] == 10.05
    assert rows["abstract", "points over PPO on mathematics, 32B"]["recomputed"] == 5.14


def test_the_page_without_runs_is_as_in_its_golden_file(tmp_path):
    assert main(["report", "--claims", "flowrl", "--out", str(tmp_path / "claims")]) == 0
    assert (tmp_path / "claims" / "report.md").read_bytes() == GOLDEN.read_bytes()
    assert (tmp_path / "claims" / "claims-differences.csv").exists()


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours")
    model = "models/Qwen2.5-7B"
    trained = write_train(folder / "train", objective={"id": "flowrl", "beta": 15.0}, model=model)
    other = write_train(folder / "other", objective={"id": "flowrl", "beta": 5.0}, model="models/Qwen2.5-7B-Instruct")
    found = [write_eval(folder / "eval", str(trained), drawn(0.4, 1), tasks=MATHS, n=16)]
    found.append(write_eval(folder / "elsewhere", str(other), drawn(0.4, 1), tasks=MATHS, n=16))
    found.append(write_eval(folder / "short", model, drawn(0.2, 1), tasks=MATHS, n=4))
    return read_runs(found)


def test_ours_is_next_to_a_row_of_the_same_model_method_and_protocol(ours):
    tables = {table_id: table for table_id, (table,) in claims_tables("flowrl", ours).items()}
    shown = {table_id: [row[0] for row in table.rows if row[1] == "ours"] for table_id, table in tables.items()}
    assert {table_id: rows for table_id, rows in shown.items() if rows} == {
        "claims-table1-7b": ["FlowRL"],
        "claims-table3": ["FlowRL"],
        "claims-table7": ["beta 15"],
    }
    table = tables["claims-table1-7b"]
    (row,) = [row for row in frame(table) if row["source"] == "ours"]
    verdicts = [json.loads(line) for line in (ours[0].folder / "verdicts.jsonl").read_text().splitlines()]
    means = {}
    for task in MATHS:
        means[task] = statistics.fmean(v["outcome"] == "correct" for v in verdicts if v["task"] == task)
        assert isinstance(row[task], Estimate) and row[task].value == pytest.approx(means[task])
    assert row["mean"].value == pytest.approx(statistics.fmean(means.values()))
    assert any(
        "FlowRL: ours are eval (aime24 by math, prompt boxed" in note for note in tables["claims-table1-7b"].notes
    )


def test_unknown_papers_and_tables_next_to_claims_are_refused(tmp_path, capsys):
    with pytest.raises(UnknownNameError, match="flowrl"):
        read_claims("flowlr")
    out = ["--out", str(tmp_path / "no")]
    assert main(["report", "--claims", "flowlr", *out]) == 2
    assert main(["report", "--claims", "flowrl", "--table", "results", *out]) == 2
    assert main(["report", *out]) == 2
    assert "no run is given" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
