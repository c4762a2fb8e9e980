"""Requests for the bundled countdown model, and completions by their key."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from harness.core.types import Completion, Message, Request, Sampling

PROMPTS = ["1 2 4 5 7 9 = 38 :", "1 1 2 3 5 8 = 24 :", "2 3 4 6 7 8 = 50 :"]


def make_requests(n: int, max_tokens: int = 14, **options: Any) -> list[Request]:
    """Return n requests for each prompt; their seeds follow from prompt and index."""
    sampling = Sampling(max_tokens=max_tokens, **options)
    return [
        Request(f"p{p}", i, (Message("user", prompt),), 1000 * p + i, sampling)
        for p, prompt in enumerate(PROMPTS)
        for i in range(n)
    ]


def by_key(completions: Iterable[Completion]) -> dict[tuple[str, int], Completion]:
    return {(c.problem_id, c.index): c for c in completions}
