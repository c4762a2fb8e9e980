"""CPU seconds of the diversity measures: the lexical ones, self-BLEU against NLTK, embeddings against `encode`.

    python bench/diversity.py --problems 500 --samples 64
    python bench/diversity.py --encoder MODEL --texts 1000

The texts are random words, as long as a solution of a maths problem. The second needs sentence-transformers, and embeds
into a cache of its own. Both sides of a ratio run in this process, one after the other.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.core import registry
from harness.core.types import Completion, Graded, Problem, Tokens, Verdict

LEXICAL = ("distinct_n", "ead", "self_bleu", "div_equ")
COMMON = ["the", "so", "we", "=", "x", "3", "+", "of"]


def text(source: random.Random, n_words: int) -> str:
    rare = (f"w{source.randrange(3000)}" for _ in range(n_words))
    return " ".join(word if source.random() < 0.5 else source.choice(COMMON) for word in rare)


def samples(n_problems: int, n_samples: int, n_words: int) -> list[Graded[Any]]:
    source = random.Random(0)
    return [
        Graded(
            Problem(f"p{p}", "bench", (), None),
            Completion(f"p{p}", i, 0, text(source, n_words), "stop", Tokens(1, 1)),
            Verdict("correct", 1.0, "1") if source.random() < 0.5 else Verdict("incorrect", 0.0, "2", "wrong"),
        )
        for p in range(n_problems)
        for i in range(n_samples)
    ]


def cpu_s(function: Callable[[], object]) -> float:
    began = time.process_time()
    function()
    return time.process_time() - began


def lexical(n_problems: int, n_samples: int, n_words: int) -> None:
    graded = samples(n_problems, n_samples, n_words)
    times = {}
    for name in LEXICAL:
        metric = registry.load("metrics", name)
        times[name] = cpu_s(lambda made=metric: made(made.Config()).per_problem(graded))
    print(f"{n_problems} problems x {n_samples} samples of {n_words} words, CPU seconds:")
    print("  " + ", ".join(f"{name} {spent:.1f}" for name, spent in times.items()))
    print(f"  all lexical measures with their twins of right samples: {sum(times.values()):.1f}")
    bleu, one = registry.load("metrics", "self_bleu"), graded[:n_samples]
    ours = min(cpu_s(lambda: bleu(bleu.Config()).per_problem(one)) for _ in range(3))
    theirs = cpu_s(lambda: naive([item.completion.load().text for item in one]))
    print(
        f"  self-BLEU of one problem: NLTK {theirs:.2f}, ours {ours:.3f} (also of the right ones): {theirs / ours:.0f}x"
    )


def naive(texts: list[str]) -> list[float]:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

    split, smooth = [t.split() for t in texts], SmoothingFunction().method1
    return [sentence_bleu(split[:i] + split[i + 1 :], t, smoothing_function=smooth) for i, t in enumerate(split)]


def embeddings(model: str, n_texts: int, n_words: int) -> None:
    from harness.metrics.base.embeddings import Encoder, windows_of

    source = random.Random(0)
    texts = [text(source, n_words) for _ in range(n_texts)]
    with tempfile.TemporaryDirectory() as folder:
        made = Encoder(model, "cpu", Path(folder))
        opened = made._open()
        flat = [window for windows in windows_of(opened, texts) for window, _ in windows]
        opened.encode(flat[:32], show_progress_bar=False)
        encode = cpu_s(lambda: opened.encode(flat, show_progress_bar=False))
        first = cpu_s(lambda: made.directions(texts))
        second = cpu_s(lambda: made.directions(texts))
    print(f"{n_texts} texts of {n_words} words in {len(flat)} windows, CPU seconds:")
    print(f"  encode {encode:.1f}; first time {first:.1f} ({first / encode:.3f}x); ", end="")
    print(f"second time {second:.3f} (1/{encode / second:.0f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--words", type=int, default=250)
    parser.add_argument("--encoder", help="a sentence-transformers model: measure embeddings instead")
    parser.add_argument("--texts", type=int, default=1000)
    args = parser.parse_args()
    if args.encoder is not None:
        embeddings(args.encoder, args.texts, args.words)
    else:
        lexical(args.problems, args.samples, args.words)


if __name__ == "__main__":
    main()
