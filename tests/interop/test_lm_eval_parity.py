"""lm-eval's tasks run here give the numbers of lm-eval's own run of the same tasks with the same model."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict

import pytest
from character_model import write_character_model

pytest.importorskip("lm_eval", reason="lm-eval is not installed; `tox -e interop` runs this")
pytest.importorskip("accelerate", reason="lm-eval's own engine needs accelerate")

from harness.cli import main
from harness.runs.folder import RunReader

GENERATED = ["own_gsm8k", "own_gsm8k_cot"]
SCORED = ["own_hellaswag", "own_winogrande", "own_cola", "own_wikitext", "own_lambada", "own_mmlu"]
BOOTSTRAP = 100

pytestmark = pytest.mark.filterwarnings("default")  # those of lm-eval and datasets are not ours


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    from lm_eval_tasks import write_tasks

    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_character_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def lm(model):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(model), batch_size=1, device="cpu")


def theirs(lm, tasks, names, **settings):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    done = simple_evaluate(model=lm, tasks=names, task_manager=manager, bootstrap_iters=BOOTSTRAP, **settings)
    return {f"lm_eval:{name}": numbers(found) for name, found in done["results"].items()}


def numbers(found):
    """Value and standard error by `metric,filter`."""
    keys = [key for key in found if "," in key and "_stderr," not in key]
    return {key: (found[key], found[key.replace(",", "_stderr,")]) for key in keys}


def config(folder, tasks, names, **options):
    tables = [
        {"id": f"lm_eval:{n}", "include_path": str(tasks), "bootstrap_iters": BOOTSTRAP, **options} for n in names
    ]
    written = [", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items()) for table in tables]
    path = folder / "config.toml"
    path.write_text(f"tasks = [{', '.join(f'{{{table}}}' for table in written)}]\n")
    return path


def evaluated(folder, model, tasks, names, *arguments, **options):
    run = folder / "run"
    settings = ["--config", str(config(folder, tasks, names, **options)), "--out", str(run), "--quiet"]
    assert main(["eval", str(model), *settings, *arguments]) == 0
    return RunReader.read(run)


def ours(view):
    found = defaultdict(dict)
    for task, estimates in view.estimates().items():
        for e in estimates:
            if "lm-eval" in e.method:
                text = e.method.partition("standard error ")[2].partition(",")[0]
                found[task][e.name] = (e.value, float(text) if text else "N/A")
    return {task: values for task, values in found.items() if values}


@pytest.fixture(scope="module")
def both(tmp_path_factory, lm, model, tasks):
    names = [*GENERATED, *SCORED]
    view = evaluated(tmp_path_factory.mktemp("both"), model, tasks, names)
    return view, ours(view), theirs(lm, tasks, names)


def test_every_number_equals_lm_evals(both):
    _, mine, others = both
    assert mine == others


def test_compared_scores_are_not_all_zero(both):
    _, mine, _ = both
    assert 0 < mine["lm_eval:own_gsm8k"]["exact_match,flexible-extract"][0] < 1
    assert mine["lm_eval:own_hellaswag"]["acc,none"] != mine["lm_eval:own_hellaswag"]["acc_norm,none"]
    assert mine["lm_eval:own_wikitext"]["word_perplexity,none"][0] > 1
    assert mine["lm_eval:own_mmlu"]["acc,none"] != mine["lm_eval:own_mmlu_rain"]["acc,none"]


def test_our_metrics_are_added_to_tasks_with_right_and_wrong_answers(both):
    view, mine, _ = both
    estimates = {task: {e.name: e.value for e in group} for task, group in view.estimates().items()}
    hellaswag = estimates["lm_eval:own_hellaswag"]
    assert hellaswag["avg@1"] == pytest.approx(mine["lm_eval:own_hellaswag"]["acc,none"][0])
    assert not any(name.startswith("avg@") for name in estimates["lm_eval:own_wikitext"])


def test_resumed_lm_eval_run_generates_nothing_and_reports_the_same(tmp_path, both, model, tasks):
    view, mine, _ = both
    folder = tmp_path / "resumed"
    shutil.copytree(view.folder.parent, folder)
    journal = folder / "run" / "completions.jsonl"
    verdicts = folder / "run" / "verdicts.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[: len(lines) // 2]))  # as after a kill
    kept = {tuple(json.loads(line)[key] for key in ("task", "problem_id")) for line in lines[: len(lines) // 2]}
    judged = verdicts.read_text().splitlines(keepends=True)
    verdicts.write_text(
        "".join(line for line in judged if (json.loads(line)["task"], json.loads(line)["problem_id"]) in kept)
    )
    again = evaluated(folder, model, tasks, [*GENERATED, *SCORED])
    assert ours(again) == mine
    assert without_times(journal.read_text().splitlines()) == without_times(lines)


def without_times(lines):
    """By task, problem and index; how long the engine was waited for is another each time, and so is the checksum."""
    rows = [{**json.loads(line), "engine_s": None, "crc": None} for line in lines]
    return sorted(rows, key=lambda row: (row["task"], row["problem_id"], row["index"]))


@pytest.mark.parametrize(
    ("arguments", "options", "settings"),
    [
        (["--limit", "7"], {"num_fewshot": 2}, {"limit": 7, "num_fewshot": 2}),
        (["--limit", "7"], {"fewshot_seed": 7}, {"limit": 7, "fewshot_random_seed": 7}),
        (
            ["--limit", "7"],
            {"apply_chat_template": True, "system_instruction": "be brief"},  # turns, unless configured otherwise
            {"limit": 7, "apply_chat_template": True, "fewshot_as_multiturn": True, "system_instruction": "be brief"},
        ),
    ],
)
def test_lm_eval_task_options_are_passed_to_lm_eval(tmp_path, lm, model, tasks, arguments, options, settings):
    names = ["own_gsm8k", "own_hellaswag"]
    mine = ours(evaluated(tmp_path, model, tasks, names, *arguments, **options))
    assert mine == theirs(lm, tasks, names, **settings)


def test_several_replies_to_a_document_become_lm_evals_vote(tmp_path, model, tasks):
    """Drawn replies can't be the same as another engine's, so lm-eval is given ours."""
    from lm_eval.api.model import LM

    view = evaluated(tmp_path, model, tasks, ["own_drawn"], "--n", "5")
    replies = defaultdict(dict)
    for _, completion in view.completions():
        replies[int(completion.problem_id.rpartition("-")[2])][completion.index] = completion.text

    class Recorded(LM):
        def generate_until(self, requests):
            turns = defaultdict(lambda: iter(range(5)))
            return [replies[r.doc_id][next(turns[r.doc_id])] for r in requests]

        def loglikelihood(self, requests):
            raise NotImplementedError

        loglikelihood_rolling = loglikelihood

    mine, others = ours(view), theirs(Recorded(), tasks, ["own_drawn"])
    assert mine == others
    assert mine["lm_eval:own_drawn"]["exact_match,score-first"] != mine["lm_eval:own_drawn"]["exact_match,maj@5"]
    assert {e.name for e in view.estimates()["lm_eval:own_drawn"]} >= {"avg@5", "pass@4"}


def test_lm_eval_task_refuses_an_engine_without_likelihoods_before_writing(tmp_path, model, tasks, capsys):
    settings = ["--config", str(config(tmp_path, tasks, ["own_hellaswag"])), "--out", str(tmp_path / "run")]
    assert main(["eval", str(model), "--engine", "scripted", *settings]) == 2
    assert "the engine 'scripted' gives no log-likelihoods" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_unknown_lm_eval_task_names_the_nearest(capsys):
    assert main(["eval", "countdown-tiny", "--tasks", "lm_eval:gsm9k"]) == 2
    assert "no task of lm-eval is called 'gsm9k'; did you mean 'gsm8k'" in capsys.readouterr().err


def test_show_prints_an_lm_eval_task(tasks, capsys):
    assert main(["show", "lm_eval:own_gsm8k", "--set", f"include_path={tasks}"]) == 0
    assert "own_gsm8k of lm-evaluation-harness" in capsys.readouterr().out
    assert main(["show", "lm_eval:own_gsm8k", "--problem", "0", "--set", f"include_path={tasks}"]) == 0
    assert "Question: " in capsys.readouterr().out
