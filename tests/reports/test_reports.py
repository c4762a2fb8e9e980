"""Rendering and reports, over run folders that RunWriter wrote."""

import dataclasses
import io
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from altered_runs import change_record, replace_text

from harness.core.errors import RunFolderError, UnknownNameError, UsageError
from harness.core.types import Estimate, Table, Verdict
from harness.reports import render
from harness.reports.render import to_csv, to_markdown, to_plain, to_terminal
from harness.reports.report import read_runs, tables_of, write_report
from harness.reports.run_facts import without_repeats
from harness.runs.folder import RunIdentity, RunReader, RunWriter

AVG = Estimate("avg@16", 0.79253, 0.75149, 0.83151, 30, 480, 2, "95% bootstrap over 30 problems")
PASS = Estimate("pass@16", 0.1 + 0.2, 1 / 3, 2 / 3, 30, 480, 2, 'said "so", by Wilson | over\nproblems')
TABLE = Table(
    "A | title",
    ("run", "n", "temperature", "avg@16", "pass@16"),
    (
        ("a|b,c", 16, 0.6, AVG, PASS),
        ("back\\slash", 4, 1.0, None, PASS),
        ("nothing", None, None, None, None),
        ("<b>*x*", 1, 1e-7, None, None),
    ),
    ("a note | with a pipe",),
)


@dataclass(frozen=True)
class Model:
    path: str


@dataclass(frozen=True)
class Sampling:
    temperature: float | None = None
    max_tokens: int | None = 64


@dataclass(frozen=True)
class EvalConfig:
    model: Model
    tasks: Any = field(default_factory=lambda: ["sums"])
    engine: Any = field(default_factory=lambda: {"id": "scripted", "pick": "seed"})
    sampling: Sampling = Sampling()
    split: str = "test"
    n: int = 16
    limit: int | None = None
    seed: int = 0
    preset: str | None = None
    deviations: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainConfig:
    model: Model = Model("tiny")
    task: Any = field(default_factory=lambda: {"id": "sums"})
    objective: Any = field(default_factory=lambda: {"id": "flowrl", "beta": 0.6})
    loop: Any = field(default_factory=lambda: {"steps": 20})
    seed: int = 4


def make_eval(folder, *, model="tiny", estimates=None, status="done", data=None, **config):
    record = {"sums": {"fingerprint": "f00d", "source": "made up"}, "model": {"name": model, "fingerprint": "beef"}}
    config, data = EvalConfig(Model(model), **config), record if data is None else data
    store = RunWriter.open(folder, RunIdentity.of("eval", config, seeds={"run": 0}, data=data))
    store.append_verdict("sums", "p", 0, "exact", Verdict("correct", 1.0))
    if estimates is None or estimates:
        store.write_metrics({"sums": [AVG, PASS]} if estimates is None else estimates)
    store.finish(status, "OSError: cable | cut\nsecond line" if status == "failed" else None)
    return folder


def make_train(folder, *, n_steps=12, rows=None, status="done"):
    data = {"sums": {"fingerprint": "f00d"}}
    store = RunWriter.open(folder, RunIdentity.of("train", TrainConfig(), seeds={"run": 4}, data=data))
    for step in range(1, n_steps + 1):
        row = {"step": step, "reward": step / 10, "solve_rate": step / 20, "n_tokens": 100, "wall_s": 0.5}
        store.append_step({**row, "n_ungraded": 1} if rows is None else {"step": step, **rows})
    store.finish("done")
    change_record(folder, status=status)  # as a kill leaves it
    return folder


def cells(table, row=0):
    return dict(zip(table.columns, table.rows[row], strict=True))


def read_csv(text):
    return pd.read_csv(io.StringIO(text), engine="python")  # which reads floats as Python does


