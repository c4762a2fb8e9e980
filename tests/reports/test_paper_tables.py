"""The tables of a paper: golden files, every number against a computation from the planted verdicts, and protocols."""

import itertools
import json
import math
import re
import statistics
from pathlib import Path

import pytest
from synthetic_runs import drawn, study, write_eval, write_train

from harness.core.types import Estimate, MarkedEstimate
from harness.reports.paired_values import measure, pairs
from harness.reports.render import to_markdown
from harness.reports.report import build_tables, named_runs, read_runs
from harness.runs.folder import RunReader
from harness.runs.provenance import environment
from harness.stats.paired_tests import crossed_test, holm, sign_flip

GOLDEN = Path(__file__).parent / "golden" / "tables"
RATE_METRIC = "avg_at_k"
CODE = {"livecodebench": 20, "codeforces": 10, "humaneval_plus": 15}


def rating(name, value, low, high):
    return Estimate(name, value, low, high, 40, 320, 0, "plain mean over contests")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def runs(folder):
    return read_runs(study(folder, temperatures=(0.6, 1.0)))


@pytest.fixture(scope="module")
def code_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("code")
    found = []
    for model, rate, elo in (("base", 0.3, 886.68), ("flowrl", 0.6, 1549.47), ("grpo", 0.55, 1313.82)):
        ratings = [rating("rating (FlowRL)", elo, elo - 90, elo + 90), rating("percentile (FlowRL)", elo / 20, 40, 90)]
        estimates = {"codeforces": ratings} if model != "grpo" else {}
        found.append(write_eval(folder / model, model, drawn(rate, 1), tasks=CODE, estimates=estimates))
    return read_runs(found)


@pytest.fixture(scope="module")
def ablation_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablations")
    found = []
    settings = [
        ("flowrl", {"beta": 15.0}),
        ("flowrl", {"beta": 5.0}),
        ("flowrl_ablation", {"beta": 15.0, "weight": "none"}),
    ]
    for place, (objective, options) in enumerate([*settings, ("grpo", {})]):
        trained = write_train(folder / f"train-{place}", objective={"id": objective, **options})
        draw = drawn(0.5 - 0.1 * place, 1)
        found.append(write_eval(folder / f"eval-{place}", str(trained), draw))
    return read_runs(found)


def cell(table, row, column):
    (found,) = [line for line in table.rows if line[0] == row]
    return found[table.columns.index(column)]


def plant(run, task, problem):
    """Return the planted outcomes of a problem, read from the file without our readers."""
    rows = [json.loads(line) for line in (run.folder / "verdicts.jsonl").read_text().splitlines()]
    return [row["outcome"] for row in rows if (row["task"], row["problem_id"]) == (task, problem)]


def rate_of(run, task, k=1):
    """Return pass@k by enumerating all choices of k samples."""
    rows = [json.loads(line) for line in (run.folder / "verdicts.jsonl").read_text().splitlines()]
    outcomes = {}
    for row in rows:
        if row["task"] == task and row["outcome"] != "ungraded":
            outcomes.setdefault(row["problem_id"], []).append(row["outcome"] == "correct")
    return {p: statistics.fmean(map(any, itertools.combinations(found, k))) for p, found in outcomes.items()}


def of(runs, method, temperature="0.6"):
    return [
        run
        for run in runs
        if run.record.kind == "eval" and run.record.id.startswith(method) and run.record.id.endswith(temperature)
    ]


# --- golden files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table_id", ["benchmarks", "temperatures", "pass_at_k", "significance", "cost"])
def test_a_table_is_as_in_its_golden_file(runs, table_id):
    check(table_id, build_tables(table_id, runs))


def test_the_code_table_is_as_in_its_golden_file(code_runs):
    check("code", build_tables("code", code_runs))


def test_the_ablations_are_as_in_their_golden_file(ablation_runs):
    check("ablations", build_tables("ablations", ablation_runs))


def check(name, tables):
    text = plain("\n".join(map(to_markdown, tables)))
    assert text == (GOLDEN / f"{name}.md").read_text(encoding="utf-8")


def plain(text):
    """Replace digests of configs, which have the path of the folder in them, and the machine of the test."""
    text = re.sub(r"\([0-9a-f]{16}\)", "(DIGEST)", text)
    processor, cores = environment()["processor"], environment()["cores"]
    return text.replace(f"| {processor} | {cores} |", "| PROCESSOR |")


def test_the_same_runs_give_the_same_tables(runs):
    for table_id in ("benchmarks", "temperatures", "pass_at_k", "significance", "cost"):
        assert build_tables(table_id, runs) == build_tables(table_id, runs)


