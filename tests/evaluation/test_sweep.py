"""Several models and temperatures in one command: checked first, resumed one by one, reported together."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from official_shapes import write

from harness.cli import main
from harness.core import config as configs
from harness.core.progress import Progress
from harness.core.protocols import Engine
from harness.evaluation.config import EvalConfig
from harness.evaluation.loop import checked_setup, evaluate, evaluate_all
from harness.evaluation.sweep import eval_runs, sweep
from harness.models.loading import BUNDLED
from harness.runs.folder import RunReader

SCRIPTED = ["--tasks", "countdown", "--engine", "scripted", "--set", "engine.replies=['no', 'yes']"]
SMALL = [*SCRIPTED, "--n", "2", "--limit", "3"]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def models(workplace):
    """Create two models with files of their own."""
    for name in ("one", "two"):
        shutil.copytree(BUNDLED / "countdown-tiny", workplace / name)
        (workplace / name / "notes.txt").write_text(name)
    return ["one", "two"]


def status_of(folder):
    return json.loads(Path(folder, "run.json").read_text())["status"]


def bytes_of(folder):
    return {p.name: p.read_bytes() for p in Path(folder).iterdir() if p.name in ("completions.jsonl", "verdicts.jsonl")}


def test_sweep_makes_a_run_for_each_model_and_temperature_and_one_report(models, capsys):
    assert main(["eval", *models, *SMALL, "--temperature", "0.6,1", "--out", "all"]) == 0
    captured = capsys.readouterr()
    names = [f"{model}-T{t}" for model in models for t in ("0.6", "1")]
    assert [path.name for path in sorted(Path("all").iterdir())] == sorted([*names, "report"])
    assert [status_of(f"all/{name}") for name in names] == ["done"] * 4
    rows = Path("all/report/results.csv").read_text()
    assert all(name in rows for name in names)
    assert "report: all/report/report.md" in captured.out
    assert [f"[{i}/4] {name}: eval countdown 6/6" in captured.err for i, name in enumerate(names, 1)] == [True] * 4


def test_sweep_resumes_each_run_and_extends_them_with_more_models(models):
    command = ["eval", *models, *SMALL, "--out", "all", "--quiet"]
    assert main([*command, "--temperature", "0.6"]) == 0
    before = {model: bytes_of(f"all/{model}-T0.6") for model in models}
    (Path("all/two-T0.6") / "completions.jsonl").write_text("")  # as if it had been lost
    assert main([*command, "--temperature", "0.6,1.0"]) == 0
    assert bytes_of("all/one-T0.6") == before["one"]
    lines = (Path("all/two-T0.6") / "completions.jsonl").read_text().splitlines()
    assert len(lines) == 6
    assert status_of("all/two-T1") == "done"


def test_sweep_without_out_uses_the_default_folder_of_each_run(models, capsys):
    assert main(["eval", "one", *SMALL, "--temperature", "0.6", "--quiet", "--dry-run", "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)["folder"]
    assert main(["eval", *models, *SMALL, "--temperature", "1,0.6", "--quiet"]) == 0
    assert status_of(alone) == "done"
    assert len(list(Path("runs").glob("eval-*"))) == 4
    assert len(list(Path("runs").glob("report-*/report.md"))) == 1


def test_models_with_equal_names_are_distinguished_by_folder(workplace, models):
    (workplace / "other").mkdir()
    shutil.copytree("one", "other/one")
    assert main(["eval", "one", "other/one", *SMALL, "--out", "all", "--quiet"]) == 0
    assert {path.name for path in Path("all").iterdir()} == {"one", "other--one", "report"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["three"], "no model is called 'three'"),
        (["two", "--tasks", "countdown,aime42"], "no task is called 'aime42'"),
        (["two", "--temperature", "0.6,-1"], "temperature' must be at least 0 (0 is greedy)"),
        (["two", "--temperature", "0.6,0.60"], "two of the evaluations are the same"),
        (["one"], "two of the evaluations are the same"),
        (["two", "--problem", "no-such"], "no problem is called 'no-such'"),
        (["two", "--limit", "1", "--problem", "0"], "limit and problems exclude each other"),
    ],
)
def test_sweep_runs_nothing_if_one_run_is_impossible(models, capsys, words, message):
    second, *flags = words
    assert main(["eval", "one", second, *SCRIPTED, "--n", "2", "--out", "all", *flags]) == 2
    assert message in capsys.readouterr().err
    assert not Path("all").exists()


def test_a_folder_of_another_config_is_refused_before_anything_runs(models, capsys):
    assert main(["eval", "two", *SMALL, "--seed", "5", "--out", "all/two-T1", "--quiet"]) == 0
    assert main(["eval", *models, *SMALL, "--temperature", "1", "--out", "all"]) == 2
    assert "all/two-T1 belongs to another config" in capsys.readouterr().err
    assert not Path("all/one-T1").exists()


def test_a_run_folder_holds_no_other_runs(models, capsys):
    assert main(["eval", "one", *SMALL, "--out", "run", "--quiet"]) == 0
    assert main(["eval", *models, *SMALL, "--out", "run"]) == 2
    assert "run is a run, and several evaluations need a folder of their own" in capsys.readouterr().err


def test_sweep_selects_problems_by_id_and_by_number(models, capsys):
    assert main(["show", "tasks/countdown", "--problem", "2"]) == 0
    third = capsys.readouterr().out.split()[1]
    assert main(["show", "tasks/countdown", "--problem", third]) == 0
    assert capsys.readouterr().out.split()[1] == third
    assert main(["eval", "one", *SCRIPTED, "--n", "1", "--problem", f"0,{third}", "--out", "run", "--quiet"]) == 0
    asked = [completion.problem_id for _, completion in RunReader.read(Path("run")).completions()]
    assert len(asked) == 2
    assert asked[1] == third
    assert main(["eval", "one", *SCRIPTED, "--n", "1", "--limit", "3", "--out", "run", "--quiet"]) == 0
    more = [completion.problem_id for _, completion in RunReader.read(Path("run")).completions()]
    assert more[:2] == asked
    assert len(more) == 3


class Counting(Engine):
    """An engine that counts how often it is opened and closed."""

    def __init__(self, engine):
        self._engine, self.calls = engine, []

    def open(self, source):
        self.calls.append("open")

    def close(self):
        self.calls.append("close")

    def generate(self, requests):
        asked = list(requests)
        self.calls.append(len(asked))
        return self._engine.generate(asked)


def test_a_model_is_opened_once_for_all_its_tasks_and_temperatures(workplace, models):
    given = {
        "tasks": ["countdown"],
        "engine": {"id": "scripted", "replies": ["a"]},
        "n": 1,
        "limit": 2,
        "metrics": [],
    }
    trees = [configs.merge(given, one) for one in sweep(["one"], [0.0, 1.0])]
    progress = Progress(quiet=True)
    runs = eval_runs(trees, workplace / "all", lambda _: Path())
    setups = [checked_setup(run.config, run.folder, progress) for run in runs]
    engine = Counting(setups[0].engine)
    setups[0] = dataclasses.replace(setups[0], engine=engine)
    assert [done.run.record.status for done in evaluate_all(setups, progress)] == ["done", "done"]
    assert engine.calls == ["open", 2, 2, "close"]


# --- another grader -----------------------------------------------------------------------------------------------


def test_sweep_with_another_grader_regrades_in_place_and_the_report_names_it(workplace, monkeypatch):
    rows = [
        {"problem": f"{n}?", "answer": "3", "subject": "Algebra", "level": 1, "unique_id": f"test/algebra/{n}.json"}
        for n in range(2)
    ]
    write(workplace / "math500/simplerl_math500_test.jsonl", rows)
    monkeypatch.setenv("HARNESS_DATA_DIR", str(workplace))
    tree = {
        "model": {"path": "countdown-tiny"},
        "tasks": ["math500"],
        "engine": {"id": "scripted", "replies": ["\\boxed{3}"]},
        "n": 1,
        "limit": 2,
    }
    pytest.importorskip("math_verify")
    for grader in (None, "legacy_hendrycks"):
        extra = {"per_task": {"math500": {"grader": grader}}} if grader is not None else {}
        config = configs.parse(EvalConfig, configs.merge(tree, extra))
        view = evaluate(config, workplace / "run", Progress(quiet=True))
        assert view.record.data["math500"]["grader"] == (grader if grader is not None else "math")
        assert len(list(view.completions())) == 2
    assert RunReader.read(workplace / "run").graders() == ["math", "legacy_hendrycks"]
