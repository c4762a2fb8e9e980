"""The train run behind an evaluated checkpoint, where folders were moved, renamed or replaced."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from synthetic_runs import drawn, study, write_eval, write_train

from harness.models.loading import fingerprint
from harness.reports.report import build_tables, read_runs
from harness.reports.run_facts import model_of, trainer_of
from harness.runs import schema
from harness.runs.folder import RunReader

TABLES = ("benchmarks", "cost", "training", "results")
CHECKPOINT = "step-000020"


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A training with a checkpoint and its evaluation, as they are written into `runs` of the current folder."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    train(Path("runs/train"), "weights")
    evaluation(Path("runs/eval"), "runs/train")
    return tmp_path / "project/runs"


def train(folder, weights, **options):
    write_train(folder, objective={"id": "flowrl", **options})
    checkpoint = folder / "checkpoints" / CHECKPOINT
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_text(weights)
    return folder


def evaluation(folder, trainer, *, of=None):
    """Write an evaluation that recorded the checkpoint of a train run, or that run, as its model."""
    model = f"{trainer}/checkpoints/{CHECKPOINT}"
    write_eval(folder, of if of is not None else model, drawn(0.5, 1), tasks={"aime24": 2}, n=2)
    return change(folder, data={**RunReader.read(folder).record.data, "model": fingerprint(model)})


def change(folder, **values):
    record = dataclasses.replace(RunReader.read(folder).record, **values)
    (folder / "run.json").write_text(schema.record_to_json(record))
    return folder


def trainer(folder):
    found = trainer_of(RunReader.read(folder))
    return None if found is None else found.folder


def move(runs, monkeypatch, to="elsewhere/deeper/runs"):
    target = runs.parents[1] / to
    target.parent.mkdir(parents=True)
    shutil.move(runs, target)
    (runs.parents[1] / "other").mkdir()
    monkeypatch.chdir(runs.parents[1] / "other")
    return target


def test_all_tables_of_a_moved_folder_are_those_of_the_first_place(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    study(Path("runs"), n=4, n_seeds=2, tasks={"aime24": 4})
    before = [build_tables(name, read_runs([Path("runs")])) for name in TABLES]
    moved = move(tmp_path / "project/runs", monkeypatch)
    assert [build_tables(name, read_runs([moved])) for name in TABLES] == before
    assert any("flowrl" in str(cell) for table in before[0] for row in table.rows for cell in row)
    assert {
        trainer_of(run).folder.parent for run in read_runs([moved]) if "T0.6" in run.record.id and trainer_of(run)
    } == {moved}


@pytest.mark.parametrize("of", [None, "runs/train"])
def test_a_moved_folder_is_found_from_anywhere(runs, monkeypatch, of):
    evaluation(Path("runs/eval-2"), "runs/train", of=of)
    assert trainer(runs / "eval-2") == runs / "train"
    moved = move(runs, monkeypatch)
    assert trainer(moved / "eval-2") == moved / "train"
    assert model_of(RunReader.read(moved / "eval-2")) == ("train step 20" if of is None else "train")


def test_absolute_paths_of_another_machine_and_other_names_are_found_by_the_checkpoint(runs, monkeypatch):
    evaluation(runs / "absolute", runs / "train")
    moved = move(runs, monkeypatch, "elsewhere/kept")  # not even `runs` any more
    assert trainer(moved / "absolute") == moved / "train" == trainer(moved / "eval")
    (moved / "train").rename(moved / "renamed")
    assert trainer(moved / "absolute") == moved / "renamed" == trainer(moved / "eval")


def test_without_the_checkpoint_the_path_has_to_fit(runs, monkeypatch):
    shutil.rmtree(runs / "train/checkpoints")
    moved = move(runs, monkeypatch)
    assert trainer(moved / "eval") == moved / "train"
    (moved / "train").rename(moved / "renamed")
    assert trainer(moved / "eval") is None
    write_train(moved / "train", objective={"id": "grpo"})
    change(moved / "train", created="2999-01-01T00:00:00+00:00")
    assert trainer(moved / "eval") is None  # it began after the evaluation
    (moved / "train/run.json").write_text("not a record")
    assert trainer(moved / "eval") is None


def test_a_run_with_another_checkpoint_is_not_taken(runs, monkeypatch):
    moved = move(runs, monkeypatch)
    train(Path("runs/train"), "other weights")  # what the recorded path leads to from here
    assert trainer(moved / "eval") == moved / "train"
    shutil.rmtree(moved / "train")
    assert trainer(moved / "eval") is None
    train(moved / "train", "other weights, too")
    assert trainer(moved / "eval") is None


def test_of_two_places_that_the_path_leads_to_none_is_taken(runs, monkeypatch):
    shutil.rmtree(runs / "train/checkpoints")
    moved = move(runs, monkeypatch)
    write_train(Path("runs/train"), objective={"id": "grpo"})
    assert trainer(moved / "eval") is None
    monkeypatch.chdir(moved.parent)  # the folder that the run is below is the one that was meant
    assert trainer(moved / "eval") == moved / "train"


def test_equal_checkpoints_of_different_trainings_name_none(runs, monkeypatch):
    moved = move(runs, monkeypatch)
    (moved / "train").rename(moved / "one")
    train(moved / "two", "weights", beta=1.0)
    assert trainer(moved / "eval") is None
    shutil.rmtree(moved / "two")
    shutil.copytree(moved / "one", moved / "two")
    assert trainer(moved / "eval") in (moved / "one", moved / "two")
