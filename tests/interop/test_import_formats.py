"""Files of other tools: made by the tools, or by hand after their schema. See files/README.md."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.interop.imports.inspect_eval import EvalArchive
from harness.runs.folder import RunReader

FILES = Path(__file__).parent / "files"
SUMS = str(FILES / "sums.jsonl")
BY_HAND = FILES / "by_hand"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def imported(*files: Path, tasks: str = SUMS, options: tuple[str, ...] = (), code: int = 0) -> RunReader:
    command = ["import", *map(str, files), "--tasks", tasks, "--out", "run", "--quiet", *options]
    assert main(command) == code
    return RunReader.read(Path("run"))


def outcomes(run: RunReader, grader: str) -> dict[tuple[str, int], bool]:
    """Whether each completion is correct, by problem and sample."""
    found = {key[1:]: verdict.outcome for key, verdict in run.verdicts(grader).items()}
    return {key: outcome == "correct" for key, outcome in found.items() if outcome != "ungraded"}


def mean(values: Any) -> float:
    found = list(values)
    return sum(found) / len(found)


def disagreements(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The completions that `harness audit` lists."""
    capsys.readouterr()
    assert main(["audit", "run", "--show", "99", "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["disagreements"]
    return found


# --- made by the tools ---------------------------------------------------------------------------------------------


def check_lm_eval(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (samples,), (results,) = folder.glob("samples_*"), folder.glob("results_*")
    run = imported(samples)
    theirs = json.loads(results.read_text())["results"]["sums"]
    source = run.record.data["source"]
    assert (source["format"], source["tool"]) == ("lm-eval", "lm-eval 0.4.13")
    assert run.config()["sampling"] == {"max_tokens": 64, "temperature": 0.0, "stop": ["Question:", "</s>"]}
    for variant in ("strict-match", "flexible-extract"):
        own = outcomes(run, f"lm-eval:exact_match,{variant}")
        assert mean(own.values()) == theirs[f"exact_match,{variant}"] and len(own) == 6
        before = set(run.graders())
        grade = ["grade", "run", "--grader", "legacy_gsm8k", "--set", f"variant={variant}", "--quiet"]
        assert main(grade) == 0
        (label,) = set(run.graders()) - before
        assert outcomes(run, label) == own
    listed = {item["problem_id"]: item["verdicts"] for item in disagreements(capsys)}
    assert listed["books"]["math"].startswith("correct")  # 7.0 is 7, and another string
    assert listed["books"]["lm-eval:exact_match,strict-match"] == "incorrect"
    assert listed["days"]["math"] == "incorrect (no answer)"


def check_inspect_ai(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = imported(folder / "sums.eval")
    header = EvalArchive.open(folder / "sums.eval").header()
    (score,) = header["results"]["scores"]
    assert mean(outcomes(run, "inspect:match").values()) == score["metrics"]["accuracy"]["value"]
    assert run.record.data["source"]["tool"] == "inspect_ai 0.3.285"
    assert run.config()["sampling"] == {"max_tokens": 64, "temperature": 0.5}
    assert run.config()["model"]["path"] == "mockllm/model"
    tokens = {(c.tokens.n_prompt, c.tokens.n_completion) for _, c in run.completions()}
    assert tokens == {(11, 7)} and len(outcomes(run, "math")) == 12
    listed = {(item["problem_id"], item["index"]) for item in disagreements(capsys)}
    assert listed == {("apples", 1), ("days", 0), ("days", 1)}


def check_trl(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file,) = folder.glob("completions_*.parquet")
    run = imported(file, tasks="countdown", options=("--limit", "4", "--skip-unmatched"))
    assert run.record.data["source"]["step"] == 1
    assert outcomes(run, "trl:reward") == outcomes(run, "countdown") and len(outcomes(run, "countdown")) == 16
    assert disagreements(capsys) == []


def check_evalplus(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "HARNESS_DATA_DIR" not in os.environ:
        pytest.skip("HARNESS_DATA_DIR is not set")
    chosen = ("--problem", "HumanEval/0,HumanEval/2")
    run = imported(folder / "eval_results.json", tasks="humaneval_plus", options=chosen)
    theirs = outcomes(run, "evalplus:plus")
    assert theirs == outcomes(run, "code") == outcomes(run, "evalplus:base")
    assert mean(theirs.values()) == 0.5 and disagreements(capsys) == []
    Path("run").rename("results")
    assert outcomes(imported(folder / "samples.jsonl", tasks="humaneval_plus", options=chosen), "code") == theirs
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    for row in rows:  # only what follows the prompt
        row["completion"] = "\n".join(row.pop("solution").rpartition('"""\n')[2:])
    Path("completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("run").rename("samples")
    assert outcomes(imported(Path("completions.jsonl"), tasks="humaneval_plus", options=chosen), "code") == theirs


CHECKS = {"lm_eval": check_lm_eval, "inspect_ai": check_inspect_ai, "trl": check_trl, "evalplus": check_evalplus}


@pytest.mark.parametrize("tool", CHECKS)
def test_numbers_equal_the_tools_own(tool: str, capsys: pytest.CaptureFixture[str]) -> None:
    CHECKS[tool](FILES / tool, capsys)


@pytest.mark.parametrize("tool", CHECKS)
def test_files_that_the_tool_writes_now_are_imported(
    tool: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed; tox's environments interop and peers run this")
    if tool == "evalplus" and "HARNESS_DATA_DIR" not in os.environ:
        pytest.skip("HARNESS_DATA_DIR is not set")
    made = folder / tool
    command = [sys.executable, str(FILES / "make_files.py"), tool, str(made)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr
    CHECKS[tool](made, capsys)


# --- made by hand --------------------------------------------------------------------------------------------------


def test_rollouts_of_verl() -> None:
    run = imported(BY_HAND / "verl_20.jsonl")
    assert run.record.data["source"]["step"] == 20
    assert outcomes(run, "verl:score") == outcomes(run, "math")
    assert mean(outcomes(run, "math").values()) == 5 / 6


def test_outputs_of_nemo_skills() -> None:
    run = imported(BY_HAND / "output-rs0.jsonl", BY_HAND / "output-rs1.jsonl")
    assert outcomes(run, "nemo-skills:symbolic_correct") == outcomes(run, "nemo-skills:judgement")
    assert outcomes(run, "math") == outcomes(run, "nemo-skills:judgement") and run.config()["n"] == 2
    assert [key for key, is_right in outcomes(run, "math").items() if not is_right] == [("apples", 0), ("books", 1)]
    assert {c.tokens.n_prompt for _, c in run.completions()} == {30}
    assert run.record.data["source"]["unknown"] == ["prompts", "seeds", "sampling", "model"]


def test_output_of_an_openai_batch(capsys: pytest.CaptureFixture[str]) -> None:
    run = imported(BY_HAND / "batch_output.jsonl", code=3)
    assert "1 completions are missing" in capsys.readouterr().err
    assert run.config()["model"]["path"] == "gpt-4o-mini-2024-07-18"
    assert len(outcomes(run, "math")) == 11 and all(outcomes(run, "math").values())
    assert {key[1:]: v.reason for key, v in run.verdicts("math").items() if v.outcome == "ungraded"} == {
        ("coins", 1): "no completion: the imported files have none"
    }
    reasons = [(c.problem_id, c.index) for _, c in run.completions() if c.finish_reason == "length"]
    assert reasons == [("apples", 0)]


def test_output_lists_of_livecodebench() -> None:
    task = f"tasks=[{{id = {json.dumps(str(BY_HAND / 'programs.jsonl'))}, grader = 'code'}}]"
    run = imported(BY_HAND / "codegeneration_2_0.2_eval_all.json", options=("--set", task))
    assert (
        outcomes(run, "livecodebench:graded") == outcomes(run, "code") and mean(outcomes(run, "code").values()) == 0.5
    )
    assert run.config()["sampling"] == {"temperature": 0.2} and run.config()["model"]["path"] == "by_hand"


def test_the_responses_endpoint_and_several_choices_of_a_batch() -> None:
    parts = [{"type": "reasoning"}, {"type": "message", "content": [{"type": "output_text", "text": "\\boxed{7}"}]}]
    body: dict[str, Any] = {"model": "m", "output": parts, "usage": {"input_tokens": 3, "output_tokens": 4}}
    choices = [{"text": f"\\boxed{{{number}}}", "finish_reason": "stop"} for number in (7, 8)]
    rows = [
        {"custom_id": "apples", "response": {"status_code": 200, "body": body}, "error": None},
        {"custom_id": "books", "response": {"status_code": 200, "body": {"model": "m", "choices": choices}}},
        {"custom_id": "eggs", "response": None, "error": {"code": "batch_expired"}},
    ]
    Path("batch.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = imported(Path("batch.jsonl"), options=("--problem", "apples,books,eggs"), code=3)
    assert outcomes(run, "math") == {("apples", 0): True, ("books", 0): True, ("books", 1): False}
    counts = {(c.tokens.n_prompt, c.tokens.n_completion) for _, c in run.completions() if c.problem_id == "apples"}
    assert counts == {(3, 4)}


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_archives_of_older_versions_are_read(method: int) -> None:
    archive = EvalArchive.open(FILES / "inspect_ai/sums.eval")
    with zipfile.ZipFile("old.eval", "w", method) as old:
        for name, member in archive.members.items():
            old.writestr(name, archive._content(member))
    assert list(EvalArchive.open(Path("old.eval")).rows()) == list(archive.rows())


def test_a_damaged_archive_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    whole = (FILES / "inspect_ai/sums.eval").read_bytes()
    Path("cut.eval").write_bytes(whole[: len(whole) // 2])
    assert main(["import", "cut.eval", "--tasks", SUMS, "--out", "run"]) == 2
    assert "cut.eval is not a log of inspect_ai: File is not a zip file; was it cut off?" in capsys.readouterr().err
    at = whole.index(b"samples/") + 200
    Path("bad.eval").write_bytes(whole[:at] + bytes(64) + whole[at + 64 :])
    assert main(["import", "bad.eval", "--tasks", SUMS, "--out", "run"]) == 2
    assert "bad.eval is damaged: samples/" in capsys.readouterr().err
    with zipfile.ZipFile("altered.eval", "w", zipfile.ZIP_STORED) as altered:
        for name, member in EvalArchive.open(FILES / "inspect_ai/sums.eval").members.items():
            altered.writestr(name, EvalArchive.open(FILES / "inspect_ai/sums.eval")._content(member))
    content = Path("altered.eval").read_bytes()
    at = content.index(b"samples/")
    Path("altered.eval").write_bytes(content[:at] + content[at:].replace(b"mockllm/model", b"mockllm/other", 1))
    assert main(["import", "altered.eval", "--tasks", SUMS, "--out", "run"]) == 2
    assert "wrong checksum" in capsys.readouterr().err
    assert not Path("run").exists()


def test_log_likelihoods_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"doc_id": 0, "doc": {"question": "?"}, "resps": [[["-1.5", "False"]]], "filter": "none", "acc": 1.0}
    Path("samples.jsonl").write_text(json.dumps(row) + "\n")
    assert main(["import", "samples.jsonl", "--tasks", SUMS, "--out", "run"]) == 2
    assert "line 1 is not a row of the format lm-eval: `resps` holds log-likelihoods" in capsys.readouterr().err