def test_a_run_is_running_as_long_as_a_process_holds_it(tmp_path):
    folder = tmp_path / "a"
    store = RunWriter.open(folder, RunIdentity.of("eval", EvalConfig(Model("tiny")), seeds={}, data={}))
    page = write_report([folder], tmp_path / "held").markdown.read_text()
    assert "**UNFINISHED: a is still running**" in page
    assert "| RUNNING |" in page
    os.close(store._lock)  # as a kill does
    page = write_report([folder], tmp_path / "let go").markdown.read_text()
    assert "**UNFINISHED: a was killed;" in page
    assert "| INTERRUPTED |" in page


def test_results_name_deviations_from_the_preset(tmp_path):
    as_published = make_eval(tmp_path / "as published", preset="flowrl")
    other = make_eval(tmp_path / "other", preset="flowrl", deviations=("n 4, preset flowrl says 16", "sums: odd"))
    page = write_report([as_published, other], tmp_path / "report", ["results", "protocol"]).markdown.read_text()
    assert page.count("DEVIATES") == 1
    assert "DEVIATES: other from preset flowrl: n 4, preset flowrl says 16; sums: odd." in page
    assert "| deviations | differs | - | n 4, preset flowrl says 16; sums: odd |" in page


# --- rendering --------------------------------------------------------------------------------------------------


def test_markdown_escapes_characters_that_end_a_cell():
    lines = to_markdown(TABLE).splitlines()
    assert lines[0] == "## A \\| title"
    rows = [line for line in lines if line.startswith("|")]
    unescaped = [line.replace("\\\\", "").replace("\\|", "").count("|") for line in rows]
    assert unescaped == [6] * 6
    assert rows[1] == "| --- | ---: | ---: | --- | --- |"
    assert rows[2] == "| a\\|b,c | 16 | 0.6 | 0.793 [0.751, 0.832] | 0.300 [0.333, 0.667] |"
    assert rows[3] == "| back\\\\slash | 4 | 1 | - | 0.300 [0.333, 0.667] |"
    assert rows[4] == "| nothing | - | - | - | - |"
    assert rows[5] == "| \\<b>\\*x\\* | 1 | 1e-07 | - | - |"
    assert lines[-1] == "a note \\| with a pipe"


def test_a_line_break_does_not_end_a_markdown_row():
    assert "| a b |" in to_markdown(Table("t", ("c",), (("a\nb",),)))


def test_csv_gives_back_the_same_values():
    frame = read_csv(to_csv(TABLE))
    assert list(frame.columns) == ["run", "n", "temperature", *(f.name for f in dataclasses.fields(Estimate))]
    assert list(frame["run"]) == ["a|b,c", "a|b,c", "back\\slash", "nothing", "<b>*x*"]
    for row, estimate in ((0, AVG), (1, PASS), (2, PASS)):
        assert {name: frame[name][row] for name in dataclasses.asdict(estimate)} == dataclasses.asdict(estimate)
    assert list(frame["temperature"][:3]) == [0.6, 0.6, 1.0]
    assert frame.loc[3].drop("run").isna().all()


def test_csv_of_a_table_without_estimates_is_as_wide_as_the_table():
    table = Table("t", ("name", "x"), (("a\r\nb\rc", 1 / 3), ("d", None)))
    assert to_csv(table) == 'name,x\n"a\nb\nc",0.3333333333333333\nd,\n'


def test_a_plain_number_among_estimates_keeps_its_column_name():
    frame = read_csv(to_csv(Table("t", ("run", "avg"), (("a", AVG), ("b", 0.25)))))
    assert list(frame["name"]) == ["avg@16", "avg"]
    assert frame["value"][1] == 0.25


def test_the_terminal_table_is_aligned():
    table = Table("Title", ("run", "n"), (("long name", 4), ("b", 16)), ("note", "another"))
    assert to_terminal(Table("t", ("n", "s"), ((4, "ab"), (5, "a")))).splitlines()[-1] == "5  a"
    assert to_terminal(table).splitlines() == [
        "Title",
        "run         n",
        "---------  --",
        "long name   4",
        "b          16",
        "",
        "note",
        "another",
    ]


