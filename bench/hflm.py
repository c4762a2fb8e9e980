"""The hf engine against lm-eval's HFLM: same tasks, samples and model, alternating.

    python bench/hflm.py --rounds 5        # needs lm-eval, accelerate and datasets

Workload: the Llama of train_step.py, of whose tokens about one in twenty ends its reply, so that lengths are geometric;
one thread. Replies: 96 problems of 4 to 60 tokens, 4 samples each, at most 128 new tokens, temperature 1. Scoring: 200
questions of 20 to 80 tokens with four choices of one token, with four endings of 3 to 12 tokens, and 60 of them with
four choices behind 600 tokens that all questions share (five examples). HFLM takes its requests as lm-eval's evaluator
gives them (each as often as it has samples), in batches of --batch.
CPU seconds, because they hold still on a shared machine where wall seconds do not.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from train_step import VOCABULARY, make_model, make_tokenizer

from harness.core.config import parse_plugin
from harness.core.protocols import ModelSource
from harness.core.types import Message, Passage, Request, Sampling
from harness.models.chat import PLAIN

ENDINGS = list(range(100, 100 + VOCABULARY // 20))
PROBLEMS, SAMPLES, NEW_TOKENS, QUESTIONS, CONTEXT = 96, 4, 128, 200, 1024

Pair = tuple[str, str]


def words(draw: random.Random, least: int, most: int) -> str:
    return " ".join(f"w{draw.randrange(2, 100)}" for _ in range(draw.randint(least, most)))


def plain(text: str) -> tuple[Message, ...]:
    return (Message(PLAIN, text),)


def instances(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, argument, 0, ("bench", number, 1)) for number, argument in enumerate(arguments)]


# --- replies: the number of tokens made -------------------------------------------------------------------------------


def reply_with_harness(engine: Any, prompts: list[str], seed: int) -> int:
    sampling = Sampling(max_tokens=NEW_TOKENS)
    requests = [
        Request(str(number), i, plain(prompt), 10_000 * seed + 100 * number + i, sampling)
        for number, prompt in enumerate(prompts)
        for i in range(SAMPLES)
    ]
    return sum(completion.tokens.n_completion for completion in engine.generate(requests))


def reply_with_hflm(lm: Any, prompts: list[str], seed: int) -> int:
    torch.manual_seed(seed)
    drawn = {"until": [], "do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_gen_toks": NEW_TOKENS}
    asked = instances("generate_until", [(prompt, drawn) for prompt in prompts for _ in range(SAMPLES)])
    return sum(len(text.split()) for text in lm.generate_until(asked, disable_tqdm=True))


# --- scoring: the number of passages ----------------------------------------------------------------------------------


def score_with_harness(engine: Any, pairs: list[Pair], _: int) -> int:
    requests = [
        Request(str(number), 0, (), 0, Sampling(1), tuple(Passage(plain(p), t) for p, t in pairs[number : number + 4]))
        for number in range(0, len(pairs), 4)
    ]
    return sum(len(completion.likelihoods) for completion in engine.score(requests))


def score_with_hflm(lm: Any, pairs: list[Pair], _: int) -> int:
    return len(lm.loglikelihood(instances("loglikelihood", list(pairs)), disable_tqdm=True))


def cpu_s(work: Callable[[], int]) -> tuple[float, int]:
    before = time.process_time()
    n_made = work()
    return time.process_time() - before, n_made


def compare(name: str, ours: Callable[[int], int], theirs: Callable[[int], int], rounds: int) -> None:
    ratios, lines = [], []
    for seed in range(rounds + 1):  # the first is warm-up
        mine, n_mine = cpu_s(lambda seed=seed: ours(seed))
        other, n_other = cpu_s(lambda seed=seed: theirs(seed))
        if seed > 0:
            # of each thing made, because the two draw different lengths from one distribution
            ratios.append((other / n_other) / (mine / n_mine))
            lines.append(f"{mine:.2f} s for {n_mine} against {other:.2f} s for {n_other}")
    print(f"{name}: harness {lines[len(lines) // 2]}")
    print(f"{name}: HFLM / harness: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="only the workloads whose name contains this")
    parser.add_argument("--batch", type=int, default=64, help="of HFLM (default: 64)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = make_model().eval(), make_tokenizer()
    model.config.max_position_embeddings = CONTEXT
    model.generation_config.eos_token_id = ENDINGS
    engine = parse_plugin("engines", "hf").build()
    with tempfile.TemporaryDirectory() as folder:  # an evaluation's weights are its own
        model.save_pretrained(folder)
        engine.open(ModelSource(folder, tokenizer=tokenizer))
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=options.batch, max_length=CONTEXT)
    draw = random.Random(0)
    prompts = [words(draw, 4, 60) for _ in range(PROBLEMS)]
    questions = [words(draw, 20, 80) for _ in range(QUESTIONS)]
    letters = [(question, f" w{letter}") for question in questions for letter in range(4)]
    endings = [(question, " " + words(draw, 3, 12)) for question in questions for _ in range(4)]
    examples = words(draw, 600, 600)
    five_shot = [(f"{examples} {question}", f" w{letter}") for question in questions[:60] for letter in range(4)]
    asked: dict[str, tuple[Any, Any, Any]] = {
        "replies of mixed lengths": (reply_with_harness, reply_with_hflm, prompts),
        "choices of one token": (score_with_harness, score_with_hflm, letters),
        "endings": (score_with_harness, score_with_hflm, endings),
        "choices behind five examples": (score_with_harness, score_with_hflm, five_shot),
    }
    for name, (ours, theirs, what) in asked.items():
        if options.only not in name:
            continue
        compare(
            name,
            lambda seed, ours=ours, what=what: ours(engine, what, seed),
            lambda seed, theirs=theirs, what=what: theirs(lm, what, seed),
            options.rounds,
        )


if __name__ == "__main__":
    main()
