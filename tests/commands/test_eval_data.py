"""`harness eval` records which rows it read, and reports rows that differ from the expected ones."""

from pathlib import Path

import pytest
from command_output import output, tables
from official_shapes import write

from harness.core import config as configs
from harness.core.types import LoadedData
from harness.data.dataset_facts import MOST_NAMED, describe_mismatch, task_facts
from harness.runs.folder import RunReader

pytestmark = pytest.mark.usefixtures("mirror")
AIME = "aime24/qwen25math_aime24_test.jsonl"


EVAL = ["eval", "countdown-tiny", "--tasks", "aime24", "--n", "1", "--quiet", "--set"]
ENGINE = 'engine={id="scripted", replies=["\\\\boxed{2}"]}'


def test_a_run_records_its_rows_and_warns_that_they_differ(capsys, mirror, tmp_path):
    printed = output(capsys, *EVAL, ENGINE, "--out", "run").err
    assert (
        printed.startswith("warning: ")
        and "30 of the test rows differ from the recorded ones (2024-I-1: altered" in printed
    )
    facts = RunReader.read(tmp_path / "work" / "run").record.data["aime24"]
    task = configs.parse_plugin("tasks", {"id": "aime24"}).build()
    loaded = task.loaded("test")
    assert facts["fingerprint"] == loaded.fingerprint != facts["expected_fingerprint"] == loaded.expected
    assert facts["rows"] == 2
    assert facts["files"] == [str(mirror / AIME)]
    assert facts["differing_rows"] == list(loaded.differing[:MOST_NAMED])


def test_the_report_shows_whether_the_rows_were_the_expected_ones(capsys):
    output(capsys, *EVAL, ENGINE, "--out", "run")
    output(capsys, "report", "run", "--table", "protocol")
    report = Path("report/report.md").read_text()
    assert "| data rows | 2 |" in report
    assert "| data as recorded | 30 of the test rows differ from the recorded ones (2024-I-1: altered; " in report


@pytest.mark.parametrize("strict", [["--strict-data"], ["--set", "strict_data=true"]])
def test_strict_data_refuses_differing_rows_and_writes_nothing(capsys, tmp_path, strict):
    printed = output(capsys, *EVAL, ENGINE, *strict, "--out", "run", code=2).err
    assert "30 of the test rows differ from the recorded ones" in printed
    assert "strict_data refuses such rows" in printed
    assert list((tmp_path / "work").iterdir()) == []


def test_a_run_begun_with_other_rows_is_not_resumed(capsys, mirror):
    output(capsys, *EVAL, ENGINE, "--out", "run")
    path = mirror / AIME
    path.write_text(path.read_text().replace("004", "005"))
    assert "other data" in output(capsys, *EVAL, ENGINE, "--out", "run", code=2).err


def test_only_differing_or_unverified_rows_are_described():
    as_expected = LoadedData("test", 2, "f", "f")
    assert describe_mismatch(as_expected) is None
    assert "unverified" in describe_mismatch(LoadedData("test", 2, "f", ""))
    many = tuple(f"{n}: altered" for n in range(9))
    assert describe_mismatch(LoadedData("test", 2, "f", "g", many)).endswith("(0: altered; 1: altered; 2: altered ...)")


def test_task_without_files_has_no_data_facts():
    task = configs.parse_plugin("tasks", {"id": "countdown"}).build()
    assert "files" not in task_facts(task, "test", grader="countdown", is_strict=True, warn=print)


def test_a_metric_that_does_not_apply_is_absent(capsys, mirror):
    """Nothing is right, and the grader of maths does not identify solutions."""
    (table,) = tables(capsys, *EVAL[:-2], "--set", ENGINE.replace("2}", "9}"), "--out", "run")
    assert table["rows"][0]["avg@1"]["value"] == 0.0
    assert not [name for name in table["columns"] if name.startswith("distinct")]


def test_a_task_without_a_judge_is_refused_before_anything_is_generated(capsys, mirror):
    write(mirror / "simpleqa/simple_qa_test_set.csv", [{"metadata": "{}", "problem": "Who?", "answer": "Ada"}])
    command = ["eval", "countdown-tiny", "--tasks", "simpleqa", "--n", "1", "--quiet", "--out", "run"]
    err = output(capsys, *command, code=2).err
    assert "graded by a judge, and none is named: add --grader judge --set grader.base_url=" in err
    assert not Path("run").exists()
