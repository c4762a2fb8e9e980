"""`flowrl-legacy`: the 1 to 5 judge of the FlowRL paper as released, kept to reproduce its number, not to trust it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from harness.core.progress import Progress
from harness.core.types import Failure
from harness.diversity.arms import Arm, common_tasks, sizes_of
from harness.diversity.asking import Judge, Prompt
from harness.diversity.measures import store

CHARACTERS, FEWEST, MOST, ON_ERROR, MAX_TOKENS = 300, 10, 16, 3.0, 5
NAME = "flowrl-legacy"
FAULTS = (
    f"it reads the first {CHARACTERS} characters of each completion, right or wrong, once, in one order; a failed call "
    f"is scored {ON_ERROR:g}"
)


def rate_arms(arms: Sequence[Arm], judge: Judge, progress: Progress) -> dict[str, dict[str, Any]]:
    """Score every problem with at least 10 completions, store the scores, and return the cards by task."""
    prompt = Prompt.read(NAME)
    cards = {}
    for task in common_tasks(arms):
        n_failed = n_all = 0
        for arm in arms:
            prompts = {}
            for problem_id, graded in arm.graded[task].items():
                texts = [item.completion.load().text[:CHARACTERS] for item in graded[:MOST]]
                if len(texts) >= FEWEST:
                    statement = "\n\n".join(message.content for message in graded[0].problem.messages)
                    prompts[problem_id] = prompt.filled(statement, texts)
            replies = judge.ask(prompts, MAX_TOKENS, progress)
            scores = {problem: score_of(reply) for problem, reply in replies.items()}
            for problem in (problem for problem, score in scores.items() if score is None):
                judge.forget(prompts[problem], MAX_TOKENS)
            n_all, n_failed = n_all + len(scores), n_failed + sum(score is None for score in scores.values())
            values = {p: (score if score is not None else ON_ERROR,) for p, score in scores.items()}
            cards[task] = _card(judge, prompt, n_failed, n_all)
            store(arm, task, sizes_of(arms, task), arms, {NAME: values}, {NAME: cards[task]})
    return cards


def score_of(reply: str | Failure) -> float | None:
    """Return the number that the reply begins with, kept between 1 and 5; None for anything else."""
    number = re.match(r"\s*(\d+)", reply) if isinstance(reply, str) else None
    return float(min(5, max(1, int(number[1])))) if number is not None else None


def _card(judge: Judge, prompt: Prompt, n_failed: int, n_all: int) -> dict[str, Any]:
    return {
        "model": judge.model,
        "prompt": prompt.digest,
        "DO NOT BELIEVE IT": FAULTS,
        "failed": f"{n_failed} of {n_all} problems, scored {ON_ERROR:g}",
    }
