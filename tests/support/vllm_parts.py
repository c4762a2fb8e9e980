"""Parts of the vllm tests: a model that it can run on a processor, and the check of log-probabilities."""

from __future__ import annotations

from typing import Any

import torch

from harness.core.config import parse_plugin
from harness.core.protocols import ModelSource
from harness.core.types import Completion, Message, Request, Sampling

PROMPTS = ["1 2 4 5 7 9 = 38 :", "3 4 = 7 :"]
# Two float32 programs that add in another order; logits are of size 16.
TOLERANCE = 1e-4


def opened(source: ModelSource, **options: Any) -> Any:
    engine = parse_plugin("engines", {"id": "vllm", "enforce_eager": True, "kv_cache_gib": 0.25, **options}).build()
    engine.open(source)
    return engine


def requests(n: int, max_tokens: int = 14, **sampling: Any) -> list[Request]:
    how = Sampling(max_tokens=max_tokens, **sampling)
    return [
        Request(f"p{p}", i, (Message("user", prompt),), 1000 * p + i, how)
        for p, prompt in enumerate(PROMPTS)
        for i in range(n)
    ]


def assert_forced(module: Any, completion: Completion, temperature: float) -> None:
    """The log-probabilities are those of a teacher-forced pass of the module."""
    tokens = completion.tokens
    ids = torch.tensor([[*tokens.prompt_ids, *tokens.completion_ids]])
    with torch.no_grad():
        logp = torch.log_softmax(module(input_ids=ids).logits[0].double() / temperature, -1)
    n = len(tokens.completion_ids)
    forced = logp[-n - 1 : -1].gather(-1, ids[0, -n:, None])[:, 0]
    assert (forced - torch.tensor(tokens.logp_behaviour).double()).abs().max() < TOLERANCE
