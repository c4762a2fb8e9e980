"""Any OpenAI-compatible server: vLLM, SGLang, llama.cpp, TGI, hosted services.

Many requests are under way at once, as many as the server bears. What fails is tried again a bounded number of times,
after waits that grow and that the server may set; what is still not there is no completion but a Failure. The seed of
each completion is sent; whether the same seed gives the same text is the server's to keep. The API key comes from an
environment variable and is written nowhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import queue
import random
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.core import extras
from harness.core.config import incidental
from harness.core.errors import EngineError, ModelError, nearest
from harness.core.protocols import Engine, ModelSource
from harness.core.types import Completion, Failure, Request, Tokens
from harness.engines._answers import (
    Answer,
    MalformedError,
    RefusedError,
    pause_s,
    read_answer,
    read_listing,
    retry_after_s,
)
from harness.engines._connection import ApiKey, new_client
from harness.engines._gate import Gate
from harness.models.chat import PLAIN, prompt_ids
from harness.models.loading import load_tokenizer, resolve

_MAY_PASS = (408, 409, 425, 429)  # and everything from 500 on
_OVERLOAD = (408, 429, 503, 504, 529)
_LIST_TIMEOUT_S = 60.0


class _HopelessError(Exception):
    """Every other request would fail the same way."""


@dataclass(frozen=True, slots=True)
class _Trouble:
    """A try that gave nothing. `wait_s` is what the server asked for."""

    reason: str
    may_pass: bool = True
    is_overload: bool = False
    wait_s: float | None = None


class OpenAIEngine:
    """Asks a server for one completion a request, by chat completions or, with a `tokenizer`, by token ids."""

    @dataclass(frozen=True, slots=True)
    class Config:
        base_url: str
        """Where the server is, with its version, such as http://127.0.0.1:8000/v1."""
        endpoint: Literal["chat", "completions"] = "chat"
        tokenizer: str | None = None
        """A model directory or hub id whose template and tokenizer write the prompts for `completions`, and count
        tokens where the server does not."""
        omit: tuple[str, ...] = ()
        """Fields that this server does not take, such as seed or temperature."""
        extra_body: dict[str, Any] = field(default_factory=dict)
        """Fields that only this server takes."""
        budget_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
        key_variable: str = incidental(default="OPENAI_API_KEY")
        """The environment variable that holds the API key; servers of one's own need none."""
        is_listed: bool = incidental(default=True)
        """Refuse a model that the server does not list."""
        is_counted: bool = incidental(default=True)
        """Refuse an answer whose tokens nobody counts. If false, it counts for none."""
        max_concurrency: int = incidental(default=64)
        max_tries: int = incidental(default=6)
        timeout_s: float = incidental(default=600.0)
        """For one whole answer."""
        first_wait_s: float = incidental(default=1.0)
        """Before the second try; each further wait is twice as long, less a random part of up to a half."""
        longest_wait_s: float = incidental(default=120.0)
        """A server that asks for a longer wait is not asked again for that completion."""
        give_up_after: int = incidental(default=32)
        """After so many completions in a row that could not be had, the rest is not asked for."""
        usd_per_million_prompt_tokens: float | None = incidental(default=None)
        usd_per_million_completion_tokens: float | None = incidental(default=None)

        def __post_init__(self) -> None:
            if not self.base_url.startswith(("http://", "https://")):
                raise ValueError("base_url begins with http:// or https://")
            if "@" in self.base_url:
                raise ValueError("base_url holds a user or password; put a key into the environment instead")
            if self.endpoint == "completions" and self.tokenizer is None:
                raise ValueError("endpoint completions needs a tokenizer, whose chat template writes the prompts")
            if min(self.max_concurrency, self.max_tries, self.give_up_after) < 1:
                raise ValueError("max_concurrency, max_tries and give_up_after must be at least 1")
            if self.timeout_s <= 0 or min(self.first_wait_s, self.longest_wait_s) < 0:
                raise ValueError("timeout_s must be above 0, and waits not negative")

    def __init__(self, config: Config) -> None:
        self.config = config
        self._key = ApiKey(config.key_variable)
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
        listings = self._listed()
        if listings and self._model not in listings:
            raise ModelError(
                f"the server {self.config.base_url} has no model {self._model!r}; {nearest(self._model, listings)} "
                "(engine.is_listed = false asks it all the same)"
            )

    def close(self) -> None:
        pass

    def facts(self, model: str) -> Mapping[str, str]:
        listing = self._listed().get(self._model, {})
        told = json.dumps(listing, sort_keys=True)
        fingerprint = hashlib.sha256(told.encode()).hexdigest()[:16]
        said = {f"served {key}": value for key, value in listing.items()}
        return {"name": model, "server": self.config.base_url, "fingerprint": fingerprint, **said}

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion | Failure]:
        """In a thread of its own, so that grading holds no request up."""
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
        asking = asyncio.run_coroutine_threadsafe(self._ask_all(requests, answers.put), loop)
        asking.add_done_callback(lambda _: answers.put(None))
        try:
            while (answer := answers.get()) is not None:
                yield answer
            stopped_by = asking.result()
            if stopped_by is not None:
                raise EngineError(f"{stopped_by}; what was had is kept, and the same command asks for the rest")
        finally:
            asking.cancel()
            asyncio.run_coroutine_threadsafe(_wait_for_the_others(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    # --- asking

    async def _ask_all(self, requests: Sequence[Request], give: Callable[[Completion | Failure], None]) -> str | None:
        """Give an answer for each; or stop, with the reason, where every other request would fail the same way."""
        gate, coming, lost_in_a_row = Gate(self.config.max_concurrency), iter(requests), 0
        stopped_by: str | None = None
        async with self._client() as client:

            async def work() -> None:
                nonlocal lost_in_a_row
                for request in coming:
                    if lost_in_a_row >= self.config.give_up_after:
                        give(_failure(request, f"not asked for, after {lost_in_a_row} in a row could not be had"))
                        continue
                    answer = await self._ask(client, gate, request)
                    lost_in_a_row = lost_in_a_row + 1 if isinstance(answer, Failure) else 0
                    give(answer)

            try:
                async with asyncio.TaskGroup() as workers:
                    for _ in range(min(self.config.max_concurrency, len(requests))):
                        workers.create_task(work())
            except* _HopelessError as several:
                stopped_by = str(several.exceptions[0])
        return stopped_by

    async def _ask(self, client: Any, gate: Gate, request: Request) -> Completion | Failure:
        for number in itertools.count(1):
            entered_at = await gate.enter()
            got = await self._try(client, gate, request)
            await gate.leave(entered_at, is_overloaded=isinstance(got, _Trouble) and got.is_overload)
            if isinstance(got, Completion):
                return got
            if not got.may_pass:
                return _failure(request, got.reason)
            if got.wait_s is not None and got.wait_s > self.config.longest_wait_s:
                return _failure(request, f"{got.reason}; it asks for a wait of {got.wait_s:.0f} s")
            if number == self.config.max_tries:
                return _failure(request, f"{got.reason} (the last of {number} tries)")
            if got.wait_s is not None:
                gate.pause(got.wait_s)
            await asyncio.sleep(self._backoff_s(number))
        raise AssertionError("the tries are counted above")

    def _backoff_s(self, number: int) -> float:
        longest: float = min(self.config.longest_wait_s, self.config.first_wait_s * 2.0 ** (number - 1))
        return longest * random.uniform(0.5, 1)  # together they would come back together

    async def _try(self, client: Any, gate: Gate, request: Request) -> Completion | _Trouble:
        try:
            async with asyncio.timeout(self.config.timeout_s):
                response = await self._post(client, request)
            gate.pause(min(pause_s(response.headers), self.config.longest_wait_s))
            return self._completion(request, read_answer(response.content, self._key.redact_reply))
        except TimeoutError:
            return _Trouble(f"no whole answer within {self.config.timeout_s:g} s", is_overload=True)
        except MalformedError as error:
            return _Trouble(self._key.redact(str(error)))
        except RefusedError as error:
            return _Trouble(self._key.redact(str(error)), may_pass=False)
        except self._openai.APIStatusError as error:
            return self._status_trouble(error)
        except self._openai.APIConnectionError as error:
            is_overload = isinstance(error, self._openai.APITimeoutError)
            return _Trouble(self._key.redact(f"the connection failed: {error.__cause__!r}"), is_overload=is_overload)

    async def _post(self, client: Any, request: Request) -> Any:
        """The response of the server, its body as it came."""
        fields = {**self._fields(request), **self.config.extra_body}
        if self.config.endpoint == "chat":
            turns = [{"role": message.role, "content": message.content} for message in request.messages]
            asking = client.chat.completions.with_raw_response.create(
                model=self._model, messages=turns, extra_body=fields
            )
        else:
            ids = prompt_ids(self._tokenizer, request.messages)
            asking = client.completions.with_raw_response.create(model=self._model, prompt=ids, extra_body=fields)
        try:
            raw = await asking
        except (self._openai.OpenAIError, RefusedError):
            raise
        except Exception as error:  # the package's own, where it can't read a response
            raise MalformedError(f"the response can't be read: {type(error).__name__}: {error}") from None
        return raw.http_response

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

    def _status_trouble(self, error: Any) -> _Trouble:
        status = error.status_code
        text = " ".join(self._key.redact(str(error.message)).split())
        detail = text.removeprefix(f"Error code: {status}").removeprefix(" - ")
        reason = f"the server answered {status}" + (f": {detail[:300]}" if detail else "")
        if status in (401, 403):
            raise _HopelessError(f"{reason}; the key is read from the environment variable {self.config.key_variable}")
        if status == 404 or error.code == "insufficient_quota":
            raise _HopelessError(reason)
        return _Trouble(
            reason,
            may_pass=status in _MAY_PASS or status >= 500,
            is_overload=status in _OVERLOAD,
            wait_s=retry_after_s(error.response.headers),
        )

    def _completion(self, request: Request, answer: Answer) -> Completion:
        text = answer.text
        for stop in request.sampling.stop:  # some servers leave it in
            text = text.partition(stop)[0]
        n_prompt, n_completion = self._counts(request, answer)
        tokens = Tokens(n_prompt, n_completion, cost_usd=self._cost(answer.cost_usd, n_prompt, n_completion))
        return Completion(request.problem_id, request.index, request.seed, text, answer.finish_reason, tokens)

    def _counts(self, request: Request, answer: Answer) -> tuple[int, int]:
        if answer.n_prompt is not None and answer.n_completion is not None:
            return answer.n_prompt, answer.n_completion
        if self._tokenizer is None:
            if not self.config.is_counted:
                return 0, 0
            raise RefusedError("the server counts no tokens (usage); set engine.tokenizer to count them here")
        n_completion = len(self._tokenizer(answer.text, add_special_tokens=False)["input_ids"])
        return len(prompt_ids(self._tokenizer, request.messages)), n_completion

    def _cost(self, told: float | None, n_prompt: int, n_completion: int) -> float | None:
        prices = self.config.usd_per_million_prompt_tokens, self.config.usd_per_million_completion_tokens
        if told is not None or prices[0] is None or prices[1] is None:
            return told
        return (n_prompt * prices[0] + n_completion * prices[1]) / 1e6

    # --- the server

    def _client(self) -> Any:
        return new_client(self._openai, self.config.base_url, self._key, self.config.timeout_s, self._tls)

    def _listed(self) -> Mapping[str, Mapping[str, str]]:
        """What the server says of each of its models, asked for once; nothing where it keeps no list."""
        if self._listings is None:
            try:
                self._listings = asyncio.run(self._list_models())
            except (_HopelessError, RefusedError) as error:
                raise ModelError(str(error)) from None
        return self._listings

    async def _list_models(self) -> dict[str, dict[str, str]]:
        async with self._client() as client:
            try:
                async with asyncio.timeout(min(self.config.timeout_s, _LIST_TIMEOUT_S)):
                    raw = await client.models.with_raw_response.list()
            except TimeoutError:
                raise _HopelessError(f"the server {self.config.base_url} did not answer in time") from None
            except self._openai.APIStatusError as error:
                if error.status_code in (404, 405, 501):
                    return {}
                raise _HopelessError(self._status_trouble(error).reason) from None
            except self._openai.APIConnectionError as error:
                cause = self._key.redact(str(error.__cause__))
                raise _HopelessError(f"no server answers at {self.config.base_url}: {cause}") from None
        return read_listing(raw.http_response.content, self._key.redact_reply)


def _failure(request: Request, reason: str) -> Failure:
    return Failure(request.problem_id, request.index, request.seed, reason)


async def _wait_for_the_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)


ENGINE: type[Engine] = OpenAIEngine
