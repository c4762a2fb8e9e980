"""The Python API: what `import harness` gives, against the commands and the files of the same runs."""

from __future__ import annotations

import ast
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

import harness
from harness.core.config import parse_plugin
from harness.core.errors import RunFolderError, UnknownNameError, UsageError
from harness.core.types import Completion, Tokens, Verdict
from harness.graders.choice import ChoiceGrader
from harness.graders.references.choice import ChoiceReference
from harness.reports.compare import compare
from harness.runs.folder import RunReader, RunWriter

REPLIES = ["no", "\\boxed{1}"]


def evaluated(out: Path, **settings: object) -> harness.Run:
    engine = {"id": "scripted", "replies": settings.pop("replies", REPLIES)}
    return harness.evaluate("countdown-tiny", "countdown", engine=engine, n=2, limit=3, out=out, quiet=True, **settings)


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two evaluations, one of them inside of another folder, a training with a held-out evaluation, and a report."""
    folder = tmp_path_factory.mktemp("runs")
    evaluated(folder / "a")
    evaluated(folder / "demo" / "b", seed=1)
    harness.train(
        "countdown-grpo",
        out=folder / "trained",
        quiet=True,
        settings={
            "loop.steps": 2,
            "loop": {"prompts_per_step": 2, "samples_per_prompt": 4},
            "held_out": {"every_steps": 2, "n": 1, "limit": 2},
            "sampling.max_tokens": 16,
        },
    )
    (folder / "report").mkdir()
    (folder / "notes.txt").write_text("mine")
    return folder


# --- the names --------------------------------------------------------------------------------------------------


def test_the_stub_has_the_names_and_homes_of_the_module() -> None:
    stub = ast.parse(Path(harness.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    found = {
        module: {name.name for n in imports if n.module == module for name in n.names} for module in harness._HOMES
    }
    assert found == {module: set(names) for module, names in harness._HOMES.items()}
    assert sorted(harness.__all__) == sorted(name for names in found.values() for name in names)


def test_every_public_name_exists_and_others_do_not() -> None:
    assert all(getattr(harness, name) is not None for name in harness.__all__)
    assert set(harness.__all__) <= set(dir(harness))
    with pytest.raises(AttributeError, match="'harness' has no attribute 'grad'"):
        harness.grad  # noqa: B018


def test_reading_runs_loads_no_torch(runs_folder: Path) -> None:
    code = (
        "import sys, harness\n"
        f"runs = harness.load_runs({str(runs_folder / '*')!r})\n"
        "frames = runs.completions(), runs.verdicts(), runs.steps(), runs.estimates()\n"
        "assert all(len(frame) for frame in frames)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- grade ------------------------------------------------------------------------------------------------------


def test_a_text_is_graded_against_a_reference() -> None:
    right = harness.grade("So it is \\boxed{0.5}.", reference="\\frac12", grader="math")
    assert (right.outcome, right.reward) == ("correct", 1.0)
    assert harness.grade("\\boxed{2}", reference="\\frac12").outcome == "incorrect"
    assert harness.grade("no end", reference="1", truncated=True).reason == "truncated"


def test_a_grader_takes_options() -> None:
    reply = "\\boxed{62.5\\%}"
    assert harness.grade(reply, reference="0.625").outcome == "incorrect"
    assert harness.grade(reply, reference="0.625", grader={"id": "math", "percent": "either"}).outcome == "correct"


def test_a_reference_of_the_graders_own_type_is_taken() -> None:
    reference = ChoiceReference("B", ("one", "two"))
    ours = harness.grade("Answer: B", reference=reference, grader="choice")
    assert ours == ChoiceGrader().grade(
        harness.Problem("p", "t", (), reference), Completion("p", 0, 0, "Answer: B", "stop", Tokens(0, 0))
    )


def test_a_text_is_graded_for_a_problem_by_id_and_by_number() -> None:
    problem = next(iter(parse_plugin("tasks", "countdown").build().problems("test", 0)))
    assert harness.grade("no", task="countdown", problem=0) == harness.grade("no", task="countdown", problem=problem.id)
    assert harness.grade("no", task="countdown", problem=0).outcome == "incorrect"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, UsageError, "a task and a problem, or a reference"),
        ({"task": "countdown", "reference": "1"}, UsageError, "a task and a problem, or a reference"),
        ({"task": "countdown"}, UsageError, "needs a problem of countdown"),
        ({"task": "countdwn", "problem": 0}, UnknownNameError, "did you mean 'countdown'"),
        ({"task": "countdown", "problem": "tests-0"}, UnknownNameError, "no problem of countdown is called 'tests-0'"),
        ({"task": "countdown", "problem": 0, "split": "train"}, UsageError, "may be endless"),
        ({"reference": "1", "grader": "mth"}, UnknownNameError, "did you mean 'math'"),
        ({"reference": "B", "grader": "choice"}, UsageError, "'choice' can't read the reference 'B'"),
        ({"reference": "", "grader": "math"}, UsageError, "can't read the reference ''"),
    ],
)
def test_grade_refuses(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        harness.grade("x", **arguments)


# --- runs -------------------------------------------------------------------------------------------------------


def test_folders_that_hold_runs_are_searched(runs_folder: Path) -> None:
    runs = harness.load_runs(str(runs_folder / "*"))
    assert [run.id for run in runs] == ["a", "b", "trained", "step-000002"]
    assert [run.kind for run in runs] == ["eval", "eval", "train", "eval"]
    assert {run.status for run in runs} == {"done"}
    assert [run.id for run in harness.load_runs([runs_folder / "a", runs_folder])] == [run.id for run in runs]
    assert runs[0].config["n"] == 2


def test_completions_are_those_of_the_files(runs_folder: Path) -> None:
    frame = harness.load_runs(runs_folder).completions()
    lines = [json.loads(line) for line in (runs_folder / "a" / "completions.jsonl").read_text().splitlines()]
    of_run = frame[frame.run == "a"]
    assert list(of_run.text) == [line["text"] for line in lines]
    assert list(of_run.problem) == [line["problem_id"] for line in lines]
    assert list(of_run.completion_tokens) == [line["tokens"]["n_completion"] for line in lines]
    assert set(frame.run) == {"a", "b", "trained step 2"}


def test_the_last_verdict_of_each_grader_counts(tmp_path: Path) -> None:
    run = evaluated(tmp_path / "run")
    writer = RunWriter.reopen(run.folder, {})
    writer.append_verdict("countdown", "test-0", 0, "other", Verdict("ungraded", None, reason="why"))
    writer.append_verdict("countdown", "test-0", 0, "other", Verdict("correct", 1.0, "1"))
    writer.append_verdict("countdown", "test-0", 1, "other", Verdict("ungraded", None, reason="why"))
    writer.close()
    frame = run.verdicts()
    other = frame[frame.grader == "other"]
    assert list(zip(other["index"], other.outcome, strict=True)) == [(0, "correct"), (1, "ungraded")]
    assert other.reward.iloc[0] == 1.0
    assert math.isnan(other.reward.iloc[1])
    reader = RunReader.read(run.folder)
    assert len(frame) == sum(len(reader.verdicts(grader)) for grader in reader.graders())


def test_steps_and_estimates_are_those_of_the_files(runs_folder: Path) -> None:
    trained = harness.load_runs(runs_folder / "trained")
    steps = trained.steps()
    assert list(steps.step) == [1, 2]
    assert list(steps.reward) == [row["reward"] for row in RunReader.read(runs_folder / "trained").steps()]
    estimates = trained.estimates()
    assert set(estimates.run) == {"trained step 2"}
    assert set(estimates.model) == {"trained step 2"}
    of_run = RunReader.read(trained[1].folder).estimates()["countdown"]
    assert list(zip(estimates.metric, estimates.value, estimates.low, strict=True)) == [
        (e.name, e.value, e.low) for e in of_run
    ]


def test_frames_without_rows_have_their_columns(runs_folder: Path) -> None:
    run = harness.load_runs(runs_folder / "a")
    assert list(run.steps().columns) == ["run", "step"]
    assert len(run.steps()) == 0
    assert "text" in harness.load_runs(runs_folder / "trained")[0].completions().columns


def test_a_run_without_seeds_and_answers_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    evaluated(tmp_path / "a", replies=["1+1=2;2+1=3"])
    evaluated(tmp_path / "b", replies=["no"])  # nothing is extracted
    writer = RunWriter.reopen(tmp_path / "b", {})
    for index in (2, 3):
        cost = Tokens(5, 1, cost_usd=0.25)
        writer.append_completion("countdown", Completion("test-0", index, None, f"text {index}", "stop", cost))
    writer.close()
    runs = harness.load_runs([tmp_path / "a", tmp_path / "b"])
    both, alone = runs.completions(), runs[0].completions()
    assert both[both.run == "a"].text.to_list() == alone.text.to_list()
    assert both.dtypes["text"] == alone.dtypes["text"]
    assert both.index.to_list() == list(range(len(both)))
    assert both.seed.isna().sum() == 2
    assert both.cost_usd.dropna().to_list() == [0.25, 0.25]
    verdicts = runs.verdicts()
    assert set(verdicts[verdicts.run == "a"].extracted.dropna()) == {"1+1=2;2+1=3"}
    assert verdicts.extracted.dtype == runs[0].verdicts().extracted.dtype
    assert verdicts[verdicts.run == "b"].extracted.isna().all()
    assert list(runs[1].verdicts().columns) == list(verdicts.columns)
    assert runs[1].verdicts().extracted.isna().all()


@pytest.mark.parametrize("pattern", ["absent", "absent/*", "report", "notes.txt"])
def test_paths_without_runs_are_refused(runs_folder: Path, pattern: str) -> None:
    with pytest.raises(RunFolderError, match=r"no run\.json|nothing matches"):
        harness.load_runs(str(runs_folder / pattern))


# --- evaluate, compare ------------------------------------------------------------------------------------------


def test_metrics_are_named_as_tables_print_them(tmp_path: Path) -> None:
    run = evaluated(tmp_path / "run", metrics=["pass@2", "tokens"])
    assert {"avg@2", "pass@2", "tokens"} <= set(run.estimates().metric)
    assert "pass@1" not in set(run.estimates().metric)


def test_an_evaluation_is_resumed_and_extended(tmp_path: Path) -> None:
    first = evaluated(tmp_path / "run").completions()
    again = evaluated(tmp_path / "run", settings={"n": 4}).completions()
    assert len(again) == 2 * len(first)


def test_nested_settings_and_settings_with_dots_are_equal(tmp_path: Path) -> None:
    nested = evaluated(tmp_path / "a", settings={"sampling": {"top_p": 0.9, "top_k": 5}})
    dotted = evaluated(tmp_path / "b", settings={"sampling.top_p": 0.9, "sampling.top_k": 5}, temperature=0.5)
    assert nested.config["sampling"] == {"top_p": 0.9, "top_k": 5}
    assert dotted.config["sampling"] == {"top_p": 0.9, "top_k": 5, "temperature": 0.5}


def test_the_comparison_is_that_of_the_command(tmp_path: Path) -> None:
    first = evaluated(tmp_path / "a", replies=["no"])
    second = evaluated(tmp_path / "b", replies=REPLIES)
    frame = harness.compare(first, [second.folder], anyway=True)
    table = compare([first.folder], [second.folder], anyway=True)
    assert list(frame.metric) == [row[table.columns.index("metric")] for row in table.rows]
    estimates = [row[table.columns.index("difference")] for row in table.rows]
    assert list(zip(frame.difference, frame.low, frame.high, strict=True)) == [
        (e.value, e.low, e.high) for e in estimates
    ]
    assert frame.attrs["notes"] == list(table.notes)
    with pytest.raises(UsageError, match="were not evaluated alike"):
        harness.compare(first, second)
