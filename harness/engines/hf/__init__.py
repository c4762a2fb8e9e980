"""Transformers, in this process, on CPU or GPU: any model that `AutoModelForCausalLM` loads.

The randomness of a completion comes from its seed and token position alone. On a CPU in float32 its text and
log-probabilities are the same to the bit in any batch, whatever the lengths of the other prompts and whenever it
joined, if every layer attends to all earlier tokens through torch's `sdpa`. For other models, and for a policy in
training, they are the same in batches of equally long prompts that start together. It is not promised for another
number of threads, for another processor, or on a GPU, where the shape of the batch decides the rounding. There a token
changes only if its uniform number falls within the rounding error of a boundary: about one token in a million in
float32, one in a thousand in bfloat16. The same holds between a compiled model and one that is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from harness.core.config import incidental
from harness.core.errors import ConfigError
from harness.core.protocols import Engine, ModelSource
from harness.core.types import Completion, Message, Request, Sampling, Tokens
from harness.models.chat import context_length, decode_text, encode_prompts, stop_ids
from harness.models.loading import check_compiler, context_of, load_module, load_tokenizer
from harness.models.passages import request_windows, scored_completion

if TYPE_CHECKING:
    import torch

    from harness.engines.hf.batch import DecodingSlot


class HuggingFaceEngine(Engine):
    """Decodes up to `batch_rows` completions at once; others join as some finish, and a shared prompt is read once."""

    @dataclass(frozen=True, slots=True)
    class Config:
        batch_rows: int = incidental(default=256)
        compile: bool = incidental(default=False)
        """Compile the model with torch.compile, for long runs; not for the engine of a training run."""

        def __post_init__(self) -> None:
            if self.batch_rows < 1:
                raise ValueError("batch_rows must be at least 1")

    follows_policy: ClassVar[bool] = True
    can_score: ClassVar[bool] = True

    config: Config
    module: Any
    tokenizer: Any

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.n_at_once = config.batch_rows

    def open(self, source: ModelSource) -> None:
        self.tokenizer = source.tokenizer if source.tokenizer is not None else load_tokenizer(source)
        self.module = source.module if source.module is not None else load_module(source)
        self._is_policy = source.module is not None
        is_float32 = str(self.module.dtype) == "torch.float32"
        # A policy that is trained in bfloat16 keeps float32 weights, and is sampled as it is trained.
        self._in_bfloat16 = self._is_policy and is_float32 and source.dtype == "bfloat16"
        self.logp_is_exact = is_float32 and not self._in_bfloat16
        if self.config.compile:
            self._compile()
        generation = self.module.generation_config
        self._stop_ids = stop_ids(generation.eos_token_id if generation is not None else None, self.tokenizer)

    def _compile(self) -> None:
        """Compile the forward pass, once for all numbers of rows and columns."""
        import torch

        if self._is_policy:
            raise ConfigError("engine.compile is for evaluations: a policy in training is compiled by loop.compile")
        check_compiler(self.module.device, "engine.compile")
        self.module.forward = torch.compile(self.module.forward, dynamic=True)

    def check_prompts(self, source: ModelSource, requests: Iterable[Request]) -> None:
        encode_prompts(load_tokenizer(source), list(requests), context_of(source))

    def close(self) -> None:
        self.module = None

    def load_weights(self, tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        import torch

        self.version = version
        if self._is_policy:  # the trainer updates this very module
            return
        own = self.module.state_dict()
        with torch.no_grad():
            for name, tensor in tensors:
                own[name].copy_(tensor)

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        every = list(requests)
        prompts = encode_prompts(self.tokenizer, every, getattr(self.module.config, "max_position_embeddings", None))
        for sampling in dict.fromkeys(request.sampling for request in every):
            mine = [request for request in every if request.sampling == sampling]
            # Similar lengths next to each other; the longest first, so that the cache has its final size early.
            yield from self._decode(sorted(mine, key=lambda request: -len(prompts[request.messages])), prompts)

    def score(self, requests: Iterable[Request]) -> Iterator[Completion]:
        from harness.engines.hf.scoring import score_windows

        every, context = list(requests), context_length(self.module.config, self.tokenizer)
        # Of all requests first, so that one that does not fit is an error before anything is computed.
        windows = [request_windows(self.tokenizer, request, context) for request in every]
        for start in range(0, len(every), self.config.batch_rows):
            mine = windows[start : start + self.config.batch_rows]
            flat = (window for of_request in mine for of_passage in of_request for window in of_passage)
            scores = score_windows(self.module, dict.fromkeys(flat))
            for request, of_request in zip(every[start:], mine, strict=False):
                yield scored_completion(request, of_request, scores)

    def _decode(
        self, requests: Sequence[Request], prompts: Mapping[tuple[Message, ...], list[int]]
    ) -> Iterator[Completion]:
        # They import torch, which is not needed to report a mistyped command.
        from harness.engines.hf.batch import DecodingSlot
        from harness.engines.hf.decode import decode

        numbers = {messages: i for i, messages in enumerate(dict.fromkeys(request.messages for request in requests))}
        mine, sampling = [prompts[messages] for messages in numbers], requests[0].sampling
        rows = [DecodingSlot(i, numbers[request.messages], request.seed) for i, request in enumerate(requests)]
        training = self.module.training
        self.module.eval()
        try:
            for row in decode(
                self.module,
                mine,
                rows,
                sampling,
                self._end_test(sampling),
                self.config.batch_rows,
                in_blocks=not self._is_policy,
                in_bfloat16=self._in_bfloat16,
            ):
                yield self._completion(requests[row.request], mine[row.prompt], row)
        finally:
            self.module.train(training)

    def _end_test(self, sampling: Sampling) -> Callable[[DecodingSlot], bool]:
        """Return the test that a completion ends with its newest token."""
        if not sampling.stop:
            return lambda row: row.ids[-1] in self._stop_ids
        # A stop string of c characters lies within the last c tokens, if every token has at least one character.
        tail = max(map(len, sampling.stop)) + 8

        def is_finished(row: DecodingSlot) -> bool:
            text = self.tokenizer.decode(row.ids[-tail:])
            return row.ids[-1] in self._stop_ids or any(stop in text for stop in sampling.stop)

        return is_finished

    def _completion(self, request: Request, prompt: Sequence[int], row: DecodingSlot) -> Completion:
        text = decode_text(self.tokenizer, row.ids, self._stop_ids, request.sampling.stop)
        tokens = Tokens(len(prompt), len(row.ids), tuple(prompt), tuple(row.ids), tuple(row.logp))
        return Completion(request.problem_id, request.index, request.seed, text, row.finish_reason, tokens)


ENGINE = HuggingFaceEngine
