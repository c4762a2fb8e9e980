"""Controls of a trained model: prompts, choices, matched temperatures, run folders, refusals and the table.

The "trained" model is the bundled one with its logits multiplied by 1.5, so that the matched temperature is 1 / 1.5.
"""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import scipy.special

from harness.cli import main
from harness.core.config import parse
from harness.core.errors import ConfigError
from harness.core.types import Completion, Message, Tokens
from harness.evaluation import control_runs
from harness.evaluation.config import EvalConfig, PromptConfig
from harness.evaluation.controls import (
    AS_TRAINED,
    BUILT_IN,
    Candidate,
    ControlsConfig,
    SearchConfig,
    base_config,
    base_of,
    candidates,
    choose,
    match_temperature,
    mean_entropy,
    selection_config,
    with_prompt,
)
from harness.models.loading import BUNDLED
from harness.reports.compare import compare
from harness.reports.protocol_card import card
from harness.reports.report import read_runs
from harness.reports.tables.controls import TABLE
from harness.runs.folder import RunReader

FACTOR = 1.5
SMALL = ["--tasks", "countdown", "--n", "4", "--limit", "12", "--quiet"]
CHEAP = ["--set", "controls.search.problems=6", "--set", "controls.search.n=2"]


def config(**changes):
    return parse(EvalConfig, {"model": {"path": "trained"}, "tasks": ["countdown"], **changes})


# --- prompts ----------------------------------------------------------------------------------------------------

SYSTEM, USER = Message("system", "Be brief."), Message("user", "1+1?")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (PromptConfig(), (SYSTEM, USER)),
        (PromptConfig(user="Q: {prompt}\nA:"), (SYSTEM, Message("user", "Q: 1+1?\nA:"))),
        (PromptConfig(user="\\boxed{}: {prompt}"), (SYSTEM, Message("user", "\\boxed{}: 1+1?"))),
        (PromptConfig(system="Be right."), (Message("system", "Be right."), USER)),
        (PromptConfig(system=""), (USER,)),
        (PromptConfig(plain=True), (Message("plain", "Be brief.\n\n1+1?"),)),
        (PromptConfig(user="{prompt} =", system="", plain=True), (Message("plain", "1+1? ="),)),
    ],
)
def test_a_prompt_changes_the_messages(prompt, expected):
    assert prompt.rewrite((SYSTEM, USER)) == expected


def test_a_template_goes_around_the_last_question_and_not_around_a_begun_answer():
    messages = (USER, Message("assistant", "2"), Message("user", "2+2?"), Message("assistant", "It is"))
    assert [m.content for m in PromptConfig(user="<{prompt}>").rewrite(messages)] == ["1+1?", "2", "<2+2?>", "It is"]


def test_settings_of_a_task_stand_above_those_of_all_tasks():
    settings = {
        "prompt": {"user": "a {prompt}", "plain": True},
        "per_task": {"countdown": {"prompt": {"plain": False}}},
    }
    assert config(**settings).prompt_of("countdown") == PromptConfig(user="a {prompt}", plain=False)


def test_a_template_without_its_place_is_refused():
    with pytest.raises(ConfigError, match=r"must have \{prompt\} where the task's own text goes"):
        config(prompt={"user": "Solve this."})


def test_a_config_without_changes_of_the_prompts_has_the_identity_that_it_had():
    from harness.core.config import to_tree

    tree = to_tree(config(), identity_only=True)
    assert "prompt" not in tree
    assert "chat_template" not in tree["model"]


# --- plans ------------------------------------------------------------------------------------------------------


def test_the_base_has_the_prompts_and_the_chat_template_of_the_trained_model():
    trained = config(prompt={"user": "{prompt}!"}, sampling={"temperature": 0.7}, seed=3)
    base = base_config(trained, "other/base", "abc")
    assert (base.model.path, base.model.revision, base.model.chat_template) == ("other/base", "abc", "trained")
    assert replace(base, model=trained.model) == trained


def test_a_server_writes_the_prompts_of_a_base_model_itself():
    remote = config(engine={"id": "openai", "base_url": "http://127.0.0.1:1/v1"})
    assert base_config(remote, "base").model.chat_template is None


