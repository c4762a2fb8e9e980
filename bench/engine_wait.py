"""Measure how long an engine waits for grading and writing, as a share of its time, by task.

    HARNESS_DATA_DIR=... python bench/engine_wait.py math500 humaneval_plus [--per-s 10] [--n 2] [--limit 64]
    HARNESS_DATA_DIR=... python bench/engine_wait.py math500 --model countdown-tiny --limit 64

The engine returns `per_s` golden completions per second (for countdown, which has none, forty wrong lines) and leaves
the CPU idle meanwhile, like one on a GPU; grading and writing are those of `harness eval`. `waited` is the share of
the time between the first request and the last completion in which the engine did no work; `stretched` includes the
time that other threads cost it. With a model, the engine is hf on this CPU, its context extended so that the prompts
fit, and the graders share its cores.
"""

from __future__ import annotations

import argparse
import collections
import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from harness.core import config as configs
from harness.core.progress import Progress
from harness.core.protocols import Engine, ModelSource
from harness.core.types import Completion, Request, Tokens
from harness.evaluation.config import EvalConfig
from harness.evaluation.loop import evaluate, evaluate_opened
from harness.evaluation.setup import resolve
from harness.models.loading import BUNDLED

OTHERWISE = "1+2=3\n3*4=12\n" * 20


class Paced(Engine):
    """Returns completions at a fixed rate, as if a GPU did the work."""

    def __init__(self, task: Any, per_s: float) -> None:
        self._task, self._every_s = task, 1 / per_s
        self._texts: collections.defaultdict[str, list[str]] = collections.defaultdict(list)

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        asked = list(requests)
        for request in asked:
            time.sleep(self._every_s)
            texts = self._texts[request.problem_id]
            text = texts[request.index % len(texts)]
            yield Completion(request.problem_id, request.index, request.seed, text, "stop", Tokens(100, 800))

    def open(self, source: ModelSource) -> None:
        pass

    def close(self) -> None:
        pass

    def learn(self, split: str) -> None:
        for problem in self._task.problems(split, 0):
            texts = [golden.text for golden in self._task.golden_completions(problem)]
            self._texts[problem.id] = [*texts, "no"] if texts else [OTHERWISE]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--per-s", type=float, default=10.0)
    parser.add_argument("--n", type=int, default=2)
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--model")
    options = parser.parse_args()
    for task in options.tasks:
        with tempfile.TemporaryDirectory() as folder:
            _measure(task, options, Path(folder))


def _measure(task: str, options: argparse.Namespace, folder: Path) -> None:
    tree = {"model": {"path": "countdown-tiny"}, "tasks": [task], "n": options.n, "limit": options.limit, "metrics": []}
    if options.model is not None:
        model = _stretched(options.model, folder / "model")
        config = configs.parse(EvalConfig, {**tree, "model": {"path": str(model)}, "sampling": {"max_tokens": 64}})
        evaluate(config, folder / "run", Progress(quiet=True))
    else:
        config = configs.parse(EvalConfig, {**tree, "engine": "scripted"})
        built = config.tasks[0].build()
        engine = Paced(built, options.per_s)
        engine.learn(config.split)
        progress = Progress(quiet=True)
        setup = resolve(config, folder / "run", progress, engine=engine, tasks={task: built})
        evaluate_opened(setup, progress)
    print(next(line for line in (folder / "run" / "log.txt").read_text().splitlines() if "the engine waited" in line))
    if options.model is None:
        rows = [json.loads(line) for line in (folder / "run" / "completions.jsonl").read_text().splitlines()]
        took_s, ideal_s = sum(row["engine_s"] for row in rows), len(rows) / options.per_s
        print(f"{task}: stretched by {100 * (took_s / ideal_s - 1):.2f} %")


def _stretched(model: str, folder: Path) -> Path:
    shutil.copytree(BUNDLED / model if (BUNDLED / model).exists() else model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 8192}))
    return folder


if __name__ == "__main__":
    main()