def test_a_wide_terminal_table_continues_below_with_the_identifying_columns():
    names = tuple(f"pass@{2**i}" for i in range(9))
    rows = tuple(("a", task, *[AVG] * 9) for task in ("sums", "products"))
    text = to_terminal(Table("Wide", ("run", "task", *names), rows), width=120)
    assert max(map(len, text.splitlines())) <= 120
    assert [line.split() for line in text.splitlines() if line.startswith("run")] == [
        ["run", "task", *names[:4]],
        ["run", "task", *names[4:8]],
        ["run", "task", *names[8:]],
    ]
    assert text.count("0.793 [0.751, 0.832]") == 18


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
@pytest.mark.parametrize("n_rows", [1, 2, 5])
def test_a_terminal_table_fits_and_no_cell_is_broken(width, n_rows):
    columns = ("run", "model", "split", "objective", "temperature", "n", *(f"pass@{2**i}" for i in range(6)))
    rows = tuple(
        (f"run-{i}", f"models/of-some-{'long-' * (i % 3)}name", "test", None, 0.6 + i, 16, *[AVG] * 6)
        for i in range(n_rows)
    )
    text = to_terminal(Table("Wide", columns, rows, ("a note " * 30,)), width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("0.793 [0.751, 0.832]") == 6 * n_rows
    assert all(str(row[1]) in text.split() and f"{row[4]:.4g}" in text.split() for row in rows)
    assert "objective" not in text
    is_folded = n_rows > 1 and width < 200
    assert ("in all rows: split test, n 16" in text) == is_folded


def test_a_table_that_fits_keeps_its_columns_and_keys_too_wide_become_numbers():
    rows = (("a", "test", 1.0), ("b", "test", 2.0))
    assert "in all rows" not in to_terminal(Table("T", ("run", "split", "x"), rows), 60)
    long = tuple((f"{'x' * 50}{i}", "y" * 30, AVG) for i in range(2))
    text = to_terminal(Table("T", ("run", "what", "avg"), long), 60)
    assert [line.split() for line in text.splitlines() if line.startswith("#")] == [["#", "run"], ["#", "avg"]]
    assert "in all rows: what " + "y" * 30 in text


def test_the_width_is_that_of_the_terminal_within_limits(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert render.terminal_width() == render.TERMINAL_WIDTH
    for columns, width in (("20", 60), ("75", 75), ("400", 200)):
        monkeypatch.setenv("COLUMNS", columns)
        assert render.terminal_width() == width


def test_no_output_is_coloured():
    """No table and no progress line holds an escape sequence, so NO_COLOR has nothing to switch off.

    The live table of a study moves the cursor of a terminal up and clears what is below, without colour.
    """
    root = Path(__file__).resolve().parents[2]
    sources = [path for folder in ("harness", "reports", "trainers", "tasks") for path in (root / folder).rglob("*.py")]
    escapes = re.compile(r"\\(?:x1b|033)\[(?:\{[^}]*\}|[\d;])*[A-Za-z]?")
    found = {path.relative_to(root).as_posix(): escapes.findall(path.read_text()) for path in sources}
    assert {name: sequences for name, sequences in found.items() if sequences} == {
        "harness/study/live.py": [r"\x1b[{self._n_lines}A", r"\x1b[J"]
    }


def test_a_number_is_shown_under_one_name():
    def estimate(name, value, n_problems=10):
        return dataclasses.replace(AVG, name=name, value=value, n_problems=n_problems)

    avg, others = estimate("avg@16", 0.25), [estimate("pass@2", 0.25), estimate("distinct@4", 1.25)]
    repeats = [estimate(name, 0.25 + 1e-17) for name in ("pass@1", "distinct@1", "maj@1", "g-pass(tau=0.5)@1")]
    assert without_repeats([repeats[0], avg, *repeats[1:], *others]) == [avg, *others]
    assert without_repeats([*repeats, *others]) == [repeats[0], *others]
    different = [avg, estimate("pass@1", 0.2), estimate("maj@1", 0.25, n_problems=9)]
    assert without_repeats(different) == different


def test_report_values_are_strict_json():
    plain = to_plain(TABLE)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["rows"][0]["avg@16"]["value"] == AVG.value
    assert plain["rows"][3]["avg@16"] is None
    assert plain["rows"][2]["n"] is None


# --- tables -----------------------------------------------------------------------------------------------------


def test_results_has_a_row_for_each_run_and_task(tmp_path):
    pass_4 = dataclasses.replace(PASS, name="pass@4")
    first = make_eval(tmp_path / "a", estimates={"sums": [AVG, pass_4, PASS]})
    second = make_eval(
        tmp_path / "b",
        model="owner/other",
        tasks=[{"id": "sums", "hard": True}, {"id": "products"}],
        sampling=Sampling(0.6),
        n=4,
        estimates={"products": [dataclasses.replace(AVG, name="avg@4"), pass_4], "sums": []},
    )
    (table,) = tables_of([first, second], ["results"])
    assert table.columns[:7] == ("run", "model", "objective", "task", "split", "n", "temperature")
    assert table.columns[7:] == ("avg@4", "avg@16", "pass@4", "pass@16")
    assert table.rows[0] == ("a", "tiny", None, "sums", "test", 16, "task's own", None, AVG, pass_4, PASS)
    assert table.rows[1][:7] == ("b", "owner/other", None, "sums", "test", 4, 0.6)
    assert table.rows[1][7:] == (None,) * 4
    assert cells(table, 2)["task"] == "products"
    assert cells(table, 2)["avg@4"].value == AVG.value
    assert any("UNGRADED: 2 completions of a on sums" in note for note in table.notes)
    assert sum("UNGRADED" in note for note in table.notes) == 2  # of a on sums, and of b on products
    assert not any("UNFINISHED" in note for note in table.notes)


def test_results_note_the_detectable_difference(tmp_path):
    (table,) = tables_of([make_eval(tmp_path / "a"), make_eval(tmp_path / "b")], ["results"])
    # A standard error is half the interval over 1.96; two runs have that twice, in quadrature; 1.96 + 0.8416 of it.
    expected = (0.83151 - 0.75149) / 2 / 1.96 * 2**0.5 * (1.96 + 0.8416)
    assert table.notes[-1].endswith(f"finds smaller ones): a on sums {expected:.3f}; b on sums {expected:.3f}.")
    one = dataclasses.replace(AVG, n_problems=1)
    (table,) = tables_of([make_eval(tmp_path / "c", estimates={"sums": [one, PASS]})], ["results"])
    assert not any("Detectable" in note for note in table.notes)


def test_results_show_the_recorded_default_temperature(tmp_path):
    data = {"sums": {"fingerprint": "f", "sampling": {"temperature": 0.7}}}
    assert cells(tables_of([make_eval(tmp_path / "a", data=data)], ["results"])[0])["temperature"] == 0.7


def test_absent_settings_are_shown_as_empty(tmp_path):
    folder = make_eval(tmp_path / "a")
    replace_text(folder, "config.toml", "tasks = ['sums']\n")
    row = cells(tables_of([folder], ["results"])[0])
    assert (row["model"], row["split"], row["n"], row["task"]) == (None, None, None, "sums")
    assert tables_of([folder], ["protocol"])


def test_a_model_from_a_train_run_brings_its_objective(tmp_path):
    trained = make_train(tmp_path / "train-x")
    runs = [
        make_eval(tmp_path / "of-run", model=str(trained)),
        make_eval(tmp_path / "of-checkpoint", model=str(trained / "checkpoints" / "step-000012")),
    ]
    (table,) = tables_of(runs, ["results"])
    assert [(cells(table, i)["model"], cells(table, i)["objective"]) for i in range(2)] == [
        ("train-x", "flowrl"),
        ("train-x step 12", "flowrl"),
    ]


def test_held_out_evaluations_come_with_their_train_run(tmp_path):
    trained = make_train(tmp_path / "train-x")
    for step in (20, 5):
        make_eval(trained / "evals" / f"step-{step:06d}", model=str(trained / "checkpoints" / f"step-{step:06d}"))
    runs = read_runs([trained, trained / "evals" / "step-000005"])
    assert [run.record.id for run in runs] == ["train-x", "step-000005", "step-000020"]
    (table,) = tables_of([trained], ["results"])
    assert [row[:3] for row in table.rows] == [
        ("train-x step 5", "train-x step 5", "flowrl"),
        ("train-x step 20", "train-x step 20", "flowrl"),
    ]


def test_runs_of_one_name_get_different_labels(tmp_path):
    folders = [make_eval(tmp_path / parent / "same") for parent in ("x", "y")]
    folders += [make_eval(tmp_path / "x" / "other"), *(make_eval(tmp_path / i / "z" / "deep") for i in "12")]
    (table,) = tables_of(folders, ["results"])
    assert [row[0] for row in table.rows] == [
        "x/same",
        "y/same",
        "other",
        "1/z/deep",
        "2/z/deep",
    ]


def test_protocol_table_has_equal_settings_once_and_differing_ones_by_run(tmp_path):
    folders = [make_eval(tmp_path / "a"), make_eval(tmp_path / "b", sampling=Sampling(0.6), model="big")]
    (table,) = tables_of(folders, ["protocol"])
    assert table.title == "Protocol: sums"
    assert table.columns == ("setting", "all runs", "a", "b")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["temperature"] == ("differs", "task's own", 0.6)
    assert rows["model"] == ("differs", "tiny", "big")
    assert rows["max tokens"] == (64, "", "")
    assert rows["grader"] == ("exact", "", "")
    assert rows["engine"] == ("scripted (pick=seed)", "", "")
    assert rows["data fingerprint"] == ("f00d", "", "")
    assert rows["problems graded"] == (30, "", "")
    assert rows["licence"] == (None, "", "")
    assert rows["torch"][0] == RunReader.read(folders[0]).record.environment["torch"]


def test_the_protocol_of_equal_runs_has_one_column_and_each_task_a_table(tmp_path):
    tasks = ["sums", {"id": "products", "digits": 3}]
    tables = tables_of([make_eval(tmp_path / name, tasks=tasks) for name in "ab"], ["protocol"])
    assert [table.title for table in tables] == ["Protocol: sums", "Protocol: products"]
    assert all(table.columns == ("setting", "all runs") for table in tables)
    assert dict(tables[1].rows)["task options"] == "digits=3"


def test_a_run_stands_in_the_tables_of_its_own_tasks(tmp_path):
    folders = [make_eval(tmp_path / "a"), make_eval(tmp_path / "b", tasks=["products"], estimates={"extra": [AVG]})]
    tables = tables_of(folders, ["protocol"])
    assert [table.title for table in tables] == [f"Protocol: {task}" for task in ("sums", "products", "extra")]
    assert all(table.columns == ("setting", "all runs") for table in tables)
    (results,) = tables_of(folders, ["results"])
    assert [(row[0], row[3]) for row in results.rows] == [("a", "sums"), ("b", "products"), ("b", "extra")]


def test_the_training_table_shows_progress_and_final_rewards(tmp_path):
    (table,) = tables_of([make_train(tmp_path / "t")], ["training"])
    row = cells(table)
    assert (row["run"], row["objective"], row["objective settings"], row["task"]) == ("t", "flowrl", "beta=0.6", "sums")
    assert (row["steps done"], row["steps asked"], row["seed"], row["status"]) == (12, 20, 4, "done")
    assert row["final reward"] == pytest.approx(1.2)
    assert row["reward, last 10"] == pytest.approx(0.75)  # of steps 3 to 12
    assert row["solve rate, last 10"] == pytest.approx(0.375)
    assert (row["tokens"], row["wall seconds"], row["ungraded"]) == (1200, 6.0, 12)


@pytest.mark.parametrize("options", [{"n_steps": 0}, {"rows": {}}])
def test_the_training_table_has_empty_cells_where_steps_record_nothing(tmp_path, options):
    row = cells(tables_of([make_train(tmp_path / "t", **options)], ["training"])[0])
    for name in ("final reward", "reward, last 10", "tokens", "wall seconds"):
        assert row[name] is None


def test_a_total_is_empty_when_a_step_lacks_the_value(tmp_path):
    folder = make_train(tmp_path / "t")
    with (folder / "steps.jsonl").open("a") as file:
        file.write('{"step": 13, "reward": 1.0}\n')
    row = cells(tables_of([folder], ["training"])[0])
    assert (row["tokens"], row["final reward"]) == (None, 1.0)


def test_tables_have_only_runs_of_their_kind(tmp_path):
    trained, evaluated = make_train(tmp_path / "t"), make_eval(tmp_path / "e")
    assert tables_of([trained], ["results", "protocol"]) == []
    assert tables_of([evaluated], ["training"]) == []


# --- the report -------------------------------------------------------------------------------------------------


def test_the_report_has_every_table_and_lists_its_runs(tmp_path):
    folders = [make_eval(tmp_path / "a"), make_train(tmp_path / "t")]
    files = write_report(folders, tmp_path / "report")
    page = files.markdown.read_text()
    names = ("results", "protocol", "training", "benchmarks-1", "benchmarks-2", "cost-1", "cost-2")
    assert {path.name for path in files.csv} == {f"{name}.csv" for name in names}
    assert page.index("## Results") < page.index("## Protocol: sums") < page.index("## Training")
    record = RunReader.read(folders[0]).record
    footer = page[page.index("## Runs") :]
    row = f"| a | eval | done | a | {record.created} | {record.config_digest} | {record.code} | model beef, sums f00d |"
    assert row in footer
    assert "Made by harness " in footer
    assert "UNFINISHED" not in page
    assert read_csv((tmp_path / "report" / "results.csv").read_text())["value"][1] == PASS.value
    assert not list((tmp_path / "report").glob("*.tmp"))


def test_same_runs_give_the_same_report_bytes(tmp_path):
    folders = [make_eval(tmp_path / "a"), make_eval(tmp_path / "b", status="failed"), make_train(tmp_path / "t")]
    contents = []
    for name in ("first", "second", "second"):
        write_report(folders, tmp_path / name)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1] == contents[2]


def test_report_marks_unfinished_runs(tmp_path):
    folders = [
        make_eval(tmp_path / "a", status="failed"),
        make_train(tmp_path / "t", status="running"),
        make_eval(tmp_path / "i", status="interrupted", estimates={}),
    ]
    page = write_report(folders, tmp_path / "report").markdown.read_text()
    top = page[: page.index("## Results")]
    assert "**UNFINISHED: a ended as failed (OSError: cable \\| cut);" in top
    assert "**UNFINISHED: t was killed; run its command again" in top
    assert "**UNFINISHED: i ended as interrupted;" in top
    footer = page[page.index("## Runs") :]
    assert [line.count("| FAILED |") for line in footer.splitlines()].count(1) == 1
    assert [line.count("| INTERRUPTED |") for line in footer.splitlines()].count(1) == 2
    # A run without estimates has its row all the same, and the table alone is loud too.
    (table,) = tables_of(folders, ["results"])
    assert cells(table, 1)["run"] == "i"
    assert sum("UNFINISHED" in note for note in table.notes) == 2


def test_programs_without_a_sandbox_are_marked_unsafe(tmp_path):
    held, free = ({"sums": {"fingerprint": "f00d", "judging": {"sandbox": level}}} for level in ("sealed", "limits"))
    folders = [make_eval(tmp_path / "held", data=held), make_eval(tmp_path / "free", data=free)]
    page = write_report(folders, tmp_path / "report").markdown.read_text()
    assert page.count("UNSAFE") == 1
    assert "**UNSAFE: the programs in free (sums) were run without a sandbox, with limits only.**" in page


def test_programs_graded_again_without_a_sandbox_are_marked_unsafe(tmp_path):
    folder = make_eval(tmp_path / "again")
    levels = {"code": {"code": "0.1", "sandbox": "sealed"}, "legacy_evalplus": {"code": "0.1", "sandbox": "limits"}}
    change_record(folder, regraded={"sums": levels})
    page = write_report([folder], tmp_path / "report").markdown.read_text()
    assert page.count("UNSAFE") == 1
    assert "UNSAFE: the programs in again (sums, graded again by legacy_evalplus)" in page


def test_report_has_only_the_named_tables(tmp_path):
    folders = [make_eval(tmp_path / "a")]
    write_report(folders, tmp_path / "report")
    files = write_report(folders, tmp_path / "report", ["results", "training"])
    # The tables of the former report would be believed to belong to this one.
    written = {path.name for path in (tmp_path / "report").iterdir()}
    assert written == {"report.json", "report.md", "report.html", "results.csv"}
    assert "nothing for the table `training`" in files.markdown.read_text()
    assert "Protocol" not in files.markdown.read_text()
    assert json.loads((tmp_path / "report" / "report.json").read_text())["files"] == ["results.csv"]


def test_a_table_id_with_several_tables_has_several_files(tmp_path):
    files = write_report([make_eval(tmp_path / "a", tasks=["sums", "products"])], tmp_path / "report", ["protocol"])
    assert [path.name for path in files.csv] == ["protocol-1.csv", "protocol-2.csv"]


def test_a_folder_that_is_not_a_report_is_not_touched(tmp_path):
    run = make_eval(tmp_path / "a")
    foreign, other_mark, file = tmp_path / "foreign", tmp_path / "other", tmp_path / "file"
    foreign.mkdir()
    (foreign / "results.csv").write_text("precious")
    other_mark.mkdir()
    (other_mark / "report.json").write_text('{"files": ["x.csv"]}')
    file.write_text("precious")
    for folder in (foreign, other_mark, file, run):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(UsageError, match="choose another --out"):
            write_report([run], folder)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_empty_folder_may_become_a_report(tmp_path):
    (tmp_path / "empty").mkdir()
    assert write_report([make_eval(tmp_path / "a")], tmp_path / "empty").markdown.exists()


def test_report_deletes_only_its_own_files_inside_its_folder(tmp_path):
    run, out = make_eval(tmp_path / "a"), tmp_path / "report"
    write_report([run], out)
    outside, note = tmp_path / "outside.csv", out / "my-note.txt"
    outside.write_text("precious")
    note.write_text("precious")
    mark = json.loads((out / "report.json").read_text())
    (out / "report.json").write_text(json.dumps({**mark, "files": ["../outside.csv", "my-note.txt"]}))
    write_report([run], out)
    assert outside.exists()
    assert note.exists()


def test_wrong_report_requests_are_refused(tmp_path):
    run, out = make_eval(tmp_path / "a"), tmp_path / "report"
    with pytest.raises(UsageError, match="no run is given"):
        write_report([], out)
    (tmp_path / "no-run").mkdir()
    with pytest.raises(RunFolderError, match=r"absent is not a run folder: it has no run\.json"):
        write_report([run, tmp_path / "absent"], out)
    for folder in (tmp_path / "no-run", Path(__file__)):
        with pytest.raises(RunFolderError, match=r"is not a run folder: it has no run\.json"):
            write_report([folder], out)
    with pytest.raises(UnknownNameError, match="did you mean 'results'"):
        write_report([run], out, ["result"])
    with pytest.raises(UsageError, match="no rows for training"):
        write_report([run], out, ["training"])
    assert not out.exists()
