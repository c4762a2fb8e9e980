"""Make the files of this folder with the tools themselves: `python make_files.py TOOL [FOLDER]`.

TOOL is lm_eval, inspect_ai, trl or evalplus, and must be installed. The replies to sums.jsonl are written below, so
that the tools' graders and ours have something to differ about.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SUMS = [json.loads(line) for line in (HERE / "sums.jsonl").read_text().splitlines()]
REPLIES = {
    "apples": ["He has 3 + 4 apples.\n#### 7", "#### 7 apples"],
    "books": ["12 - 5 = 7\n#### 7.0", "Answer: 7"],
    "boxes": ["#### 48", "6 times 8\n#### 54"],
    "coins": ["#### 1,250", "#### $1250"],
    "days": ["There are 21 days. So 3 weeks have 21 days", "\\boxed{21}"],
    "eggs": ["", "12 / 4 is 3, and not 4\n#### 3"],
}


def lm_eval(out: Path) -> None:
    """A local task with the filters of gsm8k, asked of a model that gives the replies; --log_samples as usual."""
    from lm_eval import evaluator
    from lm_eval.api.model import LM
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    class Scripted(LM):
        def generate_until(self, requests: Any, **_: Any) -> list[str]:
            by_question = {row["question"]: REPLIES[row["id"]][0] for row in SUMS}
            asked = [r.args[0].removeprefix("Question: ").removesuffix("\nAnswer:") for r in requests]
            return [by_question[question] for question in asked]

        def loglikelihood(self, requests: Any, **_: Any) -> Any:
            raise NotImplementedError

        loglikelihood_rolling = loglikelihood

    folder = out / "work"
    folder.mkdir(exist_ok=True)
    (folder / "sums.yaml").write_text(
        f"""task: sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {HERE}/sums.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: "#### {{{{answer}}}}"
generation_kwargs: {{until: ["Question:", "</s>"], do_sample: false, temperature: 0.0, max_gen_toks: 64}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true, ignore_punctuation: false,
      regexes_to_ignore: [",", "\\\\$", "(?s).*#### ", "\\\\.$"]}}
filter_list:
  - name: strict-match
    filter: [{{function: regex, regex_pattern: "#### (\\\\-?[0-9\\\\.\\\\,]+)"}}, {{function: take_first}}]
  - name: flexible-extract
    filter:
      - {{function: regex, group_select: -1, regex_pattern: "(-?[$0-9.,]{{2,}})|(-?[0-9]+)"}}
      - {{function: take_first}}
"""
    )
    tracker = EvaluationTracker(output_path=str(folder / "out"))
    results = evaluator.simple_evaluate(
        Scripted(), tasks=["sums"], task_manager=TaskManager(include_path=str(folder)), log_samples=True
    )
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    tracker.save_results_samples("sums", samples["sums"])
    (written,) = (folder / "out").rglob("samples_*")
    shutil.copy(written, out / written.name)
    (written,) = (folder / "out").rglob("results_*")
    whole = json.loads(written.read_text())  # which describes this machine as well
    kept = {key: whole[key] for key in ("results", "model_source", "model_name", "lm_eval_version")}
    (out / written.name).write_text(json.dumps(kept, indent=1) + "\n")
    shutil.rmtree(folder)


def inspect_ai(out: Path) -> None:
    """Two epochs of a task with the scorer `match`, answered by mockllm."""
    from inspect_ai import Task, eval
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import GenerateConfig, ModelOutput, ModelUsage, get_model
    from inspect_ai.scorer import match
    from inspect_ai.solver import generate

    samples = [Sample(id=row["id"], input=row["question"], target=row["answer"]) for row in SUMS]
    outputs = []
    for epoch in range(2):
        for row in SUMS:
            output = ModelOutput.from_content("mockllm/model", REPLIES[row["id"]][epoch])
            output.usage = ModelUsage(input_tokens=11, output_tokens=7, total_tokens=18)
            outputs.append(output)
    config = GenerateConfig(temperature=0.5, max_tokens=64)
    task = Task(
        dataset=MemoryDataset(samples, name="sums"),
        name="sums",
        solver=generate(),
        scorer=match(numeric=True),
        epochs=2,
        config=config,
    )
    os.environ["INSPECT_DISPLAY"] = "none"
    work = out / "work"
    model = get_model("mockllm/model", custom_outputs=outputs, memoize=False)
    (log,) = eval(task, model=model, log_dir=str(work), max_samples=1, max_connections=1, log_format="eval")
    assert log.status == "success", log.error
    (written,) = work.glob("*.eval")
    shutil.copy(written, out / "sums.eval")
    shutil.rmtree(work)


def trl(out: Path) -> None:
    """One step of GRPO on four countdown problems, as `harness export trl` writes them, with log_completions."""
    import importlib.util

    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from harness.cli import main

    work = out / "work"
    assert main(["export", "trl", str(work / "exported"), "--tasks", "countdown", "--limit", "4", "--quiet"]) == 0
    spec = importlib.util.spec_from_file_location("reward", work / "exported/reward.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows = [json.loads(line) for line in (work / "exported/test.jsonl").read_text().splitlines()]
    model = str(HERE.parents[2] / "harness/models/countdown-tiny")
    config = GRPOConfig(
        output_dir=str(work / "out"),
        max_steps=1,
        per_device_train_batch_size=16,
        num_generations=4,
        max_completion_length=32,
        log_completions=True,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        seed=1,
        save_strategy="no",
    )
    trainer = GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(model),
        module.reward,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(model),
    )
    trainer.train()
    (written,) = (work / "out").rglob("completions_*.parquet")
    shutil.copy(written, out / written.name)
    shutil.rmtree(work)


def evalplus(out: Path) -> None:
    """Samples of two problems, some of them wrong, judged by evalplus itself. Its data are read from the mirror."""
    from evalplus.data import write_jsonl

    packed = Path(os.environ["HARNESS_DATA_DIR"], "humanevalplus/HumanEvalPlus.jsonl.gz").read_bytes()
    rows = [json.loads(line) for line in gzip.decompress(packed).splitlines()]
    problems = {row["task_id"]: row for row in rows}
    some = {key: problems[key] for key in ("HumanEval/0", "HumanEval/2")}
    samples = []
    for key, problem in some.items():
        right = problem["prompt"] + problem["canonical_solution"]
        wrong = problem["prompt"] + "    return None\n"
        samples += [{"task_id": key, "solution": text} for text in (right, wrong)]
    work = out / "work"
    work.mkdir(exist_ok=True)
    path = work / "samples.jsonl"
    write_jsonl(str(path), samples)
    subset = work / "problems.jsonl"
    write_jsonl(str(subset), list(some.values()))
    environment = {**os.environ, "HUMANEVAL_OVERRIDE_PATH": str(subset)}
    subprocess.run(
        [sys.executable, "-m", "evalplus.evaluate", "--dataset", "humaneval", "--samples", str(path)],
        check=True,
        env=environment,
    )
    shutil.copy(path, out / "samples.jsonl")
    (written,) = work.glob("*_eval_results.json")
    shutil.copy(written, out / "eval_results.json")
    shutil.rmtree(work)


if __name__ == "__main__":
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else HERE / sys.argv[1]
    folder.mkdir(exist_ok=True)
    {"lm_eval": lm_eval, "inspect_ai": inspect_ai, "trl": trl, "evalplus": evalplus}[sys.argv[1]](folder)
