"""`harness diversity` on stored runs: sizes and problems that all have, each run's file, and the report's table."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command_output import output, tables

from harness.core.progress import Progress
from harness.core.registry import load
from harness.diversity.arms import flat, read_arms, sizes_of
from harness.reports.methods import methods_of
from harness.runs.diversity_file import read_diversity, write_diversity
from harness.runs.folder import RunReader
from harness.stats.diversity import crossed_draws


def evaluated(folder, capsys, *more):
    words = ("eval", "countdown-tiny", "--tasks", "countdown", "--limit", "8", "--out", str(folder), *more)
    output(capsys, *words, "--quiet")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    from harness.cli import main

    for name, temperature, n, seed in (("cold", 0.3, 12, 0), ("hot", 1.2, 16, 0), ("again", 1.2, 16, 1)):
        words = ["eval", "countdown-tiny", "--tasks", "countdown", "--limit", "8", "--quiet", "--n", str(n)]
        words += ["--temperature", str(temperature), "--seed", str(seed), "--out", str(folder / name)]
        assert main(words) == 0
    return folder


def test_sizes_are_those_that_every_run_has(runs):
    arms = read_arms([runs / "cold", runs / "hot"], Progress(quiet=True))
    sizes = sizes_of(arms, "countdown")
    assert sizes.samples == 12
    right = [
        min(sum(g.verdict.outcome == "correct" for g in arm.graded["countdown"][p]) for arm in arms)
        for p in arms[0].graded["countdown"]
    ]
    solved = [n for n in right if n >= 2]
    assert 2 * sum(n >= sizes.correct for n in solved) >= len(solved)
    assert 2 * sum(n >= 2 * sizes.correct for n in solved) < len(solved)


def test_stored_values_and_table_are_those_of_the_metrics_on_common_problems(runs, capsys):
    found = tables(capsys, "diversity", str(runs / "cold"), str(runs / "hot"), "--metrics", "hill_numbers,ead")
    arms = read_arms([runs / "cold", runs / "hot"], Progress(quiet=True))
    sizes = sizes_of(arms, "countdown")
    stored = [read_diversity(arm.run.folder)["countdown"] for arm in arms]
    for name, metric in (("hill1", "hill_numbers"), ("ead_correct", "ead")):
        options = load("metrics", metric).Config(samples=sizes.samples, correct=sizes.correct)
        key = f"{name}@{sizes.correct}"
        values = [load("metrics", metric)(options).per_problem(flat(arm.graded["countdown"]))[key] for arm in arms]
        assert [{p: v for p, (v,) in one.values[key].items()} for one in stored] == values
        common = sorted(values[0].keys() & values[1].keys())
        table = next(t for t in found if any(column.startswith(f"{key} ") for column in t["columns"]))
        place = table["columns"].index(f"{key} (n={len(common)})")
        means = [np.mean([of_arm[p] for p in common]) for of_arm in values]
        assert [row[place]["value"] for row in rows_of(table)] == pytest.approx(means)
        less = next(t for t in found if t["title"] == f"{table['title']}, less cold")
        (row,) = rows_of(less)
        cell = row[less["columns"].index(f"{key} (n={len(common)})")]
        assert cell["value"] == pytest.approx(means[1] - means[0])
        assert cell["low"] <= cell["value"] <= cell["high"]


def rows_of(table):
    return [list(row.values()) if isinstance(row, dict) else row for row in table["rows"]]


def test_a_second_command_adds_measures_of_equal_sizes_and_replaces_others(runs, capsys):
    first, second = str(runs / "hot"), str(runs / "again")
    tables(capsys, "diversity", first, second, "--metrics", "ead")
    tables(capsys, "diversity", first, second, "--metrics", "self_bleu")
    kept = read_diversity(runs / "hot")["countdown"]
    assert {"ead@16", "1-self_bleu@16"} <= set(kept.values)
    tables(capsys, "diversity", first, str(runs / "cold"), "--metrics", "div_equ")
    replaced = read_diversity(runs / "hot")["countdown"]
    assert {name.partition("@")[0] for name in replaced.values} == {"div_equ", "div_equ_correct"}
    assert replaced.samples == 12


def test_runs_that_differ_in_their_seed_alone_are_one_method(runs, capsys):
    named = [(RunReader.read(runs / name), name) for name in ("cold", "hot", "again")]
    assert [(m.label, len(m.runs)) for m in methods_of(named)] == [("cold", 1), ("countdown-tiny", 2)]
    found = tables(capsys, "diversity", *(str(runs / name) for name in ("cold", "hot", "again")), "--metrics", "ead")
    table = next(t for t in found if any(column.startswith("ead@12") for column in t["columns"]))
    place = next(i for i, column in enumerate(table["columns"]) if column.startswith("ead@12"))
    cells = rows_of(table)
    assert [row[:2] for row in cells] == [["cold", 1], ["countdown-tiny", 2]]
    assert "2 runs" in cells[1][place]["method"] and "2 runs" not in cells[0][place]["method"]


def test_the_report_has_the_table_and_names_missing_judges(runs, capsys, tmp_path):
    tables(capsys, "diversity", str(runs / "cold"), str(runs / "hot"))
    output(capsys, "report", str(runs / "cold"), str(runs / "hot"), "--out", str(tmp_path / "report"))
    page = (tmp_path / "report/report.md").read_text()
    assert "## Diversity of countdown: right solutions" in page
    assert "Strategies by a judge: not measured." in page
    assert "## Unit tests of diversity metrics on countdown" in page
    assert "| hill1 | 1.00 | 0 % | rises |" in page


def test_eval_computes_the_cheap_measures(capsys, tmp_path):
    folder = evaluated(tmp_path / "run", capsys, "--n", "4", "--metrics", "diversity")
    names = [row["name"] for row in json.loads((folder / "metrics.json").read_text())["countdown"]]
    assert {"avg@4", "pass@4", "ead@4", "1-self_bleu@4", "answer_entropy@4"} <= set(names)


def test_bad_requests_are_refused_in_one_line(runs, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    for words, message in (
        ([str(tmp_path / "empty")], "is not a run folder"),
        ([str(runs / "cold"), "--metrics", "eat"], "did you mean 'ead'"),
        ([str(runs / "cold"), "--metrics", "avg_at_k"], "does not measure diversity"),
        ([str(runs / "cold"), "--set", "ead.mots=3"], "did you mean 'most'"),
    ):
        (line,) = output(capsys, "diversity", *words, "--quiet", code=2).err.splitlines()
        assert message in line


def test_one_sample_per_problem_has_no_value_and_says_so(capsys, tmp_path):
    folder = evaluated(tmp_path / "run", capsys, "--n", "1")
    printed = output(capsys, "diversity", str(folder), "--quiet")
    assert "fewer than 2 samples" in printed.err
    assert read_diversity(folder)["countdown"].values == {}


def test_crossed_bootstrap_has_the_variance_of_its_levels():
    random = np.random.default_rng(0)
    of_seed, of_problem = random.normal(size=5), random.normal(size=40)
    values = of_seed[:, None, None] + of_problem[None, None, :]
    draws = crossed_draws([values, values + 1.0])
    expected = of_seed.var() / 5 + of_problem.var() / 40
    assert draws[:, 0].var() == pytest.approx(expected, rel=0.05)
    assert draws.mean(axis=0) == pytest.approx([values.mean(), values.mean() + 1], abs=0.02)


def test_crossed_bootstrap_keeps_arms_paired_by_problem_and_pass():
    random = np.random.default_rng(0)
    one = random.normal(size=(1, 3, 20))
    draws = crossed_draws([one, one + 0.5])
    assert np.ptp(draws[:, 1] - draws[:, 0]) < 1e-12
    clustered = crossed_draws([one[:, :1]], clusters=["a"] * 10 + ["b"] * 10)
    sides = np.array([one[0, 0, :10].mean(), one[0, 0, 10:].mean()])
    assert set(np.round(clustered[:, 0], 9)) <= set(np.round([*sides, sides.mean()], 9))


@pytest.mark.parametrize(
    ("share", "note"),
    [
        (0.007, "NOTHING TO BE DIVERSE ABOUT: only 0.7% of the problems"),
        (0.33, "33.0% of the problems are known to admit more than one approach."),
        (None, "It is not known how many"),
    ],
)
def test_a_table_says_where_there_is_nothing_to_be_diverse_about(runs, capsys, monkeypatch, share, note):
    import dataclasses

    from harness.diversity import measures

    read = measures.read_diversity
    monkeypatch.setattr(
        measures,
        "write_diversity",
        lambda folder, tasks: write_diversity(
            folder,
            {
                task: dataclasses.replace(one, cards={**one.cards, "problems": {"several_approaches": share}})
                for task, one in tasks.items()
            },
        ),
    )
    printed = output(capsys, "diversity", str(runs / "cold"), "--metrics", "ead", "--quiet").out
    assert note in " ".join(printed.split())
    assert read(runs / "cold")["countdown"].cards["problems"]["several_approaches"] == share


def test_countdown_has_several_solutions_of_every_problem_and_gsm8k_hardly_any():
    from harness.core.config import parse_plugin

    shares = {
        task: parse_plugin("tasks", task).build().card.several_approaches for task in ("countdown", "gsm8k", "math")
    }
    assert shares == {"countdown": 1.0, "gsm8k": 0.007, "math": 0.33}


def test_wrong_answers_are_merged_by_the_graders_equivalence():
    from diverse_samples import sample, values_of

    from harness.core.types import Verdict
    from harness.diversity.arms import flat, merged
    from harness.graders.exact import GRADER as EXACT
    from harness.graders.math import MathGrader

    texts = ["x+1", "1+x", "(x+1)", "2x", "x \\cdot 2", "2x", "?!", "?!"]
    items = [sample("p", i, text, Verdict("incorrect", 0.0, text, "wrong")) for i, text in enumerate(texts)]
    items.append(sample("p", len(texts), "7", Verdict("correct", 1.0, "7")))
    by_maths = merged(items, MathGrader(MathGrader.Config()))
    assert values_of("distinct_answers", by_maths)[f"distinct_answers@{len(items)}"] == 4
    as_text = merged(items, EXACT(EXACT.Config()))
    assert values_of("distinct_answers", as_text)[f"distinct_answers@{len(items)}"] == 7
    assert [item.completion for item in by_maths] == [item.completion for item in items]
    assert flat({"p": by_maths})[-1].verdict.extracted == "7"
