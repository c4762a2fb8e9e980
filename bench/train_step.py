"""One training step against TRL's GRPOTrainer: the same model, batch, lengths and loss, alternating, in CPU seconds.

    pip install -c constraints.txt '.[trl]'
    python bench/train_step.py --rounds 3
    python bench/train_step.py --rounds 3 --precision float32 bfloat16    # both sides in both, in turn

Workload: a Llama of 4 layers, hidden size 256, vocabulary 512, untied (4.46 M parameters), float32 weights; 16 prompts
of 8 tokens, 8 completions each of exactly 64 tokens; token-mean clipped loss, no KL; one optimiser step a batch; one
thread. The end-of-sequence id lies outside the model's vocabulary, so that no completion ends early on either side.
In bfloat16 both sides train under autocast. TRL samples under it as well; ours samples in float32.
CPU seconds, because they hold still on a shared machine where wall seconds do not.
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
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PROMPTS, SAMPLES, PROMPT_TOKENS, NEW_TOKENS, VOCABULARY = 16, 8, 8, 64, 512
WARM_UP, COUNTED = 2, 5
LEARNING_RATE = 1e-4


def make_model() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            intermediate_size=1024,
            max_position_embeddings=256,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=VOCABULARY,
            pad_token_id=0,
        )
    )


def make_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(VOCABULARY)} | {"<eos>": VOCABULARY}
    core = Tokenizer(models.WordLevel(words, unk_token="w1"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="w0", padding_side="left")
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return tokenizer


def prompts() -> list[str]:
    return [" ".join(f"w{2 + (17 * i + 31 * j) % 500}" for j in range(PROMPT_TOKENS)) for i in range(PROMPTS)]


def reward_of(text: str) -> float:
    """Any cheap function that differs within a group."""
    return sum(word.endswith("7") for word in text.split()) / NEW_TOKENS


def words_task() -> Any:
    from harness.core.protocols import Grader, Task
    from harness.core.types import Completion, Message, Problem, Sampling, Verdict

    class WordTask(Task[None], Grader[None]):
        sampling = Sampling(max_tokens=NEW_TOKENS)

        def __init__(self) -> None:
            self.grader = self

        def problems(self, split: str, seed: int) -> Iterator[Problem[None]]:  # noqa: ARG002
            for i, prompt in enumerate(prompts()):
                yield Problem(str(i), "words", (Message("user", prompt),), None)

        def grade(self, problem: Problem[None], completion: Completion) -> Verdict:  # noqa: ARG002
            return Verdict("incorrect", reward_of(completion.text))

    return WordTask()


GRPO = {"id": "grpo", "clip_high": 0.28, "kl_beta": 0.0, "reduction": "token_mean"}


def measure_ours(precision: str, objective: dict[str, Any] = GRPO) -> list[dict[str, float]]:
    """Step records, each with its `cpu_s`."""
    from harness.core import config as configs
    from harness.core.progress import Progress
    from harness.core.protocols import ModelSource
    from harness.runs.folder import RunIdentity, RunWriter
    from harness.trainers.config import TrainConfig
    from harness.trainers.loop import Trainer
    from harness.trainers.policy.model import Policy
    from harness.trainers.rollouts import Sampler
    from harness.trainers.setup import TrainSetup

    config = configs.parse(
        TrainConfig,
        {
            "model": {"path": "unused"},
            "task": "countdown",
            "objective": objective,
            "loop": {
                "steps": WARM_UP + COUNTED,
                "prompts_per_step": PROMPTS,
                "samples_per_prompt": SAMPLES,
                "precision": precision,
            },
            "optimizer": {"lr": LEARNING_RATE},
            "checkpoint": {"every_steps": 1000},
        },
    )
    model, tokenizer = make_model(), make_tokenizer()
    engine, built = config.engine.build(), config.objective.build()
    policy = Policy(model, 1.0, precision=config.loop.precision)
    with_reference = "reference_logp" in built.needs
    reference = Policy(make_model(), 1.0, precision=config.loop.precision) if with_reference else None
    built.prepare(policy.shape, 0)
    task = words_task()
    setup = TrainSetup(
        config=config,
        task=task,
        objective=built,
        engine=engine,
        base=ModelSource("unused"),
        temperature=1.0,
        max_tokens=task.sampling.max_tokens,
        held_out={},
        saved=None,
        newest=None,
        advice=(),
    )
    engine.open(dataclasses.replace(setup.sampling_source, module=model, tokenizer=tokenizer))
    marks: list[float] = []
    rows: list[dict[str, float]] = []

    class Clock:
        def resume(self, record: Any, step: int) -> None:  # noqa: ARG002
            marks.append(time.process_time())

        def log(self, row: dict[str, float]) -> None:
            marks.append(time.process_time())
            rows.append({**row, "cpu_s": marks[-1] - marks[-2]})

    with tempfile.TemporaryDirectory() as folder:
        store = RunWriter.open(Path(folder) / "run", RunIdentity.of("train", config, seeds={}, data={}))
        Trainer(
            setup=setup,
            policy=policy,
            reference=reference,
            tokenizer=tokenizer,
            source=Sampler(config, task, engine, with_greedy=False),
            engine=engine,
            store=store,
            trackers=[Clock()],  # type: ignore[list-item]
            progress=Progress(quiet=True),
            evaluate_held_out=lambda: None,
        ).fit()
        store.finish("done")
    return rows


def measure_trl(precision: str) -> list[float]:
    import datasets
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(time.process_time())

    with tempfile.TemporaryDirectory() as folder:
        arguments = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=PROMPTS * SAMPLES,
            num_generations=SAMPLES,
            steps_per_generation=1,
            max_completion_length=NEW_TOKENS,
            max_steps=WARM_UP + COUNTED + 1,
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
            model=make_model(),
            reward_funcs=lambda completions, **_: [reward_of(text) for text in completions],
            args=arguments,
            train_dataset=datasets.Dataset.from_dict({"prompt": prompts()}),
            processing_class=make_tokenizer(),
            callbacks=[Clock()],
        ).train()
    return [after - before for before, after in itertools.pairwise(marks)]


def run_side(side: str, precision: str) -> float:
    """The median step of a process of its own, in CPU seconds."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, "--side", side, "--precision", precision]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    return statistics.median(json.loads(done.stdout.splitlines()[-1]))


def compare(precisions: Sequence[str], n_rounds: int) -> None:
    sides = [(side, precision) for precision in precisions for side in ("harness", "TRL")]
    found: dict[tuple[str, str], list[float]] = {side: [] for side in sides}
    for number in range(n_rounds):
        for side, precision in sides:
            found[side, precision].append(run_side("ours" if side == "harness" else "trl", precision))
        printed = ", ".join(f"{side} in {precision} {found[side, precision][-1]:.2f}" for side, precision in sides)
        print(f"round {number + 1}, CPU-s a step: {printed}")
    for theirs, ours in itertools.product(precisions, precisions):
        ratios = [t / o for t, o in zip(found["TRL", theirs], found["harness", ours], strict=True)]
        name = f"TRL in {theirs} / harness in {ours}"
        print(f"{name}: median {statistics.median(ratios):.2f}, min {min(ratios):.2f}, max {max(ratios):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--side", choices=("ours", "trl"))
    options = parser.parse_args()
    match options.side:
        case "ours":
            rows = measure_ours(options.precision[0])
            print(json.dumps([row["cpu_s"] for row in rows[WARM_UP:]]))
        case "trl":
            print(json.dumps(measure_trl(options.precision[0])[WARM_UP - 1 :]))
        case _:
            compare(options.precision, options.rounds)


if __name__ == "__main__":
    main()
