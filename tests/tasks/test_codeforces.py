"""CodeForces: which problems tests can decide, how outputs are compared, and what the tests cover."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from official_shapes import write

from harness.cli import main
from harness.core import config as configs
from harness.data.dataset_facts import task_facts
from harness.tasks import codeforces
from harness.tasks.codeforces.exclusions import EXCLUSIONS, INTERACTIVE, SEVERAL

DATA = os.environ.get("HARNESS_DATA_DIR")
needs_data = pytest.mark.skipif(DATA is None, reason="HARNESS_DATA_DIR does not say where the data is")
SAMPLES = Path(DATA if DATA is not None else "", "codeforces/rllm_codeforces_test.json")


def problems(**options):
    task = configs.parse_plugin("tasks", {"id": "codeforces", **options}).build()
    return {problem.id: problem for problem in task.problems("test", 0)}


def test_excluded_codeforces_problems_are_listed_without_data(capsys):
    assert main(["show", "codeforces"]) == 0
    told = capsys.readouterr().out
    for reason, n in ((INTERACTIVE, 17), (SEVERAL, 49)):
        (line,) = [line for line in told.splitlines() if line.strip().startswith(reason)]
        ids = line.partition(": ")[2].split()
        assert len(ids) == n
        assert {EXCLUSIONS[key] for key in ids} == {reason}


@needs_data
def test_excluded_codeforces_problems_are_left_out_and_their_statements_agree():
    asked, everything = problems(), problems(undecided="judged")
    assert (len(asked), len(everything)) == (342, 408)
    assert {problem.reference.excluded_because for problem in everything.values()} == {None}
    assert everything.keys() - asked.keys() == EXCLUSIONS.keys()
    said = {key: problem.messages[-1].content for key, problem in everything.items()}
    assert {key for key, text in said.items() if "is an interactive problem" in text} <= {
        key for key, reason in EXCLUSIONS.items() if reason == INTERACTIVE
    }
    any_of_them = re.compile(r"(?:print|output) any (?:of them|suitable)|any of them\.", re.IGNORECASE)
    assert {key for key, text in said.items() if any_of_them.search(text)} - EXCLUSIONS.keys() == set()


@needs_data
def test_codeforces_outputs_are_compared_as_the_statement_requires():
    found = {key: (problem.reference.comparison, problem.reference.tolerance) for key, problem in problems().items()}
    assert {key: rule for key, rule in found.items() if rule[0] == "floats"} == {
        "2023D": ("floats", 1e-6),
        "2024F": ("floats", 1e-6),
    }
    assert found["1980B"] == found["2021C1"] == found["1991H"] == ("words", 0.0)  # MAYBE, YA, Alice
    assert found["1971A"] == ("tokens", 0.0)
    assert {p.reference.time_limit_s is None for p in problems().values()} == {False}
    assert {p.reference.memory_limit_bytes is None for p in problems().values()} == {False}


@needs_data
def test_run_record_has_the_coverage_of_tests_and_the_exclusions():
    task = configs.parse_plugin("tasks", "codeforces").build()
    facts = task_facts(task, "test", grader="code", is_strict=True, warn=print)
    assert facts["tests"] == "samples: 342 problems"
    assert facts["undecided"].startswith("interactive: 17 (1973D 1977E")
    assert "; several outputs may be right, and there is no checker: 49 (1971B " in facts["undecided"]


@needs_data
def test_checker_grades_problems_with_several_answers_but_not_interactive_ones(tmp_path):
    def judged(key, **more):
        row = {"id": key, "rating": 1200, "tags": [], "time_limit": 2.0, "memory_limit": 256.0}
        tests = [{"input": "1", "output": "1"}]
        plain = {"interaction_format": None, "official_tests_complete": False, "generated_checker": None}
        return {**row, **plain, "official_tests": tests, **more}

    table = write(
        tmp_path / "test-00000-of-00001.parquet",
        [
            judged("1971/B", generated_checker="print(1)"),
            judged("1972/E", official_tests_complete=True),
            judged("1973/D", generated_checker="print(1)"),
            judged("1971/A", official_tests_complete=True),
            judged("1971/C", interaction_format="Ask."),
        ],
    )
    generated = write(tmp_path / "test_cases_1971.parquet", [{"problem_id": "1971/A", "input": "7", "output": "8"}])
    rows = {row.id: row for row in codeforces.judged_rows({"1971": generated}, SAMPLES, table)}
    references = {key: row.more for key, row in rows.items()}
    found = {key: references[key].excluded_because for key in ("1971B", "1972E", "1973D", "1971A", "1971C")}
    assert found == {"1971B": None, "1972E": SEVERAL, "1973D": INTERACTIVE, "1971A": None, "1971C": INTERACTIVE}
    assert references["1971B"].checker == "print(1)"
    assert references["1971A"].coverage == "samples and all official tests, and generated ones"
    assert references["1972E"].coverage == "samples and all official tests"
    assert references["1973D"].coverage == "samples and the official tests that the site shows"
    assert references["2036A"].coverage == "samples"
    assert [test.origin for test in references["1971A"].tests.read()][-2:] == ["official", "generated"]
    assert (rows["1971A"].tags["rating"], "rating" in rows["2036A"].tags) == ("1200", False)


@needs_data
def test_report_shows_test_coverage_and_exclusions(tmp_path, capsys):
    replies = json.dumps(["```python\npass\n```"])
    run = [
        "eval",
        "countdown-tiny",
        "--tasks",
        "codeforces",
        "--engine",
        "scripted",
        "--set",
        f"engine.replies={replies}",
    ]
    assert main([*run, "--n", "1", "--limit", "1", "--quiet", "--out", str(tmp_path / "run")]) == 0
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.md").read_text()
    assert "samples: 342 problems" in page
    assert "left out, as its tests can't decide" in page