def test_the_own_prompts_of_a_task_and_those_of_the_user_are_candidates():
    trained = config(tasks=[{"id": "math500", "prompt": "flowrl"}])
    search = SearchConfig(prompts={"mine": PromptConfig(user="{prompt} ?")})
    found = candidates(trained, "math500", search)
    names = [candidate.name for candidate in found]
    assert names[: 1 + len(BUILT_IN)] == [AS_TRAINED, *BUILT_IN]
    assert "prompt=simple" in names
    assert "prompt=flowrl" not in names
    assert names[-1] == "mine"
    chosen = with_prompt(trained, "math500", found[names.index("prompt=simple")])
    assert chosen.tasks[0].options.prompt == "simple"
    assert with_prompt(trained, "math500", found[0]) == trained
    only = candidates(trained, "math500", replace(search, built_in=False))
    assert [candidate.name for candidate in only] == [AS_TRAINED, "mine"]


def test_a_candidate_keeps_what_it_does_not_change():
    trained = config(prompt={"system": "Be brief."})
    changed = with_prompt(trained, "countdown", Candidate("x", PromptConfig(user="{prompt}?")))
    assert changed.prompt_of("countdown") == PromptConfig(user="{prompt}?", system="Be brief.")


def test_a_choice_reads_another_split_and_only_its_task():
    trained = config(tasks=["countdown", "math500"], per_task={"math500": {"max_tokens": 9}}, limit=500, until=0.02)
    small = selection_config(trained, "countdown", "validation", 8, 2)
    assert [choice.id for choice in small.tasks] == ["countdown"]
    assert (small.split, small.limit, small.n, small.until, small.per_task) == ("validation", 8, 2, None, {})


@pytest.mark.parametrize(
    ("rates", "best"),
    [
        ({"a": 0.2, "b": 0.5, "c": 0.4}, "b"),
        ({"a": 0.5, "b": 0.5}, "a"),
        ({"a": None, "b": 0.0}, "b"),
        ({"a": None}, "a"),
    ],
)
def test_the_first_of_the_highest_rates_is_chosen(rates, best):
    assert choose(rates) == best


# --- temperatures -----------------------------------------------------------------------------------------------

LOGITS = np.array([2.0, 0.5, 0.0, -1.0])


def entropy_at(temperature):
    p = scipy.special.softmax(LOGITS / temperature)
    return float(-(p * np.log(p)).sum())


@pytest.mark.parametrize("target", [0.05, 0.4, 0.9, 1.3])
def test_the_matched_temperature_is_the_root(target):
    match = match_temperature(entropy_at, target, probes=30, tolerance=1e-3)
    exact = scipy.optimize.brentq(lambda t: entropy_at(t) - target, 0.05, 5)
    assert match.is_met
    assert match.temperature == pytest.approx(exact, rel=1e-2)
    assert abs(match.entropy - target) <= 1e-3 * target
    assert match.tried[-1] == (match.temperature, match.entropy)


@pytest.mark.parametrize(("target", "end"), [(2.0, 5.0), (1e-12, 0.05)])
def test_an_entropy_that_no_temperature_has_is_not_met(target, end):
    match = match_temperature(entropy_at, target, probes=12)
    assert not match.is_met
    assert len(match.tried) == 12
    assert match.temperature == pytest.approx(end, rel=0.01)


def completion(*logp):
    tokens = Tokens(1, len(logp), (0,), (0,) * len(logp), logp)
    return Completion("p", 0, 0, "", "stop", tokens)


def test_the_mean_entropy_is_over_tokens():
    assert mean_entropy([completion(-1.0, -2.0, -3.0), completion(-6.0)]) == pytest.approx(3.0)
    assert mean_entropy([completion(-1.0), Completion("p", 1, 0, "", "stop", Tokens(1, 1))]) is None
    assert mean_entropy([]) is None