# --- numbers ----------------------------------------------------------------------------------------------------


def test_means_are_those_of_the_planted_verdicts(runs):
    table = build_tables("benchmarks", runs)[0]
    for method in ("base", "grpo", "flowrl"):
        means = {}
        for task in ("aime24", "math500"):
            by_run = [statistics.fmean(rate_of(run, task).values()) for run in of(runs, method)]
            means[task] = statistics.fmean(by_run)
            found = cell(table, method, task)
            assert found.value == pytest.approx(means[task], abs=1e-12)
            assert found.low < found.value < found.high
            assert found.n_completions == 8 * {"aime24": 12, "math500": 30}[task] * len(by_run)
        assert cell(table, method, "mean").value == pytest.approx(statistics.fmean(means.values()), abs=1e-12)


def test_pass_at_k_is_that_of_all_choices_of_k_samples(runs):
    tables = {table.title.split()[2][:-1]: table for table in build_tables("pass_at_k", runs)[:2]}
    for task, method, k in itertools.product(("aime24", "math500"), ("base", "flowrl"), (1, 2, 4, 8)):
        expected = statistics.fmean(statistics.fmean(rate_of(run, task, k).values()) for run in of(runs, method))
        assert cell(tables[task], method, f"pass@{k}").value == pytest.approx(expected, abs=1e-12)
    assert cell(tables["aime24"], "flowrl", "rollouts a problem") == 20 * 32 / 64  # of 64 training problems
    assert cell(tables["aime24"], "base", "rollouts a problem") is None


def test_marks_are_those_of_the_tests_of_compare(runs):
    """The best is marked, and what Holm's method over the crossed tests cannot tell from it."""
    table = build_tables("benchmarks", runs)[0]
    for task in ("aime24", "math500"):
        best, others = of(runs, "flowrl"), {"base": of(runs, "base"), "grpo": of(runs, "grpo")}
        ps = []
        for side in others.values():
            ours, theirs = ([measure(run, [task], None, RATE_METRIC)[task] for run in group] for group in (best, side))
            (paired,) = pairs(task, ours, theirs)
            ps.append(crossed_test(paired.first, paired.second).p)
        assert cell(table, "flowrl", task).mark == "best"
        for name, p in zip(others, holm(ps), strict=True):
            assert cell(table, name, task).mark == ("tied" if p >= 0.05 else "")
    assert cell(table, "base", "math500").mark == ""
    assert cell(table, "grpo", "math500").mark == "tied"


def test_single_runs_are_compared_by_the_sign_flip_test(tmp_path):
    one, other = (write_eval(tmp_path / name, name, drawn(rate, 1)) for name, rate in (("a", 0.4), ("b", 0.6)))
    runs = read_runs([one, other])
    differences, ps, *_ = build_tables("significance", runs)
    rates = [rate_of(run, "aime24") for run in runs]
    gaps = [rates[1][problem] - rates[0][problem] for problem in rates[0]]
    assert cell(ps, "a", "b") == cell(ps, "b", "a") == sign_flip(gaps).p
    assert cell(differences, "b", "less a").value == pytest.approx(statistics.fmean(gaps), abs=1e-12)
    assert cell(differences, "a", "less b").value == -cell(differences, "b", "less a").value
    assert cell(differences, "a", "less b").low == -cell(differences, "b", "less a").high
    assert cell(differences, "a", "less a") is None
    assert (cell(differences, "b", "less a").mark == "significant") == (cell(ps, "a", "b") < 0.05)


def test_the_ratings_of_the_code_table_are_those_of_the_runs(code_runs):
    (table,) = build_tables("code", code_runs)
    found = cell(table, "flowrl", "codeforces rating (FlowRL)")
    assert (found.value, found.mark, found.in_percent) == (1549.47, "best", False)
    assert (found.low, found.high) == pytest.approx((1459.47, 1639.47))
    # 1549 and 887 with half widths of 90: z = 662.79 / (90 sqrt 2 / 1.96) = 10.2
    assert cell(table, "base", "codeforces rating (FlowRL)").mark == ""
    assert cell(table, "grpo", "codeforces rating (FlowRL)") is None
    for k, name in ((1, "avg@8"), (8, "pass@8")):
        expected = statistics.fmean(rate_of(code_runs[1], "livecodebench", k).values())
        assert cell(table, "flowrl", f"livecodebench {name}").value == pytest.approx(expected)
    assert "humaneval_plus avg@8" in table.columns
    assert build_tables("benchmarks", code_runs) == []


