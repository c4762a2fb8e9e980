"""A Tinker server: Tinker itself, or SkyRL's server of the same interface.

Samples from a base model or from saved weights there. The backend `tinker` of `harness train` samples its policy with
this engine. The tokenizer is read on this machine, and prompts are sent as token ids, one request a completion with the
completion's own seed.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.core.errors import ConfigError, RunError
from harness.core.protocols import Engine, ModelSource
from harness.core.types import Completion, Failure, Request, Sampling, Tokens
from harness.models.chat import decode_text, encode_prompts, stop_ids
from harness.models.loading import context_of, load_tokenizer
from harness.models.tinker_server import RefusedRequestError, Server, ServerConfig, check_client

if TYPE_CHECKING:
    import torch


class TinkerEngine(Engine):
    """Requests completions from a sampling client, or from what a training client has at the moment.

    The second is what the backend `tinker` makes of it. It can't be chosen for other training: `follows_policy` is
    false, because the weights of another trainer are not on the server.
    """

    @dataclass(frozen=True, slots=True)
    class Config(ServerConfig):
        weights: str | None = None
        """A path of weights saved for sampling there, tinker://...; unset, the base model itself."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._trained: Any = None

    def follow(self, server: Server, client: Any) -> None:
        """Sample from a training client, as its weights are at each `load_weights`."""
        self._server, self._trained = server, client

    def open(self, source: ModelSource) -> None:
        self._tokenizer = source.tokenizer if source.tokenizer is not None else load_tokenizer(source)
        self._context = context_of(source)
        self._stop_ids = stop_ids(None, self._tokenizer)
        if self._trained is None:
            self._connect(source)

    def _connect(self, source: ModelSource) -> None:
        check_client()
        config = self.config
        name = config.base_model if config.base_model is not None else source.path
        server = config.connect()
        server.check_model(name)
        self._server, self._sampler = server, server.sampler_of(name, config.weights)

    def close(self) -> None:
        if self._trained is None:  # else the server belongs to the trainer
            self._server.close()

    def load_weights(self, tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        if self._trained is None:
            return super().load_weights(tensors, version)
        self._sampler = self._server.sampler(self._trained)
        self.version = version
        return None

    def check_prompts(self, source: ModelSource, requests: Iterable[Request]) -> None:
        every = list(requests)
        for request in every:
            if request.sampling.min_p > 0:
                raise ConfigError("a Tinker server has no min_p: leave sampling.min_p out")
        encode_prompts(load_tokenizer(source), every, context_of(source))

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion | Failure]:
        remaining = iter(requests)
        waiting: deque[tuple[Request, Sequence[int], Any]] = deque()
        while True:
            fresh = list(itertools.islice(remaining, self.config.max_concurrency - len(waiting)))
            prompts = encode_prompts(self._tokenizer, fresh, self._context)
            waiting.extend((r, prompts[r.messages], self._send(r, prompts[r.messages])) for r in fresh)
            if not waiting:
                return
            request, prompt, future = waiting.popleft()
            try:
                answer = self._server.wait(future, f"a completion of {request.problem_id}")
                yield self._completion(request, prompt, answer.sequences[0])
            except RefusedRequestError as error:
                yield Failure(request.problem_id, request.index, request.seed, str(error))

    def _send(self, request: Request, prompt: Sequence[int]) -> Any:
        from tinker import types

        sampling = request.sampling
        asked = types.SamplingParams(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k if sampling.top_k > 0 else -1,
            seed=request.seed % 2**31,
            # Either ids or strings. With ids the end of the sequence is a token that can be trained; strings are cut
            # here.
            stop=sorted(self._stop_ids),
        )
        return self._sampler.sample(types.ModelInput.from_ints(list(prompt)), 1, asked)

    def _completion(self, request: Request, prompt: Sequence[int], sequence: Any) -> Completion:
        sampling, ids = request.sampling, list(sequence.tokens)
        if not ids:
            raise RunError(f"the server gave an empty completion of {request.problem_id}")
        n = self._n_until_stop(ids, sampling)
        is_finished = n < len(ids) or ids[-1] in self._stop_ids or self._has_stop(ids[:n], sampling)
        text = decode_text(self._tokenizer, ids[:n], self._stop_ids, sampling.stop)
        # The sampler gives log-probs at temperature 1, whatever it sampled at.
        logp = sequence.logprobs if sampling.temperature == 1 and not sampling.truncating() else None
        tokens = Tokens(len(prompt), n, tuple(prompt), tuple(ids[:n]), tuple(logp[:n]) if logp is not None else None)
        return Completion(
            request.problem_id, request.index, request.seed, text, "stop" if is_finished else "length", tokens
        )

    def _n_until_stop(self, ids: Sequence[int], sampling: Sampling) -> int:
        """Return how many tokens there are up to the one that completes a stop string."""
        if not self._has_stop(ids, sampling):
            return len(ids)
        return next(n for n in range(1, len(ids) + 1) if self._has_stop(ids[:n], sampling))

    def _has_stop(self, ids: Sequence[int], sampling: Sampling) -> bool:
        if not sampling.stop:
            return False
        text = self._tokenizer.decode(ids)
        return any(stop in text for stop in sampling.stop)


ENGINE = TinkerEngine
