"""Sampling by the hf engine against `model.generate` with a static cache: same model and prompts, alternating.

    python bench/sampling.py --rounds 5

Workload: the Llama of train_step.py, 16 prompts of 8 tokens, 8 completions each, at most 64 new tokens, temperature 1,
one thread. `equal`: no completion ends early. `varied`: about one token in twenty ends its sequence, so lengths are
geometric with a mean of about 19 tokens, and the batch of `generate` continues until its longest completion ends.
CPU seconds, which are stable on a shared machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from train_step import NEW_TOKENS, SAMPLES, VOCABULARY, make_model, make_tokenizer, prompts

from harness.core.config import parse_plugin
from harness.core.protocols import ModelSource
from harness.core.types import Message, Request, Sampling

ENDINGS = list(range(100, 100 + VOCABULARY // 20))


def sample_with_harness(engine: Any, seed: int) -> int:
    """Return the number of tokens sampled."""
    sampling = Sampling(max_tokens=NEW_TOKENS)
    requests = [
        Request(str(number), i, (Message("user", prompt),), 10_000 * seed + 100 * number + i, sampling)
        for number, prompt in enumerate(prompts())
        for i in range(SAMPLES)
    ]
    return sum(completion.tokens.n_completion for completion in engine.generate(requests))


def sample_with_generate(model: Any, ids: torch.Tensor, endings: list[int], seed: int) -> int:
    torch.manual_seed(seed)
    with torch.inference_mode():
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            top_k=0,
            top_p=1.0,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=endings,
            pad_token_id=0,
            cache_implementation="static",
        )[:, ids.shape[1] :]
    ended = torch.isin(output, torch.tensor(endings)).int()
    return int(((ended.cumsum(1) - ended) == 0).sum())  # up to and including the first end token


def cpu_s(work: Callable[[], int]) -> tuple[float, int]:
    before = time.process_time()
    n_tokens = work()
    return time.process_time() - before, n_tokens


def compare(name: str, endings: list[int], rounds: int) -> None:
    model, tokenizer = make_model().eval(), make_tokenizer()
    model.generation_config.eos_token_id = endings
    engine = parse_plugin("engines", "hf").build()
    engine.open(ModelSource("unused", module=model, tokenizer=tokenizer))
    ids = tokenizer(prompts(), return_tensors="pt")["input_ids"].repeat_interleave(SAMPLES, 0)
    ratios, lines = [], []
    for seed in range(rounds + 1):  # the first is warm-up
        ours, our_tokens = cpu_s(lambda seed=seed: sample_with_harness(engine, seed))
        theirs, their_tokens = cpu_s(lambda seed=seed: sample_with_generate(model, ids, endings, seed))
        if seed > 0:
            # per token, because the two sample different lengths from the same distribution
            ratios.append((theirs / their_tokens) / (ours / our_tokens))
            lines.append(f"{ours:.2f} s for {our_tokens} tokens against {theirs:.2f} s for {their_tokens}")
    print(f"{name}: harness {lines[len(lines) // 2]}")
    print(f"{name}: generate / harness: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    compare("equal lengths", [VOCABULARY], rounds)
    compare("varied lengths", ENDINGS, rounds)


if __name__ == "__main__":
    main()
