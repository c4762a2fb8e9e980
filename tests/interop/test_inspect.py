"""Our tasks under `inspect eval`, and our runs as logs that inspect reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from harness.cli import main
from harness.runs.folder import RunReader

inspect_ai = pytest.importorskip("inspect_ai", reason="inspect-ai is not installed; `tox -e interop` runs this")

pytestmark = pytest.mark.filterwarnings("default")

LIMIT = 12


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspect") / "run"
    settings = ["--limit", str(LIMIT), "--n", "2", "--out", str(folder), "--quiet"]
    assert main(["eval", "countdown-tiny", "--tasks", "countdown", *settings]) == 0
    return RunReader.read(folder)


@pytest.fixture(scope="module")
def log(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs") / "out"
    assert main(["export", "inspect-log", str(folder), "--run", str(run.folder)]) == 0
    (path,) = folder.iterdir()
    return path


def test_inspect_log_has_every_completion_with_its_verdict(run, log):
    read = inspect_ai.log.read_eval_log(str(log))
    texts = {(c.problem_id, c.index + 1): (c.text, c.tokens.n_completion) for _, c in run.completions()}
    assert {(s.id, s.epoch): (s.output.completion, s.output.usage.output_tokens) for s in read.samples} == texts
    verdicts = {(p, i + 1): verdict.outcome == "correct" for (_, p, i), verdict in run.verdicts("countdown").items()}
    assert {(s.id, s.epoch): s.scores["harness"].value == "C" for s in read.samples} == verdicts
    assert 0 < sum(verdicts.values()) < len(verdicts)


def test_inspect_log_has_our_estimates_and_their_settings(run, log):
    read = inspect_ai.log.read_eval_log(str(log))
    (score,) = read.results.scores
    assert {name: m.value for name, m in score.metrics.items()} == {
        e.name: e.value for e in run.estimates()["countdown"]
    }
    assert read.status == "success"
    assert read.eval.metadata["config_digest"] == run.record.config_digest
    assert read.eval.model == "countdown-tiny"
    roles = [message.role for message in read.samples[0].messages]
    assert roles == ["user", "assistant"]


def test_inspect_command_reads_an_exported_log(log):
    done = subprocess.run(
        [sys.executable, "-m", "inspect_ai", "log", "dump", str(log)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["samples"]) == 2 * LIMIT


def test_inspect_log_of_a_train_run_or_unfinished_run_is_refused(run, tmp_path, capsys):
    assert main(["export", "inspect-log", str(tmp_path / "a"), "--tasks", "countdown"]) == 2
    assert "takes --run, and no --tasks" in capsys.readouterr().err


def test_inspect_runs_an_exported_task_with_our_verdicts(run, tmp_path):
    folder = tmp_path / "tasks"
    assert main(["export", "inspect", str(folder), "--tasks", "countdown", "--limit", str(LIMIT)]) == 0
    replies = {c.problem_id: c.text for _, c in run.completions() if c.index == 0}
    outcomes = {p: v.outcome == "correct" for (_, p, i), v in run.verdicts("countdown").items() if i == 0}
    order = [json.loads(line)["id"] for line in (folder / "countdown.jsonl").read_text().splitlines()]
    script = f"""
import sys
sys.path.insert(0, {str(folder)!r})
from inspect_ai import eval
from inspect_ai.model import ModelOutput, ModelUsage, get_model
import harness_tasks
replies = {[replies[name] for name in order]!r}
outputs = [ModelOutput.from_content("mockllm/model", reply) for reply in replies]
for output in outputs:  # inspect would count tokens with a table from the network
    output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
model = get_model("mockllm/model", custom_outputs=outputs)
(log,) = eval(harness_tasks.countdown(), model=model, log_dir={str(tmp_path / "logs")!r}, display="none",
              max_connections=1, max_samples=1)
assert log.status == "success", log.error
print({{s.id: s.scores["harness"].value == "C" for s in log.samples}}, log.results.scores[0].metrics["accuracy"].value)
"""
    environment = {**os.environ, "INSPECT_DISPLAY": "none"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    said, _, accuracy = done.stdout.strip().splitlines()[-1].rpartition(" ")
    assert json.loads(said.replace("'", '"').replace("True", "true").replace("False", "false")) == outcomes
    assert float(accuracy) == pytest.approx(sum(outcomes.values()) / LIMIT)
