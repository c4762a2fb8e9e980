"""Transformers, in this process, on CPU or GPU: any model that `AutoModelForCausalLM` loads.

The randomness of a completion comes from its seed and token position alone. On a CPU in float32 its text and
log-probabilities are the same to the bit in any company, whatever the lengths of the other prompts and whenever it
took its place among them, for models whose layers attend to everything before, by torch's `sdpa`; for others (a
sliding window, a state, other attention), and for a policy in training, beside equally long prompts. Where it is not
promised: another number of threads, another processor, and a GPU, where batch shape decides rounding; there a token
changes only if its uniform falls within the rounding error of a boundary (about one token in a million in float32, one
in a thousand in bfloat16).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.core.config import incidental
from harness.core.protocols import ModelSource, PolicyEngine
from harness.core.types import Completion, Message, Request, Sampling, Tokens
from harness.engines._text import read_prompts, scored_context, stop_ids, text_of
from harness.models.loading import context_of, load_module, load_tokenizer

if TYPE_CHECKING:
    import torch

    from harness.engines._batch import Row


class HuggingFaceEngine:
    """Decodes `batch_rows` completions at once, more joining as some end; those of one prompt share its reading.

    Models whose layers keep only what is near, or a state, are decoded in windows of that many. So is the policy in
    training, whose completions are few, of like length, and always asked for together: that spares it a tenth.
    """

    @dataclass(frozen=True, slots=True)
    class Config:
        batch_rows: int = incidental(default=256)

        def __post_init__(self) -> None:
            if self.batch_rows < 1:
                raise ValueError("batch_rows must be at least 1")

    logp_is_exact: bool
    module: Any
    tokenizer: Any

    def __init__(self, config: Config) -> None:
        self.config = config
        self.version = 0
        self.n_at_once: int | None = config.batch_rows

    def open(self, source: ModelSource) -> None:
        self.tokenizer = source.tokenizer if source.tokenizer is not None else load_tokenizer(source)
        self.module = source.module if source.module is not None else load_module(source)
        self._is_the_policy = source.module is not None
        is_float32 = str(self.module.dtype) == "torch.float32"
        # A policy that is trained in bfloat16 keeps float32 weights, and is sampled as it is trained.
        self._in_bfloat16 = self._is_the_policy and is_float32 and source.dtype == "bfloat16"
        self.logp_is_exact = is_float32 and not self._in_bfloat16
        generation = self.module.generation_config
        self._stop_ids = stop_ids(generation.eos_token_id if generation is not None else None, self.tokenizer)

    def vet(self, source: ModelSource, requests: Iterable[Request]) -> None:
        read_prompts(load_tokenizer(source), list(requests), context_of(source))

    def close(self) -> None:
        self.module = None

    def load_weights(self, tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        import torch

        self.version = version
        if self._is_the_policy:  # in training: what is sampled from and what is updated are one
            return
        own = self.module.state_dict()
        with torch.no_grad():
            for name, tensor in tensors:
                own[name].copy_(tensor)

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        asked = list(requests)
        prompts = read_prompts(self.tokenizer, asked, getattr(self.module.config, "max_position_embeddings", None))
        for sampling in dict.fromkeys(request.sampling for request in asked):
            mine = [request for request in asked if request.sampling == sampling]
            # Prompts of like length side by side; the longest first, so that the largest cache is there at once.
            yield from self._decode(sorted(mine, key=lambda request: -len(prompts[request.messages])), prompts)

    def score(self, requests: Iterable[Request]) -> Iterator[Completion]:
        from harness.engines._scoring import logps_of, scored, windows

        asked, context = list(requests), scored_context(self.module.config, self.tokenizer)
        every = [  # all of them first, so that one that does not fit is refused before anything is computed
            [windows(self.tokenizer, passage, context, repr(request.problem_id)) for passage in request.passages]
            for request in asked
        ]
        for start in range(0, len(asked), self.config.batch_rows):
            mine = every[start : start + self.config.batch_rows]
            flat = (window for of_request in mine for of_passage in of_request for window in of_passage)
            found = logps_of(self.module, dict.fromkeys(flat))
            for request, of_request in zip(asked[start:], mine, strict=False):
                yield scored(request, of_request, found)

    def _decode(
        self, requests: Sequence[Request], prompts: Mapping[tuple[Message, ...], list[int]]
    ) -> Iterator[Completion]:
        from harness.engines._batch import Row
        from harness.engines._decode import decode  # brings torch, which a mistyped command can do without

        numbers = {messages: i for i, messages in enumerate(dict.fromkeys(request.messages for request in requests))}
        mine, sampling = [prompts[messages] for messages in numbers], requests[0].sampling
        rows = [Row(i, numbers[request.messages], request.seed) for i, request in enumerate(requests)]
        ends, at_once = self._is_finished(sampling), self.config.batch_rows
        how = {"in_windows": self._is_the_policy, "in_bfloat16": self._in_bfloat16}
        training = self.module.training
        self.module.eval()
        try:
            for row in decode(self.module, mine, rows, sampling, ends, at_once, **how):
                yield self._completion(requests[row.request], mine[row.prompt], row)
        finally:
            self.module.train(training)

    def _is_finished(self, sampling: Sampling) -> Callable[[Row], bool]:
        if not sampling.stop:
            return lambda row: row.ids[-1] in self._stop_ids
        # A stop string of c characters lies within the last c tokens, if every token has at least one character.
        tail = max(map(len, sampling.stop)) + 8

        def is_finished(row: Row) -> bool:
            text = self.tokenizer.decode(row.ids[-tail:])
            return row.ids[-1] in self._stop_ids or any(stop in text for stop in sampling.stop)

        return is_finished

    def _completion(self, request: Request, prompt: Sequence[int], row: Row) -> Completion:
        text = text_of(self.tokenizer, row.ids, self._stop_ids, request.sampling.stop)
        tokens = Tokens(len(prompt), len(row.ids), tuple(prompt), tuple(row.ids), tuple(row.logp))
        return Completion(request.problem_id, request.index, request.seed, text, row.finish_reason, tokens)


ENGINE: type[PolicyEngine] = HuggingFaceEngine