def test_ablations_have_the_settings_that_differ_as_columns(ablation_runs):
    (table,) = build_tables("ablations", ablation_runs)
    assert table.columns[:4] == ("model", "id", "beta", "weight")
    assert [row[1:4] for row in table.rows] == [
        ("flowrl", 15.0, None),
        ("flowrl", 5.0, None),
        ("flowrl_ablation", 15.0, "none"),
    ]
    means = [
        statistics.fmean(statistics.fmean(rate_of(run, t).values()) for t in ("aime24", "math500"))
        for run in ablation_runs
    ]
    gaps = [row[-1] for row in table.rows]
    assert gaps[0] is None
    assert [gap.value for gap in gaps[1:]] == pytest.approx([means[1] - means[0], means[2] - means[0]])


def test_cost_sums_the_steps_and_the_samples(runs):
    training, evaluation = build_tables("cost", runs)
    row = dict(zip(training.columns, training.rows[0], strict=True))
    walls = [2.0 + step % 3 for step in range(1, 21)]
    assert (row["rollouts"], row["tokens"]) == (640, 64000)
    assert row["hours"] == pytest.approx(sum(walls) / 3600)
    assert row["sampling"] == pytest.approx(20 / sum(walls))
    assert row["seconds a step"].value == pytest.approx(statistics.fmean(walls))
    half = 2.093024 * statistics.stdev(walls) / math.sqrt(20)  # the t quantile of 19
    assert row["seconds a step"].high == pytest.approx(statistics.fmean(walls) + half, abs=1e-5)
    line = next(
        dict(zip(evaluation.columns, r, strict=True)) for r in evaluation.rows if r[:2] == ("base-T0.6", "aime24")
    )
    tokens = [100 + problem + index for problem in range(12) for index in range(8)]
    n_right = sum(plant(runs[0], "aime24", f"p{problem:04d}").count("correct") for problem in range(12))
    assert (line["samples"], line["tokens"]) == (96, sum(tokens))
    assert line["tokens a sample"].value == pytest.approx(statistics.fmean(tokens))
    assert line["tokens a right sample"] == pytest.approx(sum(tokens) / n_right)
    assert line["engine hours"] == pytest.approx(96 * 0.5 / 3600)


def test_counts_of_samples_are_in_reach(tmp_path):
    (run,) = read_runs([write_eval(tmp_path / "a", "base", drawn(0.5, 1, ungraded=0.1), tasks={"aime24": 10})])
    table = build_tables("benchmarks", [run])
    row = dict(zip(table[1].columns, table[1].rows[0], strict=True))
    outcomes = [(p, i, o) for p in range(10) for i, o in enumerate(plant(run, "aime24", f"p{p:04d}"))]
    cut = [(p, i) for p, i, o in outcomes if (p + i) % 17 == 0 and o == "incorrect"]
    empty = [(p, i) for p, i, o in outcomes if o == "incorrect" and i % 5 == 0 and (p, i) not in cut]
    assert row["ungraded"] == sum(o == "ungraded" for *_, o in outcomes) > 0
    assert (row["truncated"], row["no answer"], row["samples"]) == (len(cut), len(empty), 80)
    assert any(f"UNGRADED completions, in no number: {row['ungraded']} of base on aime24" in n for n in table[0].notes)


# --- what belongs together --------------------------------------------------------------------------------------


def test_no_table_mixes_protocols(tmp_path):
    """Each of these differs from the first in one setting of the protocol, and none shares a table with it."""
    first = write_eval(tmp_path / "first", "base", drawn(0.3, 1))
    sampling = {"temperature": 0.6, "top_p": 0.95, "max_tokens": 8192}
    others = {
        "temperature": {"sampling": {**sampling, "temperature": 1.0}},
        "max_tokens": {"sampling": {**sampling, "max_tokens": 4096}},
        "n": {"n": 4},
        "split": {"split": "validation"},
        "grader": {"facts": {task: {"grader": "exact"} for task in ("aime24", "math500")}},
        "prompt": {"facts": {task: {"prompt": "plain"} for task in ("aime24", "math500")}},
        "data": {"facts": {task: {"fingerprint": "other"} for task in ("aime24", "math500")}},
        "engine": {"engine": {"id": "hf"}},
    }
    for name, config in others.items():
        other = write_eval(tmp_path / name, "other", drawn(0.4, 1), **config)
        tables = build_tables("benchmarks", read_runs([first, other]))[::2]
        rows = [[row[0] for row in table.rows] for table in tables]
        assert rows == ([["base"], ["other"]] if name != "grader" else [["base"]]), name
        assert all(run not in tables[0].notes[-1] for run in (f"{name} (",))


