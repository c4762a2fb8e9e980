"""Run folders with planted verdicts: evaluations and trainings whose numbers a test can compute by itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.core.types import Completion, Estimate, Outcome, Tokens, Verdict
from harness.runs.folder import RunIdentity, RunWriter

TASKS = {"aime24": 12, "math500": 30}
"""Problems of each task, unless a test says otherwise."""
RATES = {"base": 0.2, "grpo": 0.45, "flowrl": 0.5}


@dataclass(frozen=True)
class Model:
    path: str


@dataclass(frozen=True)
class EvalConfig:
    model: Model
    tasks: Any
    engine: Any = field(default_factory=lambda: {"id": "vllm"})
    sampling: Any = field(default_factory=lambda: {"temperature": 0.6, "top_p": 0.95, "max_tokens": 8192})
    split: str = "test"
    n: int = 8
    limit: int | None = None
    seed: int = 0
    problem_seed: int = 0
    preset: str | None = None
    deviations: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainConfig:
    model: Model = Model("base")
    task: Any = field(default_factory=lambda: {"id": "dapo"})
    objective: Any = field(default_factory=lambda: {"id": "flowrl", "beta": 15.0})
    loop: Any = field(default_factory=lambda: {"steps": 20, "prompts_per_step": 8, "samples_per_prompt": 4})
    seed: int = 0


Draw = Callable[[str, int, int], Outcome]
"""Task, number of the problem and index of the sample -> the outcome."""


def drawn(rate: float, seed: int, *, ungraded: float = 0.0) -> Draw:
    """Return outcomes whose rate varies over problems around `rate`, with the same difficulties for all seeds."""

    def draw(task: str, problem: int, index: int) -> Outcome:
        difficulty = random.Random(f"{task}/{problem}").uniform(-0.2, 0.2)
        generator = random.Random(f"{seed}/{task}/{problem}/{index}/{rate}")
        if generator.random() < ungraded:
            return "ungraded"
        return "correct" if generator.random() < min(1.0, max(0.0, rate + difficulty)) else "incorrect"

    return draw


def write_eval(
    folder: Path,
    model: str,
    draw: Draw,
    *,
    tasks: Mapping[str, int] = TASKS,
    estimates: Mapping[str, Sequence[Estimate]] = {},
    facts: Mapping[str, Mapping[str, Any]] = {},
    text: Callable[[str, int, int, Outcome], str] = lambda task, problem, index, outcome: f"answer {outcome}",
    status: str = "done",
    names_solutions: bool = False,
    **config: Any,
) -> Path:
    """Write an evaluation with `n` samples of each problem."""
    settings = EvalConfig(Model(model), [{"id": task} for task in tasks], **config)
    data: dict[str, Mapping[str, Any]] = {name: more for name, more in facts.items() if name not in tasks}
    for task in tasks:
        data[task] = {"fingerprint": f"of-{task}", "grader": "math", "prompt": "boxed", **facts.get(task, {})}
    writer = RunWriter.open(folder, RunIdentity.of("eval", settings, seeds={"run": settings.seed}, data=data))
    for task, n_problems in tasks.items():
        for problem in range(n_problems):
            for index in range(settings.n):
                name, outcome = f"p{problem:04d}", draw(task, problem, index)
                is_cut = (problem + index) % 17 == 0 and outcome == "incorrect"
                tokens = Tokens(20, 100 + problem + index)
                reason = "length" if is_cut else "stop"
                reply = text(task, problem, index, outcome)
                writer.append_completion(task, Completion(name, index, 0, reply, reason, tokens, engine_s=0.5))
                reward = None if outcome == "ungraded" else float(outcome == "correct")
                extracted = "42" if outcome == "correct" else None if index % 5 == 0 else "7"
                details = {"solution": f"s{index % 3}"} if names_solutions and outcome == "correct" else {}
                writer.append_verdict(task, name, index, "math", Verdict(outcome, reward, extracted, details=details))
    if estimates:
        writer.write_metrics(estimates)
    writer.finish(status)  # type: ignore[arg-type]
    return folder


def write_train(
    folder: Path,
    *,
    objective: Mapping[str, Any],
    seed: int = 0,
    model: str = "base",
    n_steps: int = 20,
    rows: int | None = 64,
    step: Callable[[int], Mapping[str, float]] = lambda step: {},
) -> Path:
    config = TrainConfig(Model(model), objective=dict(objective), seed=seed)
    data = {"dapo": {"fingerprint": "of-dapo", **({"rows": rows} if rows is not None else {})}}
    writer = RunWriter.open(folder, RunIdentity.of("train", config, seeds={"run": seed}, data=data))
    for number in range(1, n_steps + 1):
        row = {"reward": number / 40 + seed / 100, "solve_rate": number / 40, "n_completions": 32, "n_tokens": 3200}
        times = {"wall_s": 2.0 + number % 3, "sample_s": 1.0, "score_s": 0.25, "update_s": 0.5, "sync_s": 0.0}
        writer.append_step({"step": number, **row, **times, **step(number)})
    writer.finish("done")
    return folder


def study(root: Path, *, n_seeds: int = 3, temperatures: Sequence[float] = (0.6,), **config: Any) -> list[Path]:
    """Write a base model, GRPO and FlowRL under several seeds, and the evaluations of each; return all folders."""
    folders = []
    for temperature in temperatures:
        sampling = {"temperature": temperature, "top_p": 0.95, "max_tokens": 8192}
        shift = 0.1 * (0.6 - temperature)
        base = drawn(RATES["base"] + shift, 0)
        folders.append(write_eval(root / f"base-T{temperature}", "base", base, sampling=sampling, **config))
        for method in ("grpo", "flowrl"):
            for seed in range(n_seeds):
                trained = root / f"train-{method}-{seed}"
                if not trained.exists():
                    options = {"beta": 15.0} if method == "flowrl" else {}
                    folders.append(write_train(trained, objective={"id": method, **options}, seed=seed))
                model = str(trained / "checkpoints" / "step-000020")
                folder = root / f"{method}-{seed}-T{temperature}"
                draw = drawn(RATES[method] + shift, seed + 1)
                folders.append(write_eval(folder, model, draw, sampling=sampling, **config))
    return folders
