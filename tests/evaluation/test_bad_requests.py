"""Impossible evaluations are refused before a model is loaded or a folder created; empty completions are warned of."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest

from harness.cli import main
from harness.core import registry
from harness.core.progress import Progress
from harness.core.protocols import ModelSource
from harness.core.types import Completion, Graded, Likelihood, Message, Passage, Problem, Tokens, Verdict
from harness.evaluation.loop import EMPTY_WARNING_AT, with_progress
from harness.models.loading import BUNDLED, context_of

COUNTDOWN = ["--tasks", "countdown", "--n", "1", "--limit", "3", "--out", "run"]


@pytest.fixture(autouse=True)
def model(tmp_path, monkeypatch):
    """A model that can be read but not loaded, as its weights are invalid: a refusal must come before loading."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(BUNDLED / "countdown-tiny", tmp_path / "model")
    Path("model/model.safetensors").write_text("not weights")
    return Path("model")


def refused(capsys, *command):
    assert main(["eval", "model", *command]) == 2
    assert not Path("run").exists()
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    return printed


def test_a_model_without_a_chat_template_is_refused(capsys, model):
    (model / "chat_template.jinja").unlink()
    assert "the tokenizer of model has no chat template" in refused(capsys, *COUNTDOWN)


def test_token_budget_that_does_not_fit_is_refused_with_the_lengths(capsys):
    printed = refused(capsys, *COUNTDOWN, "--max-tokens", "60")
    prompt_tokens = len(["3", "5", "7", "8", "9", "9", "=", "10", ":"])
    assert f"has {prompt_tokens} tokens; with 60 new ones it exceeds the model's context of 64" in printed
    assert "(and 2 other problems don't fit)" in printed
    assert f"set --max-tokens (sampling.max_tokens) to at most {64 - prompt_tokens}" in printed


def test_token_budget_that_just_fits_is_accepted(capsys):
    assert main(["eval", "model", *COUNTDOWN, "--max-tokens", "55"]) == 2
    assert "the model model can't be loaded" in capsys.readouterr().err, "it came as far as the weights"


def test_a_k_above_n_is_refused(capsys):
    printed = refused(capsys, *COUNTDOWN, "--set", 'metrics=[{id="pass_at_k", ks=[4]}]')
    assert (
        "the metric pass_at_k needs k = 4 samples per problem, and n is 1; raise n, or choose other metrics" in printed
    )


def test_a_folder_of_another_run_is_refused_before_the_model_is_loaded(capsys, tmp_path):
    assert main(["eval", "countdown-tiny", *COUNTDOWN, "--engine", "scripted", "--quiet"]) == 0
    before = Path("run/run.json").read_bytes()
    capsys.readouterr()
    assert main(["eval", "model", *COUNTDOWN]) == 2
    assert "run belongs to another config" in capsys.readouterr().err
    assert Path("run/run.json").read_bytes() == before


def test_rope_scaled_context_is_counted_at_its_scaled_length(model):
    config = json.loads((model / "config.json").read_text())
    rope = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
    assert context_of(ModelSource("model")) == 64
    (model / "config.json").write_text(json.dumps({**config, "rope_parameters": rope}))
    assert context_of(ModelSource("model")) == 256


def test_a_document_that_is_scored_is_never_too_long(capsys, monkeypatch):
    """A document is scored in windows of the context."""
    messages = (Message("user", "3 " * 200),)
    scored = Problem("a", "countdown", messages, None, passages=(Passage((), "3 " * 200),))
    monkeypatch.setattr(registry.load("tasks", "countdown"), "problems", lambda *_: iter([scored]))
    assert main(["eval", "model", *COUNTDOWN]) == 2
    assert "the model model can't be loaded" in capsys.readouterr().err, "it came as far as the weights"


# --- empty completions ------------------------------------------------------------------------------------------


def warnings_of(texts, **fields):
    stream = io.StringIO()
    problem = Problem("p", "t", (), "r")
    items = [
        Graded(problem, Completion("p", i, 0, text, "stop", Tokens(1, 1), **fields), Verdict("incorrect", 0.0))
        for i, text in enumerate(texts)
    ]
    assert list(with_progress(items, "t", len(items), [], Progress(quiet=True, stream=stream))) == items
    return stream.getvalue().splitlines()


def test_many_empty_completions_give_an_early_and_a_final_warning():
    n = EMPTY_WARNING_AT
    first, last = warnings_of(["", " \n"] * n)
    assert first.startswith(f"warning: t: the first {n} completions are all empty; the model stopped at once")
    assert last.startswith(f"warning: t: {2 * n} of {2 * n} completions are empty")


def test_some_empty_completions_give_a_final_warning():
    n = 2 * EMPTY_WARNING_AT
    (only,) = warnings_of(["4", *[""] * n])
    assert only.startswith(f"warning: t: {n} of {n + 1} completions are empty")
    assert warnings_of(["4"] * n) == []


def test_scored_answers_are_not_empty_completions():
    assert warnings_of([""] * EMPTY_WARNING_AT, likelihoods=(Likelihood(-1.0, False, 3),)) == []
