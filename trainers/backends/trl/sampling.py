"""Sampling by several processes, and TRL's own ways to sample as an engine.

Each process samples and grades completions of its own problems, and all of them then have all completions, so that
groups are whole when advantages are made of them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.core.errors import EngineError
from harness.core.protocols import Engine, ModelSource
from harness.core.types import Completion, FinishReason, Graded, Problem, Request, Tokens
from harness.models.chat import decode_text, encode_prompts, stop_ids
from harness.trainers.backends.trl.world import World
from harness.trainers.rollouts import Sampler


class TrlEngine(Engine):
    """`generate` of transformers, or vLLM, colocated or as a server: whatever TRL's trainer was set up with.

    The randomness of `generate` comes from the seed of the first request, so a run repeats itself with the same number
    of processes. That of vLLM is its own.
    """

    def __init__(self, trainer: Any, tokenizer: Any) -> None:
        super().__init__()
        self._trainer = trainer
        self._tokenizer = tokenizer

    def open(self, source: ModelSource) -> None:
        """Do nothing: the trainer has the model."""

    def close(self) -> None:
        """Do nothing."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        every, trainer = list(requests), self._trainer
        self._refuse_other_sampling(every)
        context = getattr(trainer.model.config, "max_position_embeddings", None)
        prompts = encode_prompts(self._tokenizer, every, context)
        n_each = sum(request.problem_id == every[0].problem_id for request in every)
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # TRL asks transformers by an older name
            torch.manual_seed(every[0].seed)
            ids, logp = trainer._generate_single_turn([prompts[r.messages] for r in every], None, {}, n_each)
        ends = stop_ids(trainer.eos_token_ids, self._tokenizer)
        for i, (request, completion_ids) in enumerate(zip(every, ids, strict=True)):
            prompt = prompts[request.messages]
            tokens = Tokens(
                len(prompt),
                len(completion_ids),
                tuple(prompt),
                tuple(completion_ids),
                _without_gaps(logp[i]) if logp is not None else None,
            )
            text = decode_text(self._tokenizer, completion_ids, ends, ())
            reason: FinishReason = "stop" if completion_ids[-1] in ends else "length"
            yield Completion(request.problem_id, request.index, request.seed, text, reason, tokens)

    def _refuse_other_sampling(self, requests: Sequence[Request]) -> None:
        """Raise for a problem with a sampling of its own: TRL's trainer has one for all."""
        own = (self._trainer.max_completion_length, self._trainer.temperature)
        for request in requests:
            if (request.sampling.max_tokens, request.sampling.temperature) != own:
                raise EngineError(
                    f"the problem {request.problem_id} is sampled with {request.sampling}, and TRL samples all "
                    "problems alike: set backend.sampler = 'engine'"
                )


def _without_gaps(logp: Sequence[float | None]) -> tuple[float, ...]:
    """Refuse a token that vLLM gave no log-probability."""
    if any(value is None or math.isnan(value) for value in logp):
        raise EngineError("vLLM gave a token without a log-probability: its logits are not finite")
    return tuple(value for value in logp if value is not None)


@dataclass(slots=True)
class SharedSampler(Sampler):
    """Samples the problems of a step in several processes, each its own."""

    world: World = World()  # noqa: RUF009  # frozen
    is_collective: bool = False
    """Whether the processes must sample equally often, as those do that gather weights or prompts for it."""

    def _sample(
        self, step: int, problems: Sequence[Problem[Any]], n: int, *, greedy: bool = False
    ) -> list[Graded[Any]]:
        mine = list(problems[self.world.rank :: self.world.size])
        if self.is_collective and len(mine) < math.ceil(len(problems) / self.world.size):
            mine.append(problems[0])  # sampled twice, and counted once
        graded = Sampler._sample(self, step, mine, n, greedy=greedy)
        found: dict[tuple[str, int], Graded[Any]] = {}
        for item in (item for part in self.world.gather(graded) for item in part):
            found.setdefault((item.problem.id, item.completion.index), item)
        order = {problem.id: i for i, problem in enumerate(problems)}
        return sorted(found.values(), key=lambda item: (order[item.problem.id], item.completion.index))
