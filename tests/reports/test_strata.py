"""The table of strata: chosen on one half of the samples, shown on the other, for both models."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from harness.cli import main
from harness.reports.report import read_runs
from harness.reports.tables.strata import STRATA, TABLE
from harness.runs.folder import RunReader

N, N_PROBLEMS = 8, 400


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def coins(folder, *more):
    """Evaluate a "model" whose every answer is a fair coin, with a base that is the same model."""
    Path("test.jsonl").write_text(
        "".join(json.dumps({"question": f"{i}?", "answer": "yes"}) + "\n" for i in range(N_PROBLEMS))
    )
    Path("coins.toml").write_text(
        f'tasks = [{{ id = "jsonl", path = "test.jsonl", grader = "exact" }}]\nn = {N}\n'
        'engine = { id = "scripted", pick = "seed", replies = ["yes", "no"] }\n[controls]\nkinds = ["base"]\n'
    )
    base = ["--controls", "countdown-tiny"]
    assert main(["eval", "countdown-tiny", *base, "--config", "coins.toml", "--out", folder, "--quiet", *more]) == 0
    return folder


def rows_of(*folders):
    (table,) = TABLE().build(read_runs([Path(folder) for folder in folders]))
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def outcomes(folder):
    """Return the outcomes by problem, in the order of the samples."""
    found = {}
    for (_, problem, index), verdict in sorted(RunReader.read(Path(folder)).verdicts("exact").items()):
        found.setdefault(problem, {})[index] = verdict.outcome == "correct"
    return {problem: [by_index[i] for i in range(N)] for problem, by_index in found.items()}


def test_luck_that_chose_a_stratum_is_in_no_rate():
    """Every problem has the rate 1/2. The half that chooses has rates from 0 to 1, and the other does not."""
    rows = rows_of(coins("out"))
    assert [row["stratum"] for row in rows] == [*(name for name, _ in STRATA if name != "below 0.2"), "all"]
    for row in rows:
        error = 0.5 / np.sqrt(row["problems"] * N / 2)
        assert row["pass@1, base"].value == pytest.approx(0.5, abs=3.5 * error)
        # The models are the same, and so are their random numbers.
        assert row["pass@1, trained"].value == row["pass@1, base"].value
        assert row["pass@1, difference"].low < 0 < row["pass@1, difference"].high


def test_rates_are_those_of_the_odd_numbered_samples():
    rows = {row["stratum"]: row for row in rows_of(coins("out"))}
    found = outcomes("out/base")
    rates = {problem: np.mean(right[0::2]) for problem, right in found.items()}
    strata = {
        "unsolved": [p for p in found if rates[p] == 0],
        "0.2 to 0.5": [p for p in found if 0.2 <= rates[p] < 0.5],
        "0.5 to 0.8": [p for p in found if 0.5 <= rates[p] < 0.8],
        "0.8 and above": [p for p in found if rates[p] >= 0.8],
        "all": list(found),
    }
    for name, problems in strata.items():
        assert rows[name]["problems"] == len(problems)
        pairs = [any(some) for p in problems for some in itertools.combinations(found[p][1::2], 2)]
        odd = [found[p][1::2] for p in problems]
        assert rows[name]["pass@1, base"].value == pytest.approx(np.mean(odd))
        assert rows[name]["pass@4, base"].value == pytest.approx(np.mean([any(right) for right in odd]))
        assert np.mean(pairs) >= rows[name]["pass@1, base"].value


def test_a_train_run_is_compared_with_an_evaluation_of_its_base():
    small = ["--tasks", "countdown", "--n", "4", "--limit", "16", "--quiet"]
    assert main(["train", "countdown-grpo", "--set", "loop.steps=1", "--out", "t", "--quiet"]) == 0
    assert main(["eval", "t", *small, "--out", "after"]) == 0
    assert main(["eval", "countdown-tiny", *small, "--temperature", "0.5", "--out", "colder"]) == 0
    assert TABLE().build(read_runs([Path("after"), Path("colder")])) == []
    assert main(["eval", "countdown-tiny", *small, "--out", "before"]) == 0
    rows = rows_of("after", "before", "colder")
    assert sum(row["problems"] for row in rows[:-1]) == rows[-1]["problems"] == 16
    failures = rows[-1]["format failures, base"]
    assert 0 <= failures.low <= failures.value <= failures.high
    tokens = [json.loads(line) for line in Path("before/completions.jsonl").read_text().splitlines()]
    verdicts = RunReader.read(Path("before")).verdicts("countdown")
    failed = [
        row["finish_reason"] == "length" or verdicts["countdown", row["problem_id"], row["index"]].extracted is None
        for row in tokens
        if row["index"] % 2
    ]
    assert failures.value == pytest.approx(np.mean(failed))


def test_one_sample_of_each_problem_gives_no_strata():
    assert TABLE().build(read_runs([Path(coins("out", "--n", "1"))])) == []
