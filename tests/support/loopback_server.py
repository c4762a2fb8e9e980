"""A small OpenAI-compatible server on loopback that misbehaves on schedule. What it answers is a rule of the seed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

MODEL = "served-model"


def reply_to(seed: int, max_tokens: int = 10**9) -> tuple[str, str, int]:
    """Text, finish reason and number of tokens (words) of the right answer under a seed."""
    source = random.Random(seed)
    words = [source.choice(["a", "b", "c", "d;"]) for _ in range(source.randint(1, 9))]
    kept = words[:max_tokens]
    return " ".join(kept), "stop" if len(kept) == len(words) else "length", len(kept)


class LoopbackServer:
    """`behave(seed, attempt)` names what happens to the attempt-th request (from 1) under a seed."""

    def __init__(
        self,
        behave: Callable[[int, int], str] = lambda seed, attempt: "ok",
        listed: dict[str, Any] | None = None,
        key: str | None = None,
    ) -> None:
        self.behave, self.key = behave, key
        self.listed = listed if listed is not None else {"owned_by": "loopback", "root": MODEL}
        self.attempts: Counter[int] = Counter()
        self.log: list[tuple[float, int, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.heads: list[str] = []
        self.list_at: str | None = None
        self.under_way = self.most_under_way = 0
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def __enter__(self) -> LoopbackServer:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _end(self) -> None:
        # The others accept a connection. One that is cancelled, or finds the server closed, leaves its socket open.
        while others := asyncio.all_tasks() - {asyncio.current_task()} - self._connections.keys():
            await asyncio.gather(*others, return_exceptions=True)
        self._server.close()
        for task, writer in self._connections.items():
            task.cancel()
            writer.transport.abort()
        await asyncio.gather(*self._connections, return_exceptions=True)
        for writer in self._connections.values():
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections[asyncio.get_running_loop().create_task(self._serve(reader, writer))] = writer

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            try:
                await self._answer(reader, writer)
            finally:
                writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head.split("\r\n")[1:])}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.heads.append(head)
        if self.key is not None and headers.get("authorization") != f"Bearer {self.key}":
            said = f"the key {headers.get('authorization')} is wrong"
            return await _send(writer, 401, {"error": {"message": said}})
        if head.startswith("GET"):
            if self.list_at is not None:
                return await _send(writer, 307, b"", {"location": self.list_at})
            entry = {"id": MODEL, "object": "model", "created": int(time.time()), **self.listed}
            return await _send(writer, 200, {"data": [entry]})
        request = json.loads(body)
        seed = request["seed"]
        self.attempts[seed] += 1
        behaviour = self.behave(seed, self.attempts[seed])
        self.bodies.append(request)
        self.log.append((time.monotonic(), seed, behaviour))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self._misbehave(behaviour, request, writer)
        finally:
            self.under_way -= 1
        return None

    async def _misbehave(self, behaviour: str, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        text, finish_reason, n_tokens = reply_to(request["seed"], request["max_tokens"])
        message = {"message": {"content": text}} if "messages" in request else {"text": text}
        usage = {"prompt_tokens": 3, "completion_tokens": n_tokens}
        whole = {"choices": [{"index": 0, "finish_reason": finish_reason, **message}], "usage": usage}
        if behaviour == "stall":
            await asyncio.sleep(3600)
        elif behaviour == "trickle":  # never silent, never done
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n{")
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
        elif behaviour == "drop":
            writer.transport.abort()
        elif behaviour == "truncated":
            writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n{"choices": [{"mess')
            await writer.drain()
        elif behaviour == "garbage":
            await _send(writer, 200, b"<html>502 bad gateway, with a smile</html>")
        elif behaviour == "half json":
            await _send(writer, 200, json.dumps(whole).encode()[:-20])
        elif behaviour == "no choices":
            await _send(writer, 200, {"choices": [], "usage": usage})
        elif behaviour == "no reason":
            await _send(writer, 200, {"choices": [{**whole["choices"][0], "finish_reason": None}]})
        elif behaviour == "filtered":
            await _send(writer, 200, {"choices": [{**whole["choices"][0], "finish_reason": "content_filter"}]})
        elif behaviour == "no usage":
            await _send(writer, 200, {"choices": whole["choices"]})
        elif behaviour.startswith("say "):
            choice = {**whole["choices"][0], "message": {"content": behaviour.removeprefix("say ")}}
            await _send(writer, 200, {**whole, "choices": [choice]})
        elif behaviour.startswith("phrase "):
            await _send(writer, 400, b"", phrase=behaviour.removeprefix("phrase "))
        elif behaviour.startswith("garbage "):
            await _send(writer, 200, behaviour.encode())
        elif behaviour.startswith("redirect "):
            _, code, place = behaviour.split()
            await _send(writer, int(code), b"", {"location": place})
        elif behaviour == "remaining 0":
            limits = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "300ms"}
            await _send(writer, 200, whole, limits)
        elif behaviour.startswith("429"):
            wait = behaviour.partition(" ")[2]
            await _send(writer, 429, {"error": {"message": "too many"}}, {"retry-after": wait} if wait else {})
        elif behaviour.isdecimal():
            await _send(writer, int(behaviour), {"error": {"message": f"this is a {behaviour}"}})
        else:
            assert behaviour == "ok", behaviour
            await asyncio.sleep(0.002)
            await _send(writer, 200, whole)


async def _send(
    writer: asyncio.StreamWriter, status: int, body: Any, headers: dict[str, str] | None = None, phrase: str = "X"
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {"content-type": "application/json", "content-length": str(len(content)), "connection": "close"}
    head = "".join(f"{name}: {value}\r\n" for name, value in {**lines, **(headers or {})}.items())
    writer.write(f"HTTP/1.1 {status} {phrase}\r\n{head}\r\n".encode() + content)
    await writer.drain()
