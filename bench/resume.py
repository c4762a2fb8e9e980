"""Resume, report and compare a run of a million completions: wall and CPU seconds, and peak memory.

    python bench/resume.py --folder /tmp/million --problems 1000 --samples 1000

Creates the run folder `one` (and `two`, for `compare`) unless it exists: countdown problems, texts of 300 to 1,000
bytes, a verdict for each, nothing left to generate. Each step is a separate process. The peer of `read` is a loop of
`json.loads` over the lines of both files that stores nothing.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness.core import config as configs
from harness.core.progress import Progress
from harness.core.seeds import derive
from harness.evaluation.config import EvalConfig
from harness.evaluation.setup import resolve
from harness.runs.folder import RunWriter
from harness.runs.jsonl import encode_line

WORDS = ["so", "we", "have", "$\\frac{3}{4}$", "and", "then", "the", "sum", "of", "17", "=", '"x"', "wait,", "\n\n"]
TASKS = '--set=tasks=[{id="countdown", min_solutions=1}]'
PLAIN = """
import json, sys
for name in ("completions", "verdicts"):
    for line in open(f"{sys.argv[1]}/{name}.jsonl", "rb"):
        json.loads(line)
"""
READ = """
import sys
from pathlib import Path
from harness.runs.folder import RunReader
from harness.runs.index import CompletionIndex
CompletionIndex(RunReader.read(Path(sys.argv[1])), {"countdown": "countdown"})
"""


def make(folder: Path, problems: int, samples: int, share_right: float) -> None:
    """Write the files as the run folder does, without one system call per line."""
    sizes = {"n": samples, "limit": problems}
    tasks = [{"id": "countdown", "min_solutions": 1}]  # otherwise there are fewer than 1,000 test problems
    tree = {"model": {"path": "countdown-tiny"}, "tasks": tasks, "engine": "scripted", **sizes}
    config = configs.parse(EvalConfig, tree)
    setup = resolve(config, folder, Progress(quiet=True))
    writer = RunWriter.open(folder, setup.identity)
    rng = random.Random(1)
    pool = [" ".join(rng.choices(WORDS, k=rng.randint(80, 280)))[: rng.randint(300, 1000)] for _ in range(5000)]
    with (folder / "completions.jsonl").open("wb") as completions, (folder / "verdicts.jsonl").open("wb") as verdicts:
        for problem in setup.tasks["countdown"].problems:
            share = rng.betavariate(2 * share_right, 2 * (1 - share_right))
            for index in range(samples):
                key = {"task": "countdown", "problem_id": problem.id, "index": index}
                seed = derive(0, "eval", "countdown", problem.id, index)
                completions.write(encode_line(completion_row(key, seed, rng.choice(pool))))
                verdicts.write(encode_line(verdict_row(key, rng.random() < share, rng)))
    writer.finish("interrupted")


def completion_row(key: dict[str, Any], seed: int, text: str) -> dict[str, Any]:
    absent = dict.fromkeys(("prompt_ids", "completion_ids", "logp_behaviour", "cost_usd"))
    tokens = {"n_prompt": 12, "n_completion": len(text) // 3, **absent}
    return {**key, "seed": seed, "text": text, "finish_reason": "stop", "tokens": tokens, "engine_s": 0.001}


def verdict_row(key: dict[str, Any], is_right: bool, rng: random.Random) -> dict[str, Any]:
    chain = f"{rng.randint(1, 9)}*{rng.randint(1, 9)}={rng.randint(1, 81)};2+3=5"
    judged = ("correct", 1.0, chain, "") if is_right else ("incorrect", 0.0, chain, "the target is missed")
    fields = dict(zip(("outcome", "reward", "extracted", "reason"), judged, strict=True))
    return {**key, "grader": "countdown", **fields, "details": {"solution": chain} if is_right else {}}


def measure(name: str, arguments: list[str]) -> float:
    """Run it and print what it took."""
    began_s = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall_s, cpu_s = time.perf_counter() - began_s, used.ru_utime + used.ru_stime
    failed = f", FAILED with {os.waitstatus_to_exitcode(status)}" if status else ""
    print(f"{name}: {wall_s:.1f} s, {cpu_s:.1f} CPU s, peak {used.ru_maxrss / 1e6:.2f} GB{failed}", flush=True)
    return cpu_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--steps", default="plain,read,eval,report,compare")
    options = parser.parse_args()
    one, two = options.folder / "one", options.folder / "two"
    are_two = {"report", "compare"} & set(options.steps.split(","))
    for folder, share in ((one, 0.3), (two, 0.32)) if are_two else ((one, 0.3),):
        if not (folder / "run.json").exists():
            make(folder, options.problems, options.samples, share)
    size = [f"--n={options.samples}", f"--limit={options.problems}", "--engine=scripted", "--quiet"]
    harness = ["-m", "harness"]
    steps = {
        "plain": ["-c", PLAIN, str(one)],
        "read": ["-c", READ, str(one)],
        "eval": [*harness, "eval", "countdown-tiny", *size, TASKS, f"--out={one}"],
        "report": [*harness, "report", str(one), str(two), f"--out={options.folder / 'report'}"],
        "compare": [*harness, "compare", str(one), str(two)],
    }
    for name in options.steps.split(","):
        measure(name, steps[name])


if __name__ == "__main__":
    main()