def test_the_mean_entropy_of_samples_is_that_of_their_distributions():
    import torch

    from harness.core.progress import Progress
    from harness.core.protocols import ModelSource
    from harness.evaluation.loop import evaluate
    from harness.models.loading import load_module

    temperature, folder = 0.8, Path("run")
    small = config(
        model={"path": "countdown-tiny"}, sampling={"temperature": temperature}, n=8, limit=24, store_ids=True
    )
    run = evaluate(small, folder, Progress(quiet=True))
    module = load_module(ModelSource(str(BUNDLED / "countdown-tiny")))
    sampled, exact = [], []
    for _, one in run.completions():
        prompt, ids = one.tokens.prompt_ids, one.tokens.completion_ids
        logits = module(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].double()
        logp = torch.log_softmax(logits / temperature, -1)
        exact += (-(logp.exp() * logp).sum(-1)).tolist()
        sampled += [-value for value in one.tokens.logp_behaviour]
    error = np.std(np.array(sampled) - exact) / math.sqrt(len(exact))
    found = mean_entropy([one for _, one in run.completions()])
    assert found == pytest.approx(np.mean(exact), abs=4 * error)
    assert error < 0.03 * found


# --- runs -------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def sharpened(tmp_path_factory):
    """Write the bundled model with its logits multiplied."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("model") / "sharp"
    shutil.copytree(BUNDLED / "countdown-tiny", folder)
    module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        module.model.norm.weight *= FACTOR
    module.save_pretrained(folder)
    return str(folder)


def evaluated(model, out, *more):
    return main(["eval", model, "--controls", "countdown-tiny", *SMALL, *CHEAP, "--out", str(out), *more])


@pytest.fixture(scope="module")
def finished(sharpened, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "out"
    kinds = "controls.kinds=['base','best-prompt','base-entropy','trained-entropy']"
    assert evaluated(sharpened, out, "--set", kinds, "--set", "controls.entropy.problems=32") == 0
    return out


def mark(folder):
    return RunReader.read(folder).record.data["control"]


def test_matched_temperatures_undo_the_factor_of_the_logits(finished):
    assert mark(finished / "base-entropy")["temperature"]["countdown"] == pytest.approx(1 / FACTOR, rel=0.06)
    assert mark(finished / "trained-entropy")["temperature"]["countdown"] == pytest.approx(FACTOR, rel=0.06)
    for name in ("base-entropy", "trained-entropy"):
        found = mark(finished / name)
        assert found["entropy"]["countdown"] == pytest.approx(found["target"]["countdown"], rel=0.02)
        assert found["not matched"] == []
        settings = card(RunReader.read(finished / name), "countdown")
        assert settings["temperature"] == found["temperature"]["countdown"]
        assert settings["control"].startswith(
            f"{name}: {len(found['tried']['countdown'])} temperatures on 32 validation"
        )


def test_every_control_is_a_finished_run_with_its_mark(finished):
    runs = read_runs([finished])
    kinds = {run.folder.name: run.record.data.get("control", {}).get("kind") for run in runs}
    assert kinds.pop("trained") is None
    assert kinds.pop("base") == "base"
    assert all(name.endswith(str(kind)) for name, kind in kinds.items())
    assert {run.status for run in runs} == {"done"}
    digest = RunReader.read(finished / "trained").record.config_digest
    assert {run.record.data["control"]["of"] for run in runs if run.folder.name != "trained"} == {digest}


def test_the_best_prompt_is_chosen_on_the_validation_split(finished):
    found = mark(finished / "base")
    if "best-prompt" not in found["also"]:
        found = mark(finished / "base-best-prompt")
    rates = found["rates"]["countdown"]
    assert list(rates) == [AS_TRAINED, *BUILT_IN]
    assert found["chosen"]["countdown"] == max(rates, key=lambda name: rates[name])
    for name, rate in rates.items():
        run = RunReader.read(finished / "selection" / "countdown" / f"prompt-{name}")
        assert run.config()["split"] == "validation"
        outcomes = [verdict.outcome for verdict in run.verdicts("countdown").values()]
        assert len(outcomes) == 6 * 2
        assert outcomes.count("correct") / len(outcomes) == pytest.approx(rate)


def test_the_table_pairs_the_trained_model_with_each_control(finished):
    (table,) = TABLE().build(read_runs([finished]))
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert rows[0]["control"] == "trained"
    assert rows[0]["trained less this"] is None

    def rates(name):
        verdicts = RunReader.read(finished / name).verdicts("countdown")
        problems = {problem for _, problem, _ in verdicts}
        return {
            p: np.mean([v.outcome == "correct" for (_, problem, _), v in verdicts.items() if problem == p])
            for p in problems
        }

    trained = rates("trained")
    assert rows[0]["avg"].value == pytest.approx(np.mean(list(trained.values())))
    for row in rows[1:]:
        control = rates(row["run"])
        difference = row["trained less this"]
        assert difference.value == pytest.approx(np.mean([trained[p] - control[p] for p in trained]))
        assert difference.low < difference.value < difference.high
        assert row["p (Holm)"] >= row["p"]
    assert any("prompts on 6 validation problems x 2 samples" in note for note in table.notes)


def test_runs_that_served_a_choice_are_reported_only_by_name(finished):
    assert not any("selection" in run.folder.parts for run in read_runs([finished]))
    assert len(read_runs([finished / "selection"])) > len(BUILT_IN)
    assert "selection" not in Path(finished, "report", "report.md").read_text()


def test_the_base_and_the_trained_model_are_alike_but_for_the_model(finished):
    alone = compare([finished / "base"], [finished / "trained"], metric="avg")
    (table,) = TABLE().build(read_runs([finished]))
    difference = alone.rows[0][alone.columns.index("difference")]
    assert table.rows[1][table.columns.index("trained less this")] == difference


def lines_of(out):
    """Return all completions without the time that each took."""
    files = sorted(out.rglob("completions.jsonl"))
    rows = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    kept = [[(row["problem_id"], row["index"], row["text"]) for row in of_file] for of_file in rows]
    return {str(file.parent.relative_to(out)): sorted(found) for file, found in zip(files, kept, strict=True)}


@pytest.mark.parametrize("n_before", [1, 5, 10])
def test_a_command_that_was_interrupted_resumes(sharpened, finished, monkeypatch, n_before):
    out, evaluate, calls = Path("out"), control_runs.evaluate_opened, []

    def interrupted(setup, progress):
        calls.append(setup.folder)
        if len(calls) > n_before:
            raise KeyboardInterrupt
        return evaluate(setup, progress)

    more = ["--set", "controls.kinds=['base','best-prompt','base-entropy']", "--set", "controls.entropy.problems=32"]
    with monkeypatch.context() as patched:
        patched.setattr(control_runs, "evaluate_opened", interrupted)
        assert evaluated(sharpened, out, *more) == 130
    done = {folder: (folder / "completions.jsonl").read_bytes() for folder in map(Path, calls[:n_before])}
    assert evaluated(sharpened, out, *more) == 0
    assert all((folder / "completions.jsonl").read_bytes() == before for folder, before in done.items())
    found, unbroken = lines_of(out), lines_of(finished)
    assert found == {name: rows for name, rows in unbroken.items() if name in found}
    assert "base-entropy" in found


def test_a_base_model_without_a_chat_template_is_asked_with_that_of_the_trained_model(sharpened, capsys):
    shutil.copytree(BUNDLED / "countdown-tiny", "bare")
    Path("bare/chat_template.jinja").unlink()
    assert main(["eval", "bare", *SMALL, "--out", "alone"]) == 2
    assert "has no chat template" in capsys.readouterr().err
    only = ["--set", "controls.kinds=['base']"]
    assert main(["eval", sharpened, "--controls", "bare", *only, *SMALL, "--out", "out"]) == 0
    assert main(["eval", "countdown-tiny", *SMALL, "--out", "alone"]) == 0
    assert lines_of(Path("out/base")) == lines_of(Path("alone"))
    assert card(RunReader.read(Path("out/base")), "countdown")["chat template"] == sharpened


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["countdown-tiny", "--controls"], "countdown-tiny is neither a train run nor a checkpoint in one"),
        (
            ["countdown-tiny", str(BUNDLED / "countdown-tiny"), "--controls", "x"],
            "--controls is for one model at one temperature",
        ),
        (["countdown-tiny", "--controls", "x", "--temperature", "0.5,1"], "for one model at one temperature"),
        (["countdown-tiny", "--controls", "countdown-tin"], "no model is called 'countdown-tin'"),
        (["countdown-tiny", "--controls", "x", "--set", "controls.kind=['base']"], "unknown key 'controls.kind'"),
        (["countdown-tiny", "--controls", "x", "--set", "controls.kinds=[]"], "kinds must name at least one of base"),
        (["countdown-tiny", "--controls", "x", "--set", "controls.search.n=0"], "'controls.search.n' must be at least"),
        (
            ["countdown-tiny", "--controls", "x", "--set", "controls.search.prompts.plain={user='{prompt}'}"],
            "the prompt 'plain' has the name of a built-in one",
        ),
    ],
)
def test_what_can_not_be_controlled_is_refused_at_once(capsys, arguments, message):
    assert main(["eval", *arguments, *SMALL, "--out", "out"]) == 2
    assert message in capsys.readouterr().err
    assert not Path("out").exists()


def test_the_base_of_a_train_run_is_on_record():
    assert main(["train", "countdown-grpo", "--set", "loop.steps=1", "--out", "t", "--quiet"]) == 0
    (checkpoint,) = Path("t/checkpoints").iterdir()
    assert base_of("t") == base_of(str(checkpoint)) == "countdown-tiny"


def own_task(*splits):
    """Write a task with these splits, and return a config file that names it."""
    folder = Path("data")
    folder.mkdir()
    for split in splits:
        rows = [{"question": f"{i} + {i} =", "answer": str(2 * i)} for i in range(1, 5)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("own.toml").write_text('tasks = [{ id = "jsonl", path = "data", grader = "exact" }]\n')
    return "own.toml"


def test_a_task_without_a_validation_split_is_refused_the_search_alone(sharpened, capsys):
    run = ["eval", sharpened, "--controls", "countdown-tiny", "--config", own_task("test"), "--n", "2", "--out", "out"]
    run += ["--max-tokens", "4"]
    assert main([*run, "--dry-run"]) == 0
    refusal = "jsonl: no control best-prompt: "
    assert refusal in capsys.readouterr().out
    assert not Path("out").exists()
    assert main(run) == 0
    printed = capsys.readouterr()
    assert printed.err.index(refusal) < printed.err.index("eval jsonl")
    assert {path.name for path in Path("out").iterdir()} == {"trained", "base", "base-entropy", "selection", "report"}
    assert "NOT RUN: best-prompt: " in printed.out
    assert mark(Path("out/base-entropy"))["split"] == {"jsonl": "test"}


def test_a_choice_never_reads_the_split_that_is_evaluated(sharpened, capsys):
    assert evaluated(sharpened, "out", "--split", "validation", "--set", "controls.kinds=['best-prompt','base']") == 0
    assert "NOT RUN: best-prompt: the evaluation reads the validation split itself" in capsys.readouterr().out
    assert not Path("out/selection").exists()


def test_without_randomness_there_is_no_entropy_to_match(sharpened, capsys):
    assert evaluated(sharpened, "out", "--temperature", "0", "--n", "1") == 0
    assert "NOT RUN: base-entropy: at temperature 0 there is no entropy to match" in capsys.readouterr().out
    assert not Path("out/base-entropy").exists()


def test_an_engine_without_log_probabilities_leaves_out_what_needs_them(capsys):
    scripted = ["--engine", "scripted", "--set", "engine.replies=['no', 'yes']"]
    arguments = [argument for argument in SMALL if argument != "--quiet"]
    assert main(["eval", "countdown-tiny", "--controls", "countdown-tiny", *arguments, *scripted, "--out", "out"]) == 0
    assert "returns no log-probabilities, so no temperature is matched" in capsys.readouterr().err
    assert {path.name for path in Path("out").iterdir()} == {"trained", "base", "selection", "report"}


def test_prompts_that_do_not_fit_are_left_out_and_named(sharpened, capsys):
    long = "controls.search.prompts.long={user='" + "1 " * 60 + "{prompt}'}"
    assert evaluated(sharpened, "out", "--set", long, "--set", "controls.kinds=['base','best-prompt']") == 0
    assert "Left out: long (the prompt of " in " ".join(capsys.readouterr().out.split())


def test_a_folder_that_is_a_run_is_refused(sharpened, capsys):
    assert main(["eval", "countdown-tiny", *SMALL, "--n", "1", "--out", "out"]) == 0
    assert evaluated(sharpened, "out") == 2
    assert "out is a run, and controls need a folder of their own" in capsys.readouterr().err


def test_controls_of_a_config_file_are_parsed():
    assert parse(ControlsConfig, {"kinds": ["base"], "split": "train"}).split == "train"
