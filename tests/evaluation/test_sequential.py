"""`harness eval --until`: it stops early, resumes where it ended, and refuses what can't be met."""

import json

import pytest

from harness.cli import main
from harness.reports.protocol_card import card
from harness.runs.folder import RunReader

COMMAND = ["--tasks", "countdown", "--limit", "24", "--max-tokens", "24", "--quiet"]


def evaluated(folder, *options):
    return main(["eval", "countdown-tiny", "--out", str(folder), *COMMAND, *options])


def n_completions(folder):
    return len((folder / "completions.jsonl").read_text().splitlines())


def estimates(folder):
    return {e["name"]: e for e in json.loads((folder / "metrics.json").read_text())["countdown"]}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("until") / "run"
    assert evaluated(folder, "--n", "64", "--until", "0.1") == 0
    return folder


def test_an_evaluation_stops_once_sampling_is_narrow_enough(stopped):
    found = estimates(stopped)
    narrow = found["avg given these problems"]
    n = narrow["n_completions"] // 24
    assert 4 <= n < 64
    assert n_completions(stopped) == 24 * n
    assert found[f"avg@{n}"]["value"] == pytest.approx(narrow["value"])
    # An end at 0 or 1 is cut off.
    assert max(narrow["high"] - narrow["value"], narrow["value"] - narrow["low"]) <= 0.1
    assert "confidence sequence over samples, valid under stopping" in narrow["method"]
    assert RunReader.read(stopped).status == "done"
    assert card(RunReader.read(stopped), "countdown")["samples a problem"] == "up to 64, until ±0.1"


def test_a_stopped_evaluation_resumes_where_it_ended_and_goes_on_for_more(stopped):
    before = n_completions(stopped)
    assert evaluated(stopped, "--n", "64", "--until", "0.1") == 0
    assert n_completions(stopped) == before
    assert evaluated(stopped, "--n", "64", "--until", "0.08") == 0
    assert before < n_completions(stopped) < 24 * 64
    rows = [json.loads(line) for line in (stopped / "verdicts.jsonl").read_text().splitlines()]
    keys = [(row["problem_id"], row["index"]) for row in rows]
    assert len(keys) == len(set(keys)) == n_completions(stopped)


def test_an_evaluation_that_reaches_n_says_that_the_margin_is_not_met(tmp_path, capsys):
    arguments = [argument for argument in COMMAND if argument != "--quiet"]
    folder = str(tmp_path / "run")
    assert main(["eval", "countdown-tiny", "--out", folder, *arguments, "--n", "8", "--until", "0.1"]) == 0
    printed = capsys.readouterr()
    assert "stopped after 8 of 8 samples per problem with ±0." in printed.out + printed.err
    assert "which is not ±0.1: raise --n to go on" in printed.out + printed.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--n", "4", "--until", "0.01"], "until = 0.01 can't be met on countdown: 4 samples of 24 problems give ±"),
        (["--n", "1", "--until", "0.1"], "needs several samples of each problem, and countdown draws one"),
        (["--n", "8", "--until", "0.1", "--temperature", "0"], "draws the same one each time (temperature 0)"),
        (["--until", "0.7"], "above 0 and below 0.5"),
        (["--until", "0"], "above 0 and below 0.5"),
    ],
)
def test_a_margin_that_can_never_be_met_is_refused(tmp_path, capsys, options, message):
    assert evaluated(tmp_path / "run", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_number_of_samples_that_a_refusal_names_is_enough(tmp_path, capsys):
    assert evaluated(tmp_path / "run", "--n", "4", "--until", "0.01") == 2
    n = int(capsys.readouterr().err.split("set --n ")[1].split()[0])
    assert evaluated(tmp_path / "run", "--n", str(n - 1), "--until", "0.01") == 2
    assert evaluated(tmp_path / "run", "--n", str(n), "--until", "0.01", "--dry-run") == 0
