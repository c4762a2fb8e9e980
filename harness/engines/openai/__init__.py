"""Any OpenAI-compatible server: vLLM, SGLang, llama.cpp, TGI, hosted services.

Requests run concurrently, as many as the server bears. A request that fails is repeated a bounded number of times,
after waits that grow and that the server may set; if every try fails, the engine yields a `Failure`. The seed of each
completion is sent; it is up to the server whether the same seed gives the same text. The API key comes from an
environment variable and is written nowhere. A reply is bounded in size and read strictly, so that no reply costs more
than its own completion; an error that every other request would get ends the run.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import queue
import random
import re
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from harness.core import extras
from harness.core.config import incidental
from harness.core.errors import ConfigError, EngineError, ModelError, nearest
from harness.core.protocols import Engine, ModelSource
from harness.core.types import Completion, Failure, Request, Tokens
from harness.engines.openai.concurrency import Gate
from harness.engines.openai.connection import ApiKey, new_client
from harness.engines.openai.replies import (
    MalformedError,
    RefusedError,
    ServerReply,
    pause_s,
    read_listing,
    read_reply,
    retry_after_s,
    well_formed,
)
from harness.models.chat import PLAIN, prompt_ids
from harness.models.loading import load_tokenizer, resolve

_RETRIED = (408, 409, 425, 429)  # and everything from 500 on
_OVERLOAD = (408, 429, 503, 504, 529)
_LIST_TIMEOUT_S = 60.0
_MOST_REPLY_BYTES = 16 * 2**20
_BUDGET = re.compile(r"max_(completion_|new_)?tokens|max_model_len|context (length|window)|tokens")
_LIMIT = re.compile(
    r"(?:at most|up to|context (?:length|window)\D{0,20}|max_model_len\W{1,4}|less than or equal to|no more than|<="
    r"|(?:maximum|limit)[^.\d]{0,60}?(?:is|of|to))\s*[:=]?\s*(\d{1,9})\b",
    re.IGNORECASE,
)
"""How servers state the most tokens that they generate."""


class _FatalError(Exception):
    """A fault that every other request would meet as well."""


@dataclass(frozen=True, slots=True)
class _FailedTry:
    """A try that gave no completion."""

    reason: str
    is_retried: bool = True
    is_overload: bool = False
    wait_s: float | None = None
    """The wait that the server asks for."""


class OpenAIEngine(Engine):
    """Requests one completion at a time from a server: chat completions or, with a `tokenizer`, token ids."""

    @dataclass(frozen=True, slots=True)
    class Config:
        base_url: str
        """The address of the server with its API version, such as http://127.0.0.1:8000/v1."""
        endpoint: Literal["chat", "completions"] = "chat"
        tokenizer: str | None = None
        """A model directory or hub id. Its chat template and tokenizer write the prompts for `completions`, and count
        tokens where the server does not."""
        omit: tuple[str, ...] = ()
        """Request fields that this server rejects, such as seed or temperature."""
        extra_body: dict[str, Any] = field(default_factory=dict)
        """Request fields that are specific to this server."""
        budget_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
        key_variable: str = incidental(default="OPENAI_API_KEY")
        """The environment variable that holds the API key. Not set: no key is sent."""
        is_listed: bool = incidental(default=True)
        """Refuse a model that the server does not list."""
        is_counted: bool = incidental(default=True)
        """Refuse a reply without token counts. If false, such a reply counts 0 tokens."""
        max_concurrency: int = incidental(default=64)
        max_tries: int = incidental(default=6)
        timeout_s: float = incidental(default=600.0)
        """Of one whole reply."""
        max_reply_bytes: int = incidental(default=_MOST_REPLY_BYTES)
        """A completion fails if its reply is longer, counted after decompression."""
        first_wait_s: float = incidental(default=1.0)
        """Wait before the second try. Each further wait is twice as long, less a random part of up to a half."""
        longest_wait_s: float = incidental(default=120.0)
        """A completion fails when the server asks for a longer wait."""
        give_up_after: int = incidental(default=32)
        """After so many failed completions in a row, the rest is not requested."""
        usd_per_million_prompt_tokens: float | None = incidental(default=None)
        usd_per_million_completion_tokens: float | None = incidental(default=None)

        def __post_init__(self) -> None:
            if not self.base_url.startswith(("http://", "https://")):
                raise ValueError("base_url must begin with http:// or https://")
            if "@" in self.base_url:
                raise ValueError("base_url must not hold a user or password; put a key into the environment instead")
            if self.endpoint == "completions" and self.tokenizer is None:
                raise ValueError("endpoint completions needs a tokenizer, whose chat template writes the prompts")
            if min(self.max_concurrency, self.max_tries, self.give_up_after, self.max_reply_bytes) < 1:
                raise ValueError("max_concurrency, max_tries, give_up_after and max_reply_bytes must be at least 1")
            if self.timeout_s <= 0 or min(self.first_wait_s, self.longest_wait_s) < 0:
                raise ValueError("timeout_s must be above 0, and waits must not be negative")

    is_remote: ClassVar[bool] = True

    config: Config

    def __init__(self, config: Config) -> None:
        self.config = config
        self._key = ApiKey(config.key_variable)
        if self._key.is_secret and self._key.redact(repr(config)) != repr(config):
            raise ConfigError(
                f"the engine's options contain the API key in the environment variable {config.key_variable}, and are "
                "stored with the run; leave it out of them"
            )
        self._tokenizer: Any = None
        self._listings: Mapping[str, Mapping[str, str]] | None = None

    def open(self, source: ModelSource) -> None:
        self._openai = extras.require("server", "the engine openai")
        self._tls = ssl.create_default_context()
        self._model = source.path
        if self.config.tokenizer is not None:
            self._tokenizer = load_tokenizer(ModelSource(resolve(self.config.tokenizer)))
        self._listings = None
        if not self.config.is_listed:
            return
        listings = self._list_models()
        if listings and self._model not in listings:
            raise ModelError(
                f"the server {self.config.base_url} has no model {self._model!r}; {nearest(self._model, listings)} "
                "(engine.is_listed = false requests it anyway)"
            )

    def close(self) -> None:
        pass

    def describe_model(self, model: str) -> Mapping[str, str]:
        listing = self._list_models().get(self._model, {})
        fingerprint = hashlib.sha256(json.dumps(listing, sort_keys=True).encode()).hexdigest()[:16]
        served = {f"served {key}": value for key, value in listing.items()}
        return {"name": model, "server": self.config.base_url, "fingerprint": fingerprint, **served}

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion | Failure]:
        """Yield a completion or a Failure for each request. Another thread sends them, while the caller grades."""
        requests = list(requests)
        if self.config.endpoint == "chat" and any(r.messages[0].role == PLAIN for r in requests):
            raise EngineError(
                "these prompts are plain text, and the server would write them as a message; set engine.endpoint to "
                "completions, or apply_chat_template in the task's table"
            )
        answers: queue.SimpleQueue[Completion | Failure | None] = queue.SimpleQueue()
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        sending = asyncio.run_coroutine_threadsafe(self._send_all(requests, answers.put), loop)
        sending.add_done_callback(lambda _: answers.put(None))
        try:
            while (answer := answers.get()) is not None:
                yield answer
            if (fault := sending.result()) is not None:
                raise EngineError(f"{fault}; the completions so far are stored, and the same command requests the rest")
        finally:
            sending.cancel()
            asyncio.run_coroutine_threadsafe(_wait_for_tasks(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    # --- requests

    async def _send_all(self, requests: Sequence[Request], give: Callable[[Completion | Failure], None]) -> str | None:
        """Give an answer for each request. Stop at a fault that all the others would meet, and return it."""
        gate, remaining, n_failed_in_a_row = Gate(self.config.max_concurrency), iter(requests), 0
        self._has_reply = False
        fault: str | None = None
        async with self._client() as client:

            async def work() -> None:
                nonlocal n_failed_in_a_row
                for request in remaining:
                    if n_failed_in_a_row >= self.config.give_up_after:
                        give(_failure(request, f"not requested, after {n_failed_in_a_row} failures in a row"))
                        continue
                    answer = await self._send(client, gate, request)
                    n_failed_in_a_row = n_failed_in_a_row + 1 if isinstance(answer, Failure) else 0
                    give(answer)

            try:
                async with asyncio.TaskGroup() as workers:
                    for _ in range(min(self.config.max_concurrency, len(requests))):
                        workers.create_task(work())
            except* _FatalError as several:
                fault = str(several.exceptions[0])
        return fault

    async def _send(self, client: Any, gate: Gate, request: Request) -> Completion | Failure:
        """Try until there is a completion, the server refuses, or the tries run out."""
        for number in itertools.count(1):
            entered_at = await gate.enter()
            result = await self._try(client, gate, request)
            await gate.leave(entered_at, is_overloaded=isinstance(result, _FailedTry) and result.is_overload)
            if isinstance(result, Completion):
                self._has_reply = True
                return result
            if not result.is_retried:
                return _failure(request, result.reason)
            if result.wait_s is not None and result.wait_s > self.config.longest_wait_s:
                return _failure(request, f"{result.reason}; it asks for a wait of {result.wait_s:.0f} s")
            if number == self.config.max_tries:
                return _failure(request, f"{result.reason} (the last of {number} tries)")
            if result.wait_s is not None:
                gate.pause(result.wait_s)
            await asyncio.sleep(self._backoff_s(number))
        raise AssertionError("the tries are counted above")

    def _backoff_s(self, number: int) -> float:
        longest: float = min(self.config.longest_wait_s, self.config.first_wait_s * 2.0 ** (number - 1))
        return longest * random.uniform(0.5, 1)  # so that requests that failed together do not return together

    async def _try(self, client: Any, gate: Gate, request: Request) -> Completion | _FailedTry:
        try:
            async with asyncio.timeout(self.config.timeout_s):
                response = await self._post(client, request)
            gate.pause(min(pause_s(response.headers), self.config.longest_wait_s))
            return self._completion(request, read_reply(response.content, self._key.redact_reply))
        except TimeoutError:
            return _FailedTry(f"no whole reply within {self.config.timeout_s:g} s", is_overload=True)
        except MalformedError as error:
            return _FailedTry(self._key.redact(str(error)))
        except RefusedError as error:
            return _FailedTry(self._key.redact(str(error)), is_retried=False)
        except self._openai.APIStatusError as error:
            failed = self._read_status_error(error)
            if not self._has_reply and error.status_code in (400, 422) and self._is_common(failed.reason, request):
                raise _FatalError(failed.reason) from None
            return failed
        except self._openai.APIConnectionError as error:
            is_overload = isinstance(error, self._openai.APITimeoutError)
            return _FailedTry(self._key.redact(f"the connection failed: {error.__cause__!r}"), is_overload=is_overload)

    async def _post(self, client: Any, request: Request) -> Any:
        """Send one request and return the response, its body not parsed."""
        fields = {**self._fields(request), **self.config.extra_body}
        if self.config.endpoint == "chat":
            turns = [{"role": message.role, "content": message.content} for message in request.messages]
            sending = client.chat.completions.with_raw_response.create(
                model=self._model, messages=turns, extra_body=fields
            )
        else:
            ids = prompt_ids(self._tokenizer, request.messages)
            sending = client.completions.with_raw_response.create(model=self._model, prompt=ids, extra_body=fields)
        return await self._received(sending)

    async def _received(self, sending: Awaitable[Any]) -> Any:
        """Return the response to a request; raise the package's errors, RefusedError or MalformedError."""
        try:
            raw = await sending
        except (self._openai.OpenAIError, RefusedError, MalformedError) as error:
            if isinstance(error.__cause__, (RefusedError, MalformedError)):  # older versions of the package wrap them
                raise error.__cause__ from None
            raise
        except Exception as error:  # the package raises all sorts of errors on a response it can't read
            raise MalformedError(f"the response can't be read: {type(error).__name__}: {error}") from None
        return raw.http_response

    def _is_common(self, reason: str, request: Request) -> bool:
        """Return whether a refusal is of something that all requests have: a field, or a budget above the limit."""
        if _BUDGET.search(reason):  # a long prompt may be at fault, unless the budget alone is above a limit
            limits = [int(number) for number in _LIMIT.findall(reason)]
            return any(limit < request.sampling.max_tokens for limit in limits)
        fields = {*self._fields(request), *self.config.extra_body} - {"stop"}  # which is a word too
        return any(re.search(rf"\b{re.escape(name)}\b", reason) for name in fields)

    def _fields(self, request: Request) -> dict[str, Any]:
        """Return the body's sampling fields. An option that is off is not sent: not every server knows it."""
        sampling = request.sampling
        fields: dict[str, Any] = {
            self.config.budget_field: sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": request.seed,
            **sampling.changed(),
        }
        if sampling.stop:
            fields["stop"] = list(sampling.stop)
        return {key: value for key, value in fields.items() if key not in self.config.omit}

    def _read_status_error(self, error: Any) -> _FailedTry:
        status = error.status_code
        text = " ".join(well_formed(self._key.redact(str(error.message))).split())
        detail = text.removeprefix(f"Error code: {status}").removeprefix(" - ")
        reason = f"the server answered {status}" + (f": {detail[:300]}" if detail else "")
        if status in (401, 403):
            raise _FatalError(f"{reason}; the key is read from the environment variable {self.config.key_variable}")
        if status == 404 or error.code == "insufficient_quota":
            raise _FatalError(reason)
        return _FailedTry(
            reason,
            is_retried=status in _RETRIED or status >= 500,
            is_overload=status in _OVERLOAD,
            wait_s=retry_after_s(error.response.headers),
        )

    def _completion(self, request: Request, reply: ServerReply) -> Completion:
        text = reply.text
        for stop in request.sampling.stop:  # some servers leave it in
            text = text.partition(stop)[0]
        n_prompt, n_completion = self._count_tokens(request, reply)
        tokens = Tokens(n_prompt, n_completion, cost_usd=self._cost(reply.cost_usd, n_prompt, n_completion))
        return Completion(request.problem_id, request.index, request.seed, text, reply.finish_reason, tokens)

    def _count_tokens(self, request: Request, reply: ServerReply) -> tuple[int, int]:
        if reply.n_prompt is not None and reply.n_completion is not None:
            return reply.n_prompt, reply.n_completion
        if self._tokenizer is not None:
            n_completion = len(self._tokenizer(reply.text, add_special_tokens=False)["input_ids"])
            return len(prompt_ids(self._tokenizer, request.messages)), n_completion
        if not self.config.is_counted:
            return 0, 0
        raise RefusedError("the reply has no token counts (usage); set engine.tokenizer to count them here")

    def _cost(self, reported: float | None, n_prompt: int, n_completion: int) -> float | None:
        prices = self.config.usd_per_million_prompt_tokens, self.config.usd_per_million_completion_tokens
        if reported is not None or prices[0] is None or prices[1] is None:
            return reported
        return (n_prompt * prices[0] + n_completion * prices[1]) / 1e6

    # --- the server

    def _client(self) -> Any:
        config = self.config
        return new_client(self._openai, config.base_url, self._key, config.timeout_s, config.max_reply_bytes, self._tls)

    def _list_models(self) -> Mapping[str, Mapping[str, str]]:
        """Return the server's fields of each of its models, requested once; nothing if it keeps no list."""
        if self._listings is None:
            try:
                self._listings = asyncio.run(self._request_list())
            except _FatalError as error:
                raise ModelError(str(error)) from None
        return self._listings

    async def _request_list(self) -> dict[str, dict[str, str]]:
        async with self._client() as client:
            try:
                async with asyncio.timeout(min(self.config.timeout_s, _LIST_TIMEOUT_S)):
                    response = await self._received(client.models.with_raw_response.list())
            except TimeoutError:
                raise _FatalError(f"the server {self.config.base_url} did not answer in time") from None
            except self._openai.APIStatusError as error:
                if error.status_code in (404, 405, 501):
                    return {}
                raise _FatalError(self._read_status_error(error).reason) from None
            except self._openai.APIConnectionError as error:
                cause = self._key.redact(str(error.__cause__))
                raise _FatalError(
                    f"no server answers at {self.config.base_url}: {cause}; start it, or correct engine.base_url"
                ) from None
            except (MalformedError, RefusedError) as error:
                raise _FatalError(self._key.redact(str(error))) from None
        return read_listing(response.content, self._key.redact_reply)


def _failure(request: Request, reason: str) -> Failure:
    return Failure(request.problem_id, request.index, request.seed, reason)


async def _wait_for_tasks() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)


ENGINE = OpenAIEngine
