"""One training step against TRL's GRPOTrainer: the same model, batch, lengths and loss, alternating.

    pip install -c constraints.txt '.[trl]'
    python bench/train_step.py --rounds 3
    python bench/train_step.py --rounds 3 --precision float32 bfloat16    # both sides in both
    python bench/train_step.py --rounds 1 --workload real --threads 2

Workload `small`: a Llama of 4 layers, hidden size 256, vocabulary 512, untied (4.46 M parameters); 16 prompts of 8
tokens, 8 completions each of exactly 64 tokens. Workload `real`: the shape of Qwen2.5-0.5B with 4 layers: hidden size
896, vocabulary 151,936, tied (196 M parameters, random); 4 prompts of 8 tokens, 8 completions each of exactly 32.

Weights are float32; token-mean clipped loss, no KL; one optimiser step a batch. The end-of-sequence id lies outside the
model's vocabulary, so that no completion ends early on either side. In bfloat16 both sides train and sample under
autocast. CPU seconds vary less than wall seconds on a shared machine; with several threads both are printed, because
waiting threads spin.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

LEARNING_RATE = 1e-4


@dataclasses.dataclass(frozen=True)
class Workload:
    """A model and a batch. The defaults are `small`."""

    vocabulary: int = 512
    prompts: int = 16
    samples: int = 8
    prompt_tokens: int = 8
    new_tokens: int = 64
    warm_up: int = 2
    counted: int = 5
    hidden: int = 256
    heads: int = 4
    key_value_heads: int = 4
    intermediate: int = 1024
    is_tied: bool = False


WORKLOADS = {
    "small": Workload(),
    "real": Workload(
        vocabulary=151_936,
        prompts=4,
        new_tokens=32,
        warm_up=1,
        counted=2,
        hidden=896,
        heads=14,
        key_value_heads=2,
        intermediate=4864,
        is_tied=True,
    ),
}
SMALL = WORKLOADS["small"]
SAMPLES, NEW_TOKENS, VOCABULARY, WARM_UP = SMALL.samples, SMALL.new_tokens, SMALL.vocabulary, SMALL.warm_up


def make_model(load: Workload = SMALL) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=load.vocabulary,
            hidden_size=load.hidden,
            num_hidden_layers=4,
            num_attention_heads=load.heads,
            num_key_value_heads=load.key_value_heads,
            intermediate_size=load.intermediate,
            max_position_embeddings=256,
            tie_word_embeddings=load.is_tied,
            bos_token_id=None,
            eos_token_id=load.vocabulary,
            pad_token_id=0,
        )
    )


def make_tokenizer(load: Workload = SMALL) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(load.vocabulary)} | {"<eos>": load.vocabulary}
    core = Tokenizer(models.WordLevel(words, unk_token="w1"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="w0", padding_side="left")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return tokenizer


def prompts(load: Workload = SMALL) -> list[str]:
    return [" ".join(f"w{2 + (17 * i + 31 * j) % 500}" for j in range(load.prompt_tokens)) for i in range(load.prompts)]


def reward_of(text: str) -> float:
    """Any cheap function that differs within a group."""
    words = text.split()
    return sum(word.endswith("7") for word in words) / len(words)


def words_task(load: Workload) -> Any:
    from harness.core.types import Completion, Message, Problem, Sampling, Verdict

    class WordTask:
        """A task that is its own grader."""

        n_at_once = 1
        sampling = Sampling(max_tokens=load.new_tokens)
        card = None

        def __init__(self) -> None:
            self.grader = self

        def problems(self, split: str, seed: int) -> Iterator[Problem[None]]:  # noqa: ARG002
            for i, prompt in enumerate(prompts(load)):
                yield Problem(str(i), "words", (Message("user", prompt),), None)

        def grade(self, problem: Problem[None], completion: Completion) -> Verdict:  # noqa: ARG002
            return Verdict("incorrect", reward_of(completion.text))

    return WordTask()


GRPO = {"id": "grpo", "clip_high": 0.28, "kl_beta": 0.0, "reduction": "token_mean"}


def clocks() -> tuple[float, float]:
    """Return the CPU time of this process and the wall time."""
    return time.process_time(), time.perf_counter()


def elapsed(before: tuple[float, float], after: tuple[float, float]) -> tuple[float, float]:
    return after[0] - before[0], after[1] - before[1]


def measure_ours(precision: str, objective: dict[str, Any] = GRPO, load: Workload = SMALL) -> list[dict[str, float]]:
    """Return the step records, each with its `cpu_s` and `wall_s`."""
    from harness.core.progress import Progress
    from harness.runs.folder import RunIdentity, RunWriter
    from harness.trainers.loop import Trainer
    from harness.trainers.policy.model import Policy
    from harness.trainers.rollouts import Sampler
    from harness.trainers.step_metrics import Diagnostics, StepRecorder

    setup = make_setup(precision, objective, load)
    config = setup.config
    model, tokenizer = make_model(load), make_tokenizer(load)
    policy = Policy(model, 1.0, precision=config.loop.precision)
    with_reference = "reference_logp" in setup.objective.needs
    reference = Policy(make_model(load), 1.0, precision=config.loop.precision) if with_reference else None
    setup.objective.prepare(policy.shape, 0)
    setup.engine.open(dataclasses.replace(setup.sampling_source, module=model, tokenizer=tokenizer))
    clock = StepClock()
    with tempfile.TemporaryDirectory() as folder:
        store = RunWriter.open(Path(folder) / "run", RunIdentity.of("train", config, seeds={}, data={}))
        Trainer(
            setup=setup,
            policy=policy,
            reference=reference,
            tokenizer=tokenizer,
            source=Sampler(config, setup.task, setup.engine, with_greedy=False),
            engine=setup.engine,
            recorder=StepRecorder(
                store=store,
                trackers=[clock],
                progress=Progress(quiet=True),
                diagnostics=Diagnostics(config.warnings),
            ),
            evaluate_held_out=lambda: None,
        ).fit()
        store.finish("done")
    return clock.rows


def make_setup(precision: str, objective: dict[str, Any], load: Workload) -> Any:
    """Return the workload as a resolved training run; its model comes later."""
    from harness.core import config as configs
    from harness.core.protocols import ModelSource
    from harness.trainers.config import TrainConfig
    from harness.trainers.setup import TrainSetup

    config = configs.parse(
        TrainConfig,
        {
            "model": {"path": "unused"},
            "task": "countdown",
            "objective": objective,
            "loop": {
                "steps": load.warm_up + load.counted,
                "prompts_per_step": load.prompts,
                "samples_per_prompt": load.samples,
                "precision": precision,
            },
            "optimizer": {"lr": LEARNING_RATE},
            "checkpoint": {"every_steps": 1000},
        },
    )
    task = words_task(load)
    return TrainSetup(
        config=config,
        task=task,
        objective=config.objective.build(),
        backend=config.backend.build(),
        engine=config.engine.build(),
        base=ModelSource("unused"),
        temperature=1.0,
        max_tokens=task.sampling.max_tokens,
        held_out={},
        saved=None,
        newest=None,
        warnings=(),
    )


class StepClock:
    """A tracker that keeps the step records with the time since the one before."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self._before = clocks()

    def resume(self, record: Any, step: int) -> None:  # noqa: ARG002
        self._before = clocks()

    def log(self, row: Mapping[str, float]) -> None:
        now = clocks()
        cpu_s, wall_s = elapsed(self._before, now)
        self.rows.append({**row, "cpu_s": cpu_s, "wall_s": wall_s})
        self._before = now

    def close(self) -> None: ...


