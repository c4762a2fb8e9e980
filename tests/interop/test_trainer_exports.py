"""Exported to TRL and verl, problems come back to our grader in another process, and get its rewards there."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import harness
from harness.cli import main
from harness.core import config
from harness.core.errors import DataError
from harness.core.protocols import Grader
from harness.core.types import Completion, Problem, Tokens, Verdict
from harness.graders.math.reference import typed_reference
from harness.interop.problems import read_rows
from harness.interop.verdict_server import Judge
from harness.interop.verl_export import ground_truth
from harness.models.loading import resolve

LIMIT = 12


@pytest.fixture(scope="module")
def problems():
    """The same problems, from the task itself."""
    task = config.parse_plugin("tasks", "countdown").build()
    found = [problem for problem, _ in zip(task.problems("train", 0), range(LIMIT), strict=False)]
    return task, {problem.id: problem for problem in found}


def export(form, folder, *arguments, tasks="countdown"):
    assert main(["export", form, str(folder), "--tasks", tasks, "--split", "train", "--limit", str(LIMIT),
                 *arguments]) == 0  # fmt: skip
    return folder


def loaded(folder, name):
    """As both trainers load a function: from its file, by its name."""
    spec = importlib.util.spec_from_file_location("exported_reward", folder / "reward.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def replies(task, problem):
    """A right one, a wrong one, and none."""
    return [task.demonstrate(problem, 0), "1+1=2;2+1=3", ""]


def reward_of(task, problem, text):
    return task.grader.grade(problem, Completion(problem.id, 0, 0, text, "stop", Tokens(0, 0))).reward


# --- TRL --------------------------------------------------------------------------------------------------------------


def test_trl_export_gives_messages_and_the_graders_rewards(tmp_path, problems):
    task, by_id = problems
    rows = read_rows(export("trl", tmp_path / "out") / "train.jsonl")
    assert {row["problem_id"]: row["prompt"] for row in rows} == {
        name: [{"role": "user", "content": problem.messages[0].content}] for name, problem in by_id.items()
    }
    asked = [(row, text) for row in rows for text in replies(task, by_id[row["problem_id"]])]
    found = loaded(tmp_path / "out", "reward")(
        prompts=[row["prompt"] for row, _ in asked],
        completions=[[{"role": "assistant", "content": text}] for _, text in asked],
        problem_id=[row["problem_id"] for row, _ in asked],
        task=[row["task"] for row, _ in asked],
        trainer_state=None,
    )
    assert found == [reward_of(task, by_id[row["problem_id"]], text) for row, text in asked]
    assert found[:3] == [1.0, 0.0, 0.0]


def test_ungraded_completions_are_none_for_trl_and_counted_for_verl(tmp_path):
    """`exact` reads no reference of countdown, so that everything is ungraded."""
    export("trl", tmp_path / "trl", "--grader", "exact")
    row = read_rows(tmp_path / "trl" / "train.jsonl")[0]
    reward = loaded(tmp_path / "trl", "reward")
    assert reward([row["prompt"]], ["1+1=2"], [row["problem_id"]], [row["task"]]) == [None]
    export("verl", tmp_path / "verl", "--grader", "exact")
    score = loaded(tmp_path / "verl", "compute_score")
    asked = {"data_source": "countdown", "solution_str": "1+1=2", "ground_truth": "",
             "extra_info": {"problem_id": row["problem_id"]}}  # fmt: skip
    assert score(**asked) == {"score": 0.0, "ungraded": 1.0}
    assert score(**asked, ungraded_score=-1.0) == {"score": -1.0, "ungraded": 1.0}


@pytest.mark.filterwarnings("default")
def test_trl_trains_on_the_exported_folder_with_our_verdicts(tmp_path, problems):
    trl = pytest.importorskip("trl", reason="trl is not installed; `tox -e peers` runs this")
    import pandas as pd
    from datasets import load_dataset

    folder = export("trl", tmp_path / "out")
    rows = load_dataset("json", data_files=str(folder / "train.jsonl"), split="train", cache_dir=str(tmp_path / "c"))
    settings = trl.GRPOConfig(
        output_dir=str(tmp_path / "run"), max_steps=2, per_device_train_batch_size=8, num_generations=4,
        max_completion_length=14, use_cpu=True, bf16=False, logging_steps=1, log_completions=True, report_to=[],
        save_strategy="no", disable_tqdm=True, seed=1,
    )  # fmt: skip
    model = resolve("countdown-tiny")
    trainer = trl.GRPOTrainer(model, reward_funcs=loaded(folder, "reward"), args=settings, train_dataset=rows)
    trainer.train()
    task, by_id = problems
    by_prompt = {problem.messages[0].content: problem for problem in by_id.values()}
    logged = pd.concat(map(pd.read_parquet, sorted((tmp_path / "run" / "completions").glob("*.parquet"))))
    assert set(logged["step"]) == {1, 2}
    ours = [
        reward_of(task, by_prompt[prompt[-1]["content"]], completion[-1]["content"])
        for prompt, completion in zip(logged["prompt"], logged["completion"], strict=True)
    ]
    assert logged["reward"].tolist() == ours
    assert 0 < sum(ours) < len(ours) == 16
    means = [entry["rewards/reward/mean"] for entry in trainer.state.log_history if "rewards/reward/mean" in entry]
    assert means == [pytest.approx(sum(ours[:8]) / 8), pytest.approx(sum(ours[8:]) / 8)]


def export_recipe(folder, recipe, *settings):
    small = ("loop.steps=3", "loop.prompts_per_step=4", "loop.samples_per_prompt=4", "loop.minibatches_per_step=1",
             "optimizer.warmup_steps=0", *settings)  # fmt: skip
    sets = [word for setting in small for word in ("--set", setting)]
    return main(["export", "trl", str(folder), "--recipe", recipe, *sets])


@pytest.mark.parametrize("name", ["flowrl", "vargrad_tb", "grpo", "maxrl"])
def test_trl_trains_a_recipe_with_the_exported_script(name, tmp_path):
    pytest.importorskip("trl", reason="trl is not installed; `tox -e peers` runs this")
    import torch
    from transformers import AutoModelForCausalLM

    out = tmp_path / "out"
    assert export_recipe(out, f"countdown-{name}") == 0
    assert len(read_rows(out / "train.jsonl")) == 12
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=out, capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache"),
             "PYTHONPATH": str(Path(harness.__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    log = json.loads((out / "run" / "checkpoint-3" / "trainer_state.json").read_text())["log_history"]
    steps = [row for row in log if "loss" in row]
    assert [row["learning_rate"] for row in steps] == [2e-4] * 3 and any(row["grad_norm"] > 0 for row in steps)
    assert all(row["loss"] == pytest.approx(row["objective/loss"]) for row in steps if row["grad_norm"] > 0)
    base = AutoModelForCausalLM.from_pretrained(resolve("countdown-tiny")).state_dict()
    trained = AutoModelForCausalLM.from_pretrained(out / "run").state_dict()
    assert trained.keys() == base.keys()
    assert any(not torch.equal(trained[name], base[name]) for name in base)
    heads = [torch.load(out / "run" / f"checkpoint-{n}" / "harness_objective.pt") for n in (1, 2, 3)]
    moments = [head["own_optimizer"] for head in heads]
    assert (moments[0] is not None) == (name == "flowrl")
    if name == "flowrl":
        assert moments[2]["param_groups"][0]["lr"] == 3e-3
        first, last = (head["objective"] for head in (heads[0], heads[2]))
        assert not all(torch.equal(first[name], last[name]) for name in first)


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        ("countdown-base", (), "learns from demonstrations"),
        ("countdown-remax", (), "greedy completion of each prompt"),
        ("countdown-flowrl", ("dynamic_sampling.max_extra_rounds=2",), "dynamic_sampling samples again"),
        ("countdown-prorl", ("dynamic_sampling.max_extra_rounds=0",), "resets of the reference"),
        ("countdown-grpo", ("loop.prompts_per_step=5", "loop.minibatches_per_step=2"), "does not divide"),
        ("countdown-grpo", ("backend.id=trl",), "[backend] chooses the trainer 'trl'"),
        ("countdown-nothing", (), "countdown-nothing"),
    ],
)
def test_recipe_that_trl_cannot_carry_is_not_exported(recipe, settings, message, tmp_path, capsys):
    assert export_recipe(tmp_path / "out", recipe, *settings) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_recipe_names_the_problems_of_an_export_for_trl(tmp_path, capsys):
    command = ["export", "trl", str(tmp_path / "out"), "--recipe", "countdown-grpo"]
    for flags in (["--tasks", "countdown"], ["--split", "train"], ["--grader", "exact"]):
        assert main([*command, *flags]) == 2
        assert "takes --recipe, and no --tasks" in capsys.readouterr().err
    assert main([*command, "--limit", "3", "--set", "lora.rank=4"]) == 0
    assert len(read_rows(tmp_path / "out" / "train.jsonl")) == 3
    script = (tmp_path / "out" / "train.py").read_text()
    assert 'peft_config=LoraConfig(r=4, lora_alpha=32.0, target_modules="all-linear"),' in script
    compile(script, "train.py", "exec")


# --- verl -------------------------------------------------------------------------------------------------------------


def test_verl_export_has_the_columns_verl_reads(tmp_path, problems):
    import pyarrow.parquet

    folder = export("verl", tmp_path / "out")
    rows = pyarrow.parquet.read_table(folder / "train.parquet").to_pylist()
    assert [row["extra_info"]["problem_id"] for row in rows] == list(problems[1])
    first = next(iter(problems[1].values()))
    assert rows[0] == {
        "data_source": "countdown",
        "prompt": [{"role": "user", "content": first.messages[0].content}],
        "ability": "countdown",
        "reward_model": {"style": "rule", "ground_truth": ""},
        "extra_info": {"index": 0, "split": "train", "problem_id": first.id},
    }
    assert [row["extra_info"]["index"] for row in rows] == list(range(LIMIT))


def test_ground_truth_is_the_answer_when_it_is_text():
    assert ground_truth(typed_reference("\\frac{1}{2}")) == "\\frac{1}{2}"
    assert ground_truth("(B)") == "(B)"
    assert ground_truth(object()) == ""


ASK = """
import importlib.util, json, sys
from concurrent.futures import ThreadPoolExecutor
spec = importlib.util.spec_from_file_location("custom_module_1", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
import harness.interop.verdict_server as scoring
with ThreadPoolExecutor(8) as threads:  # as verl's loop of rewards does
    print(json.dumps(list(threads.map(lambda one: module.compute_score(**one), json.loads(sys.stdin.read())))))
assert scoring._judge.cache_info().misses == 1
"""


def asked_of_verl(folder, task, by_id):
    """Return the arguments that verl calls the function with, for three replies to each problem."""
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(folder / "train.parquet").to_pylist()
    return [
        {
            "data_source": row["data_source"],
            "solution_str": text,
            "ground_truth": row["reward_model"]["ground_truth"],
            "extra_info": {**row["extra_info"], "num_turns": None, "rollout_reward_scores": {}},
        }
        for row in rows
        for text in replies(task, by_id[row["extra_info"]["problem_id"]])
    ]


def test_verl_reward_function_gives_the_graders_rewards_and_loads_the_task_once(tmp_path, problems):
    task, by_id = problems
    folder = export("verl", tmp_path / "out")
    asked = asked_of_verl(folder, task, by_id)
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(folder / "reward.py")], input=json.dumps(asked), capture_output=True, text=True,
        cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ours = [reward_of(task, by_id[one["extra_info"]["problem_id"]], one["solution_str"]) for one in asked]
    assert json.loads(done.stdout) == [{"score": reward, "ungraded": 0.0} for reward in ours]
    assert ours[:3] == [1.0, 0.0, 0.0]


@pytest.mark.filterwarnings("default")
def test_verl_code_accepts_the_exported_rows_and_reward_function(tmp_path, problems):
    pytest.importorskip("verl", reason="verl is not installed; it wants an environment of its own")
    from omegaconf import OmegaConf
    from transformers import AutoTokenizer
    from verl.trainer.ppo.reward import get_custom_reward_fn
    from verl.utils.dataset.rl_dataset import RLHFDataset

    task, by_id = problems
    folder = export("verl", tmp_path / "out")
    settings = OmegaConf.create({"cache_dir": str(tmp_path / "cache"), "max_prompt_length": 64})
    tokenizer = AutoTokenizer.from_pretrained(resolve("countdown-tiny"))
    rows = RLHFDataset(data_files=str(folder / "train.parquet"), tokenizer=tokenizer, config=settings)
    told = [rows[i] for i in range(len(rows))]
    read = {row["extra_info"]["problem_id"]: row["raw_prompt"][0]["content"] for row in told}
    assert read == {name: problem.messages[0].content for name, problem in by_id.items()}
    named = {"path": str(folder / "reward.py"), "name": "compute_score", "reward_kwargs": {"ungraded_score": -1.0}}
    score = get_custom_reward_fn(OmegaConf.create({"reward": {"custom_reward_function": named}}))
    for one in asked_of_verl(folder, task, by_id):
        problem = by_id[one["extra_info"]["problem_id"]]
        assert score(**one) == {"score": reward_of(task, problem, one["solution_str"]), "ungraded": 0.0}


# --- what is shared and refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_at_once", [1, 3])
def test_grader_is_never_asked_more_at_once_than_its_limit(n_at_once):
    class Counting(Grader):
        now = most = 0
        lock = threading.Lock()

        def __init__(self):
            self.n_at_once = n_at_once

        def grade(self, problem, completion):
            with self.lock:
                self.now += 1
                self.most = max(self.most, self.now)
            time.sleep(0.02)
            with self.lock:
                self.now -= 1
            return Verdict("correct", 1.0)

    grader, problem = Counting(), Problem("p", "t", (), None)
    judge = Judge(grader, [problem])
    with ThreadPoolExecutor(8) as threads:
        assert len(list(threads.map(lambda text: judge.verdict(problem, text), "abcdefgh"))) == 8
    assert grader.most == n_at_once


def test_changed_data_and_foreign_rows_are_refused(tmp_path):
    folder = export("verl", tmp_path / "out")
    score = loaded(folder, "compute_score")
    with pytest.raises(DataError, match="'x' is not a problem of countdown"):
        score("countdown", "", "", {"problem_id": "x"})
    with pytest.raises(DataError, match="'gsm8k' is not a task in"):
        score("gsm8k", "", "", {"problem_id": "x"})
    other = export("verl", tmp_path / "other")
    told = json.loads((other / "tasks.json").read_text())
    told["countdown"]["problems"] = "0" * 16
    (other / "tasks.json").write_text(json.dumps(told))
    with pytest.raises(DataError, match="changed after"):
        loaded(other, "compute_score")("countdown", "", "", {"problem_id": "x"})


@pytest.mark.parametrize("form", ["trl", "verl"])
def test_sampling_of_replies_is_left_to_the_trainer(form, tmp_path, capsys):
    command = ["export", form, str(tmp_path / "out"), "--tasks", "countdown", "--split", "train", "--limit", "2"]
    assert main([*command, "--n", "4"]) == 2
    assert "takes no --n" in capsys.readouterr().err
    assert main([*command, "--set", "sampling.top_k=4"]) == 2
    assert "'sampling'" in capsys.readouterr().err
    assert main(command[:-2]) == 2
    assert "set a limit" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(command) == 0
    assert main(command) == 2
    assert "exists and is not empty" in capsys.readouterr().err
