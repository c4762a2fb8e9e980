"""The table of the change from the originals of MATH-Perturb, on evaluations with scripted replies."""

import json
import os

import pytest

from harness.cli import main
from harness.core import config as configs
from harness.reports.protocol_card import card
from harness.reports.report import read_runs
from harness.reports.tables.perturbed import TABLE

pytestmark = pytest.mark.skipif(not os.environ.get("HARNESS_DATA_DIR"), reason="HARNESS_DATA_DIR is not set")
REPLIES = ["The answer is \\boxed{2}.", "The answer is \\boxed{1}."]


def evaluated(folder, variant, more=(), **options):
    table = {"id": "math_perturb", "variant": variant, **options}
    written = ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
    config = folder / f"{variant}.toml"
    config.write_text(
        f'tasks = [{{{written}}}]\nn = 2\nengine = {{ id = "scripted", replies = {json.dumps(REPLIES)} }}\n'
        'metrics = ["avg_at_k"]\n'
    )
    run = folder / variant
    assert main(["eval", "countdown-tiny", "--config", str(config), "--out", str(run), "--quiet", *more]) == 0
    return run


def shares(variant):
    """Each problem's share of right replies: its answer is 1 or 2, or none is right."""
    task = configs.parse_plugin("tasks", {"id": "math_perturb", "variant": variant}).build()
    return {row.id: (row.answer.strip() in ("1", "2")) / 2 for row in task._read("test")[0]}


def test_the_change_is_paired_with_the_originals(tmp_path):
    runs = read_runs([evaluated(tmp_path, variant) for variant in ("original", "hard", "simple")])
    (table,) = TABLE().build(runs)
    assert [row[2] for row in table.rows] == ["hard", "simple"]
    before = shares("original")
    for row in table.rows:
        after = shares(row[2])
        changes = [after[problem] - before[problem] for problem in before]
        assert row[3] == 279
        assert row[4] == pytest.approx(sum(before.values()) / 279, abs=5e-4)
        assert row[5] == pytest.approx(sum(after.values()) / 279, abs=5e-4)
        assert row[6].value == pytest.approx(sum(changes) / 279)
        assert row[6].low < row[6].value < row[6].high


def test_runs_with_another_prompt_are_not_paired(tmp_path):
    runs = read_runs([evaluated(tmp_path, "original"), evaluated(tmp_path, "hard", prompt="simple")])
    assert TABLE().build(runs) == []


@pytest.mark.parametrize("more", [["--max-tokens", "3"], ["--grader", "legacy_dapo"], ["--seed", "1"], ["--n", "1"]])
def test_runs_with_another_protocol_are_not_paired(tmp_path, more):
    runs = read_runs([evaluated(tmp_path, "original"), evaluated(tmp_path, "hard", more)])
    assert TABLE().build(runs) == []


def test_without_the_originals_there_is_no_table(tmp_path):
    assert TABLE().build(read_runs([evaluated(tmp_path, "hard")])) == []


def test_the_protocol_card_has_the_dates_of_model_and_data(tmp_path):
    config = tmp_path / "eval.toml"
    config.write_text(
        'tasks = ["math_perturb"]\nlimit = 2\nn = 1\nmodel = { path = "countdown-tiny", released = "2024-09" }\n'
        'engine = { id = "scripted" }\n'
    )
    assert main(["eval", "--config", str(config), "--out", str(tmp_path / "run"), "--quiet"]) == 0
    (run,) = read_runs([tmp_path / "run"])
    shown = card(run, "math_perturb")
    assert (shown["data released"], shown["model released"]) == ("2025-02", "2024-09")
    config.write_text(config.read_text().replace("2024-09", "autumn"))
    assert main(["eval", "--config", str(config), "--out", str(tmp_path / "other"), "--quiet"]) == 2