def measure_trl(precision: str, load: Workload) -> list[tuple[float, float]]:
    """Return the CPU and wall seconds of every step after the first."""
    import datasets
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    marks: list[tuple[float, float]] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(clocks())

    with tempfile.TemporaryDirectory() as folder:
        arguments = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=load.prompts * load.samples,
            num_generations=load.samples,
            steps_per_generation=1,
            max_completion_length=load.new_tokens,
            max_steps=load.warm_up + load.counted + 1,
            learning_rate=LEARNING_RATE,
            loss_type="dapo",
            epsilon_high=0.28,
            beta=0.0,
            temperature=1.0,
            use_cpu=True,
            bf16=precision == "bfloat16",
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1000,
            disable_tqdm=True,
        )
        GRPOTrainer(
            model=make_model(load),
            reward_funcs=lambda completions, **_: [reward_of(text) for text in completions],
            args=arguments,
            train_dataset=datasets.Dataset.from_dict({"prompt": prompts(load)}),
            processing_class=make_tokenizer(load),
            callbacks=[Clock()],
        ).train()
    return [elapsed(*pair) for pair in itertools.pairwise(marks)]


def measure_side(side: str, precision: str, load: Workload) -> list[tuple[float, float]]:
    """Return the CPU and wall seconds of the counted steps."""
    if side == "harness":
        return [(row["cpu_s"], row["wall_s"]) for row in measure_ours(precision, load=load)[load.warm_up :]]
    return measure_trl(precision, load)[load.warm_up - 1 :]


def run_side(side: str, precision: str, workload: str, threads: int) -> tuple[float, float]:
    """Return the medians of a separate process, in CPU and wall seconds a step."""
    limits = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, "--side", side, "--precision", precision, "--workload", workload]
    done = subprocess.run(command, env={**os.environ, **limits}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        killed = ", killed: look for a lack of memory" if done.returncode == -signal.SIGKILL else ""
        raise SystemExit(f"{side} ended with exit code {done.returncode}{killed}\n{done.stderr[-3000:]}")
    cpu_s, wall_s = zip(*json.loads(done.stdout.splitlines()[-1]), strict=True)
    return statistics.median(cpu_s), statistics.median(wall_s)


def compare(precisions: Sequence[str], n_rounds: int, workload: str, threads: int) -> None:
    sides = [(side, precision) for precision in precisions for side in ("harness", "TRL")]
    found: dict[tuple[str, str], list[tuple[float, float]]] = {side: [] for side in sides}
    for number in range(n_rounds):
        for side, precision in sides:  # one process after the other, so that each has the whole memory
            cpu_s, wall_s = run_side(side, precision, workload, threads)
            found[side, precision].append((cpu_s, wall_s))
            print(f"round {number + 1}, {side} in {precision}: {cpu_s:.2f} CPU s, {wall_s:.2f} s a step", flush=True)
    for theirs, ours in itertools.product(precisions, precisions):
        pairs = list(zip(found["TRL", theirs], found["harness", ours], strict=True))
        for unit, number in (("CPU", 0), ("wall", 1)) if threads > 1 else (("CPU", 0),):
            ratios = [trl[number] / harness[number] for trl, harness in pairs]
            name = f"TRL in {theirs} / harness in {ours}, {unit} time"
            print(f"{name}: median {statistics.median(ratios):.2f}, min {min(ratios):.2f}, max {max(ratios):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--workload", choices=WORKLOADS, default="small")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--side", choices=("harness", "TRL"), help="measure one side in this process")
    options = parser.parse_args()
    if options.side is not None:
        print(json.dumps(measure_side(options.side, options.precision[0], WORKLOADS[options.workload])))
        return
    compare(options.precision, options.rounds, options.workload, options.threads)


if __name__ == "__main__":
    main()