def test_runs_of_one_model_on_several_benchmarks_are_one_row(tmp_path):
    folders = [
        write_eval(tmp_path / "m-aime", "m", drawn(0.3, 1), tasks={"aime24": 12}),
        write_eval(tmp_path / "m-math", "m", drawn(0.3, 1), tasks={"math500": 30}),
        write_eval(tmp_path / "other", "other", drawn(0.3, 1), tasks={"math500": 30}),
    ]
    table = build_tables("benchmarks", read_runs(folders))[0]
    assert [row[0] for row in table.rows] == ["m", "other"]
    assert cell(table, "m", "mean") is not None and cell(table, "other", "mean") is None
    assert "MISSING under this protocol: other on aime24." in table.notes


def test_an_unfinished_run_is_shown_and_not_ranked(tmp_path):
    done = [write_eval(tmp_path / name, name, drawn(rate, 1)) for name, rate in (("a", 0.2), ("b", 0.3))]
    broken = write_eval(tmp_path / "c", "c", drawn(0.9, 1), status="failed")
    table = build_tables("benchmarks", read_runs([*done, broken]))[0]
    assert cell(table, "c", "aime24").mark == ""
    assert cell(table, "b", "math500").mark == "best"
    assert any(note.startswith("UNFINISHED: c ended as failed") for note in table.notes)


def test_a_checkpoint_before_the_last_is_another_row_and_named(tmp_path):
    trained = write_train(tmp_path / "train", objective={"id": "grpo"})
    folders = [
        write_eval(tmp_path / f"step{step}", str(trained / "checkpoints" / f"step-{step:06d}"), drawn(0.4, step))
        for step in (10, 20)
    ]
    table = build_tables("benchmarks", read_runs(folders))[0]
    assert [row[0] for row in table.rows] == ["grpo (step 10)", "grpo (step 20)"]
    assert any("checkpoint: step 10 of 20; how it was chosen is not on record" in note for note in table.notes)
    assert any("checkpoint: the last, step 20" in note for note in table.notes)


def test_a_setting_that_only_one_row_has_is_not_set_in_the_other(tmp_path):
    folders = []
    for name, more in (("plain", {}), ("kl", {"kl_beta": 0.1})):
        trained = write_train(tmp_path / name, objective={"id": "grpo", **more})
        folders.append(write_eval(tmp_path / f"{name}-eval", str(trained), drawn(0.4, 1)))
    table = build_tables("benchmarks", read_runs(folders))[0]
    assert [row[0] for row in table.rows] == ["grpo (kl_beta not set)", "grpo (kl_beta 0.1)"]


def test_a_label_of_a_run_or_of_its_training_names_the_row(tmp_path):
    trained = write_train(tmp_path / "train", objective={"id": "grpo"})
    evaluated = write_eval(tmp_path / "eval", str(trained), drawn(0.4, 1))
    base = write_eval(tmp_path / "base", "base", drawn(0.4, 1))
    runs = named_runs(read_runs([trained, evaluated, base]), {"train": "GRPO, ours", "base": "Qwen"})
    assert [row[0] for row in build_tables("benchmarks", runs)[0].rows] == ["GRPO, ours", "Qwen"]


def test_a_column_at_the_ceiling_has_no_marks(tmp_path):
    folders = [write_eval(tmp_path / name, name, lambda *_: "correct", tasks={"aime24": 12}) for name in "ab"]
    table = build_tables("benchmarks", read_runs(folders))[0]
    assert [row[1].mark for row in table.rows] == ["", ""]
    assert any(note.startswith("NO POWER: aime24: every row is above 95%") for note in table.notes)


def test_all_cells_with_a_number_of_samples_have_an_interval(runs):
    for table_id in ("benchmarks", "temperatures", "pass_at_k"):
        for table in build_tables(table_id, runs):
            if "samples:" not in table.title:
                cells = [
                    c
                    for row in table.rows
                    for c, name in zip(row, table.columns, strict=True)
                    if "@" in name or name == "mean"
                ]
                assert all(isinstance(c, MarkedEstimate) and c.low < c.high for c in cells)


def test_a_run_without_verdicts_is_in_no_table(tmp_path):
    folder = write_eval(tmp_path / "empty", "base", drawn(0.3, 1), tasks={})
    assert build_tables("benchmarks", [RunReader.read(folder)]) == []
