"""A run judged strictly and officially: the report has both numbers, and the problems on which they differ."""

from __future__ import annotations

import csv
import json
import sys

import pytest
from official_shapes import livecodebench_row, write

from harness.cli import main

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is for Linux")

HUB = "livecodebench/code_generation_lite"
# Both read the line; only the strict judge's stdin is a file with lines to iterate over.
REPLIES = ["```python\nprint(input())\n```", "```python\nimport sys\nfor line in sys.stdin: print(line)\n```"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    tests = json.dumps([{"input": "5\n", "output": "5\n", "testtype": "stdin"}])
    rows = [livecodebench_row(f"abc{n}_a", "[]", public_test_cases=tests) for n in range(3)]
    write(tmp_path / HUB / "test.jsonl", rows)
    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path))
    tasks = 'tasks=[{id="livecodebench", release="release_v1"}]'
    asked = ["--engine", "scripted", "--set", tasks, "--set", f"engine.replies={json.dumps(REPLIES)}", "--n", "2"]
    assert main(["eval", "countdown-tiny", *asked, "--out", str(tmp_path / "run"), "--quiet"]) == 0
    return tmp_path / "run"


def table(run):
    out = run.parent / "report"
    assert main(["report", str(run), "--out", str(out)]) == 0
    path = out / "graders.csv"
    return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else None


def test_graders_table_has_both_scores_and_the_problems_graded_differently(run):
    assert table(run) is None
    assert main(["grade", str(run), "--grader", "lcb_official", "--quiet"]) == 0
    own, official = table(run)
    assert [row["grader"] for row in (own, official)] == ["code", "lcb_official"]
    assert (float(own["value"]), float(official["value"])) == (1.0, 0.5)
    assert (own["judged otherwise"], own["problems"]) == ("0", "")
    assert (official["judged otherwise"], official["problems"]) == ("3", "abc0_a abc1_a abc2_a")
    assert (official["graded"], official["ungraded"]) == ("6", "0")
