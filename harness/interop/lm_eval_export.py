"""`harness export lm-eval`: our tasks as lm-eval tasks, for its option --include_path, graded by our graders."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.interop.problems import ExportConfig, ExportedTask, export_tasks, new_folder, read_rows, write_rows
from harness.interop.verdict_server import verdict
from harness.runs.jsonl import write_whole

PREFIX = "harness_"
"""Prefix of our ids, because lm-eval has tasks of the same names."""

_CODE = '''"""Made by `harness export lm-eval`: the rows of a task, and the verdict of its own grader."""

from pathlib import Path

from harness.interop.lm_eval_export import data_set, process_results


def rows(file, **_):
    return data_set(Path(__file__).with_name(file))
'''


def export(config: ExportConfig, folder: Path, model: str | None) -> list[str]:
    """Write the folder. Return the names of the tasks in it."""
    tasks = export_tasks(config, model)
    new_folder(folder)
    write_whole(folder / "utils.py", _CODE)
    for task in tasks:
        write_rows(folder / f"{task.id}.jsonl", task.rows)
        write_whole(folder / f"{PREFIX}{task.id}.yaml", _yaml(task, is_templated=model is not None))
    return [PREFIX + task.id for task in tasks]


def _yaml(task: ExportedTask, *, is_templated: bool) -> str:
    """Write lm-eval's YAML. JSON is YAML, so every value but the functions is written as JSON."""
    is_random = task.sampling.temperature > 0
    settings: dict[str, Any] = {
        "until": list(task.sampling.stop),
        "max_gen_toks": task.sampling.max_tokens,
        "do_sample": is_random,
        "temperature": task.sampling.temperature,
        **(task.sampling.truncation() if is_random else {}),
    }
    filters = [{"name": "all", "filter": [{"function": "take_first_k", "k": task.n}]}]
    metrics = [{"metric": metric, "aggregation": "mean", "higher_is_better": metric == "correct"} for metric in METRICS]
    has_system = not is_templated and any(row["system"] for row in task.rows)
    note = "" if is_templated else "# Its prompts are messages: run lm-eval with --apply_chat_template.\n"
    return "\n".join(
        [
            f"{note}task: {json.dumps(PREFIX + task.id)}",
            "custom_dataset: !function utils.rows",
            f"dataset_kwargs: {json.dumps({'file': f'{task.id}.jsonl'})}",
            "test_split: test",
            "output_type: generate_until",
            "doc_to_text: prompt",
            "doc_to_target: target",
            *(["description: system"] if has_system else []),
            "process_results: !function utils.process_results",
            f"generation_kwargs: {json.dumps(settings)}",
            f"repeats: {task.n}",
            "num_fewshot: 0",
            f"filter_list: {json.dumps(filters)}",
            f"metric_list: {json.dumps(metrics)}",
            f"metadata: {json.dumps({'version': 1, 'data': task.card.fingerprint, 'source': task.card.source})}",
            "",
        ]
    )


METRICS = ("correct", "ungraded")


# --- called by lm-eval ------------------------------------------------------------------------------------------------


def data_set(path: Path) -> Mapping[str, Any]:
    from datasets import Dataset, DatasetDict

    data: Mapping[str, Any] = DatasetDict({"test": Dataset.from_list(read_rows(path))})
    return data


def process_results(doc: Mapping[str, Any], results: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return the share of correct replies among the graded ones, and the share of ungraded ones."""
    verdicts = [verdict(doc, text) for text in results[0]]
    graded = [found for found in verdicts if found.outcome != "ungraded"]
    shares = {"ungraded": 1 - len(graded) / len(verdicts)}
    if graded:
        shares["correct"] = math.fsum(found.outcome == "correct" for found in graded) / len(graded)
    return shares
