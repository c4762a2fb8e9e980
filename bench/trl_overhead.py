"""Our objectives in TRL's trainer against TRL's own GRPO with a reference: the same model, completions and rewards.

    pip install -c constraints.txt '.[trl]'
    python bench/trl_overhead.py --rounds 3

The workload `small` of `train_step.py`, in float32, one thread. Completions are drawn once and given to both sides in
every step, so that sampling, which would hide the difference, is left out: a step is the pass of the reference, rewards
and advantages, one forward and backward pass, and the optimiser. TRL's side has beta = 0.04. Processes alternate; the
ratios are of CPU seconds in the same round.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from train_step import (
    LEARNING_RATE,
    SMALL,
    StepClock,
    clocks,
    elapsed,
    make_model,
    make_setup,
    make_tokenizer,
    prompts,
    reward_of,
)

OURS: dict[str, dict[str, Any]] = {
    "grpo": {"id": "grpo", "clip_high": 0.28, "kl_beta": 0.04, "reduction": "token_mean"},
    "flowrl": {"id": "flowrl", "beta": 0.6},
}
SIDES = ("TRL", *OURS)


def completions() -> list[list[int]]:
    """Return the ids of 8 completions of each prompt, those of a prompt in a row."""
    import torch

    generator = torch.Generator().manual_seed(7)
    shape = (SMALL.prompts * SMALL.samples, SMALL.new_tokens)
    ids: list[list[int]] = torch.randint(2, SMALL.vocabulary, shape, generator=generator).tolist()
    return ids


def measure_trl() -> list[float]:
    """Return the CPU seconds of every step after the first."""
    import datasets
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    marks: list[tuple[float, float]] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(clocks())

    class GivenCompletions(GRPOTrainer):
        def _generate_single_turn(self, *_: Any, **__: Any) -> tuple[list[list[int]], None]:
            return completions(), None

    with tempfile.TemporaryDirectory() as folder:
        make_model().save_pretrained(folder)
        arguments = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=SMALL.prompts * SMALL.samples,
            num_generations=SMALL.samples,
            steps_per_generation=1,
            max_completion_length=SMALL.new_tokens,
            max_steps=SMALL.warm_up + SMALL.counted + 1,
            learning_rate=LEARNING_RATE,
            loss_type="dapo",
            epsilon_high=0.28,
            beta=0.04,
            model_init_kwargs={"dtype": "float32"},
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            shuffle_dataset=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1000,
            disable_tqdm=True,
        )
        GivenCompletions(
            model=folder,
            reward_funcs=lambda completions, **_: [reward_of(text) for text in completions],
            args=arguments,
            train_dataset=datasets.Dataset.from_dict({"prompt": prompts()}),
            processing_class=make_tokenizer(),
            callbacks=[Clock()],
        ).train()
    return [elapsed(*pair)[0] for pair in itertools.pairwise(marks)][SMALL.warm_up - 1 :]


class GivenRollouts:
    """The same completions in every step, graded again."""

    def __init__(self, setup: Any, tokenizer: Any) -> None:
        self._task, self._tokenizer = setup.task, tokenizer

    def start(self, n_problems_drawn: int) -> None: ...

    def draw(self, step: int) -> Any:  # noqa: ARG002
        from harness.core.types import Completion, Graded, Tokens
        from harness.models.chat import prompt_ids
        from harness.trainers.rollouts import Rollouts

        items, every = [], iter(completions())
        for problem in self._task.problems("train", 0):
            prompt = tuple(prompt_ids(self._tokenizer, problem.messages))
            for index, ids in enumerate(itertools.islice(every, SMALL.samples)):
                # As if the sampler's were exact, so that no pass is made for them: TRL makes none with one update.
                logp = (-6.24,) * len(ids)
                tokens = Tokens(len(prompt), len(ids), prompt, tuple(ids), logp)
                completion = Completion(problem.id, index, 0, self._tokenizer.decode(ids), "length", tokens)
                items.append(Graded(problem, completion, self._task.grade(problem, completion)))
        return Rollouts(items, items, SMALL.prompts, 1)


def measure_ours(objective: dict[str, Any]) -> list[float]:
    """Return the CPU seconds of the counted steps."""
    from harness.core.config import parse_plugin
    from harness.core.progress import Progress
    from harness.runs.folder import RunIdentity, RunWriter
    from harness.trainers.backends.trl import session
    from harness.trainers.backends.trl.steps import Steps
    from harness.trainers.backends.trl.world import World
    from harness.trainers.step_metrics import Diagnostics, StepRecorder

    setup = make_setup("float32", objective, SMALL)
    loop = dataclasses.replace(setup.config.loop, logp_old="engine", tokens_per_microbatch=10**6)
    made_up = dataclasses.replace(setup.config.engine_correction, max_gap=1e3)
    setup = dataclasses.replace(setup, config=dataclasses.replace(setup.config, loop=loop, engine_correction=made_up))
    session.load_module = lambda _: make_model()  # type: ignore[assignment]
    session.load_tokenizer = lambda _: make_tokenizer()  # type: ignore[assignment]
    options, clock = parse_plugin("backends", "trl").options, StepClock()
    with tempfile.TemporaryDirectory() as folder:
        parts = session._load(setup, options, World(), folder)
        setup.objective.prepare(parts.policy.shape, 0)
        store = RunWriter.open(Path(folder) / "run", RunIdentity.of("train", setup.config, seeds={}, data={}))
        parts.trainer.steps = Steps(
            setup=setup,
            world=World(),
            policy=parts.policy,
            tokenizer=parts.tokenizer,
            source=GivenRollouts(setup, parts.tokenizer),
            engine=None,
            samples=False,
            folder=Path(folder) / "run",
            recorder=StepRecorder(
                store=store,
                trackers=[clock],
                progress=Progress(quiet=True),
                diagnostics=Diagnostics(setup.config.warnings),
            ),
            progress=Progress(quiet=True),
            evaluate_held_out=lambda: None,
        )
        session._run(parts, setup, options)
        store.finish("done")
    return [row["cpu_s"] for row in clock.rows][SMALL.warm_up :]


def run_side(side: str) -> float:
    """Return the median step of a separate process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, __file__, "--side", side], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    return statistics.median(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help="measure one side in this process")
    options = parser.parse_args()
    if options.side is not None:
        print(json.dumps(measure_trl() if options.side == "TRL" else measure_ours(OURS[options.side])))
        return
    found: dict[str, list[float]] = {side: [] for side in SIDES}
    for number in range(options.rounds):
        for side in SIDES:
            found[side].append(run_side(side))
        took = ", ".join(f"{side} {found[side][-1]:.2f}" for side in SIDES)
        print(f"round {number + 1}, CPU-s a step: {took}", flush=True)
    for side in OURS:
        ratios = [ours / theirs - 1 for ours, theirs in zip(found[side], found["TRL"], strict=True)]
        printed = [f"{ratio:+.1%}" for ratio in (statistics.median(ratios), min(ratios), max(ratios))]
        print("{} over TRL's GRPO with a reference: median {}, min {}, max {}".format(side, *printed))


if __name__ == "__main__":
    main()
