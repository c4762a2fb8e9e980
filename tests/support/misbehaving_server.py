"""A server on loopback that answers each request in one of the ways of a table, most of them wrong.

`CASES` maps a name to the raw bytes of a response, or to a function that yields them; `KEPT` names the cases that are
completions all the same. The case of a request is its last message.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import resource
import sys
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

from loopback_server import LoopbackServer

from harness.core.config import parse_plugin
from harness.core.protocols import ModelSource
from harness.core.types import Message, Request, Sampling

GOOD = "VERDICT: CORRECT"
"""The text of a good reply, which a judge may give as well."""
BOMB_BYTES = 512 * 2**20


def body(**changes: Any) -> bytes:
    """Return a good body with some of its parts changed."""
    choice = {"message": {"content": GOOD}, "finish_reason": "stop", **changes.pop("choice", {})}
    usage = {"prompt_tokens": 3, "completion_tokens": 4, **changes.pop("usage", {})}
    return json.dumps({"choices": [choice], "usage": usage, **changes}).encode()


def response(content: bytes, *headers: str, status: str = "200 OK", sized: bool = True) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Connection: close", *headers]
    lines += [f"Content-Length: {len(content)}"] if sized else []
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


def packed(encoding: str, content: bytes) -> bytes:
    return response(content, f"Content-Encoding: {encoding}")


def bomb(wbits: int) -> bytes:
    squeezer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    pieces = [squeezer.compress(bytes(2**20)) for _ in range(BOMB_BYTES // 2**20)]
    return b"".join([*pieces, squeezer.flush()])


def endless(head: bytes, piece: bytes, pause_s: float = 0.0) -> Callable[[], AsyncIterator[bytes]]:
    async def pieces() -> AsyncIterator[bytes]:
        yield head
        while True:
            yield piece
            await asyncio.sleep(pause_s)

    return pieces


OPEN = response(b"", sized=False)
CHUNKED = response(b"", "Transfer-Encoding: chunked", sized=False)
SSE = response(b"", "Content-Type: text/event-stream", sized=False)
DEEP = b"[" * 200_000 + b"]" * 200_000
BIG = b"1" + b"0" * 400

FIELDS: dict[str, bytes] = {
    "empty": b"",
    "html": b"<html>502 bad gateway</html>",
    "null": b"null",
    "number": b"1",
    "string": b'"choices"',
    "list": b"[]",
    "half of it": body()[:-30],
    "twice": body() * 2,
    "deep list": DEEP,
    "deep object": b'{"a":' * 200_000 + b"1" + b"}" * 200_000,
    "deep field": body()[:-1] + b', "more": ' + DEEP + b"}",
    "deep within the parser's limit": b'{"choices": ' + b"[" * 900 + b"]" * 900 + b"}",
    "not UTF-8": body().replace(b"VERDICT", b"\xff\xfe\x80"),
    "choices null": body(choices=None),
    "choices text": body(choices="x"),
    "choices object": body(choices={"message": {"content": GOOD}}),
    "choices two": body(choices=[{}, {}]),
    "choices absent": b'{"usage": {}}',
    "choice null": body(choices=[None]),
    "choice list": body(choices=[["message"]]),
    "message null": body(choice={"message": None}),
    "message text": body(choice={"message": "content"}),
    "content list": body(choice={"message": {"content": [{"type": "text", "text": GOOD}]}}),
    "content number": body(choice={"message": {"content": 5}}),
    "content object": body(choice={"message": {"content": {}}}),
    "reason null": body(choice={"finish_reason": None}),
    "reason number": body(choice={"finish_reason": 1}),
    "reason list": body(choice={"finish_reason": ["stop"]}),
    "reason object": body(choice={"finish_reason": {}}),
    "reason unknown": body(choice={"finish_reason": "content_filter"}),
    "reason of a megabyte": body(choice={"finish_reason": "x" * 2**20}),
    "usage absent": body(usage={"prompt_tokens": None, "completion_tokens": None}),
    "usage list": body().replace(b'{"prompt_tokens": 3, "completion_tokens": 4}', b"[3, 4]"),
    "tokens negative": body(usage={"prompt_tokens": -1}),
    "tokens text": body(usage={"completion_tokens": "4"}),
    "tokens true": body(usage={"completion_tokens": True}),
    "tokens fraction": body(usage={"completion_tokens": 4.5}),
    "tokens 1e400": body(usage={"completion_tokens": 7}).replace(b" 7", b" " + BIG),
    "digits 10000": body()[:-1] + b', "more": ' + b"1" * 10_000 + b"}",
}
ACCEPTED_FIELDS: dict[str, bytes] = {
    "good": body(),
    "cost 1e400": body(usage={"cost": 7}).replace(b" 7", b" " + BIG),
    "cost NaN": body(usage={"cost": float("nan")}),
    "cost infinite": body(usage={"cost": float("inf")}),
    "cost negative": body(usage={"cost": -1}),
    "cost text": body(usage={"cost": "1"}),
    "cost list": body(usage={"cost": [1]}),
    "half a surrogate pair": body(choice={"message": {"content": GOOD + "\n\ud800"}}),
    "surrogate pair": body(choice={"message": {"content": GOOD + "\n\ud83d\ude00"}}),
    "control characters": body(choice={"message": {"content": "\x00\x1b[2J\u202e\n" + GOOD}}),
    "byte order mark": b"\xef\xbb\xbf" + body(),
    "UTF-16": body().decode().encode("utf-16"),
    "keys twice": b'{"choices": 1, ' + body()[1:],
}
ACCEPTED: dict[str, Any] = {
    **{name: response(content) for name, content in ACCEPTED_FIELDS.items()},
    "charset of a codec for bytes": response(body(), "Content-Type: application/json; charset=base64"),
    "charset of a codec for text": response(body(), "Content-Type: application/json; charset=rot13"),
    "charset unknown": response(body(), "Content-Type: application/json; charset=nothing"),
    "charset UTF-7": response(body(), "Content-Type: text/html; charset=utf-7"),
    "content type of a picture": response(body(), "Content-Type: image/png"),
    "gzip": packed("gzip", gzip.compress(body())),
    "deflate": packed("deflate", zlib.compress(body())),
    "deflate without a header": packed("deflate", zlib.compress(body())[2:-4]),
    "gzip and more behind it": packed("gzip", gzip.compress(body()) + b"x" * 2**21),
    "chunked": CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body()), body()),
    "rate limit of nonsense": response(
        body(), "x-ratelimit-remaining-requests: 0", "x-ratelimit-reset-requests: 1e999s"
    ),
    "rate limit without an end": response(
        body(), "x-ratelimit-remaining-tokens: 0", f"x-ratelimit-reset-tokens: {'9' * 400}s"
    ),
}


def error(status: str, content: bytes, *headers: str) -> bytes:
    return response(content, *headers, status=status)


REFUSED: dict[str, Any] = {
    **{name: response(content) for name, content in FIELDS.items()},
    # sizes
    "gzip bomb": packed("gzip", bomb(31)),
    "deflate bomb": packed("deflate", bomb(15)),
    "raw deflate bomb": packed("deflate", bomb(-15)),
    "bomb in a bomb": packed("gzip, gzip", gzip.compress(gzip.compress(body()))),
    "gzip truncated": packed("gzip", gzip.compress(body())[:-9]),
    "gzip altered": packed("gzip", gzip.compress(body())[:20] + b"xxxx" + gzip.compress(body())[24:]),
    "gzip of nothing": packed("gzip", b""),
    "not gzip": packed("gzip", body()),
    "brotli": packed("br", body()),
    "zstd": packed("zstd", body()),
    "encoding unknown": packed("x" * 9000, body()),
    "body of 24 MB": response(b" " * 24 * 2**20),
    "endless body": endless(OPEN, b" " * 2**16),
    "endless chunks": endless(CHUNKED, b"10000\r\n" + b" " * 2**16 + b"\r\n"),
    "endless events": endless(SSE, b'data: {"choices": []}\n\n', 0.001),
    "endless head": endless(b"HTTP/1.1 200 OK\r\n", b"x-a: b\r\n"),
    "head of a megabyte": response(body(), "x-a: " + "a" * 2**20),
    "endless 100 Continue": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.001),
    "slow head": endless(b"HTTP/1.1 200 OK\r\n", b"x", 0.02),
    "slow body": endless(response(b"", "Content-Length: 100000", sized=False) + b"{", b" ", 0.02),
    # framing
    "closed": b"",
    "truncated": response(body(), f"Content-Length: {len(body()) + 99}", sized=False),
    "length too small": response(body(), "Content-Length: 9", sized=False),
    "length negative": response(body(), "Content-Length: -1", sized=False),
    "length text": response(body(), "Content-Length: many", sized=False),
    "lengths differ": response(body(), "Content-Length: 9", "Content-Length: 10", sized=False),
    "chunk size wrong": CHUNKED + b"zz\r\n" + body(),
    "chunks cut": CHUNKED + b"5\r\n{",
    "no colon": response(body(), "nonsense"),
    "NUL in a header": response(body(), "x-a: \x00\x01"),
    "status 99": response(body(), status="99 X"),
    "status 1000": response(body(), status="1000 X"),
    "status text": response(body(), status="OK 200"),
    "no status": body(),
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "switching protocols": response(b"", "Upgrade: h2c", status="101 Switching"),
    "no content": response(b"", status="204 No Content", sized=False),
    "not modified": response(b"", status="304 Not Modified", sized=False),
    # redirects
    "redirect to itself": response(b"", "Location: /v1/chat/completions", status="307 X"),
    "redirect to nothing": response(b"", status="307 X"),
    "redirect to a file": response(b"", "Location: file:///etc/passwd", status="307 X"),
    "redirect to no address": response(b"", "Location: http://[::1", status="307 X"),
    "redirect to a port that is none": response(b"", "Location: http://127.0.0.1:999999/", status="307 X"),
    "redirect to another host": response(b"", "Location: http://example.invalid/v1", status="308 X"),
    # errors
    "error empty": error("500 X", b""),
    "error deep": error("400 X", DEEP),
    "error list": error("400 X", b'[{"message": 1}]'),
    "error of numbers": error("400 X", b'{"error": {"message": 5, "code": [1], "param": {}, "type": 1e999}}'),
    "error null": error("400 X", b'{"error": null}'),
    "error text": error("400 X", b'{"error": "no", "message": ["no"]}'),
    "error of 24 MB": error("400 X", b"x" * 24 * 2**20),
    "error bomb": error("400 X", bomb(31), "Content-Encoding: gzip"),
    "error endless": endless(b"HTTP/1.1 500 X\r\n\r\n", b"x" * 999),
    "error half a surrogate pair": error("400 X", b'{"error": {"message": "\\ud800"}}'),
    "error not UTF-8": error("400 X", b"\xff\xfe\x80"),
    "error charset": error("400 X", b'{"error": 1}', "Content-Type: application/json; charset=base64"),
    "error escapes": error("400 X\x1b[2J", b'{"error": {"message": "\x1b[2J"}}'),
    "wait NaN": error("429 X", b"", "Retry-After: nan"),
    "wait infinite": error("429 X", b"", "retry-after-ms: inf"),
    "wait 1e400": error("429 X", b"", "Retry-After: " + "9" * 400),
    "wait negative": error("429 X", b"", "retry-after-ms: -1e9"),
    "wait until 9999": error("503 X", b"", "Retry-After: Fri, 31 Dec 9999 23:59:59 -2359"),
    "teapot": error("418 X", b"{}"),
}
CASES: dict[str, Any] = {**ACCEPTED, **REFUSED}


class MisbehavingServer(LoopbackServer):
    """Answers as `CASES` says; `listing` is the raw response to a request for the models."""

    def __init__(self, cases: dict[str, Any] = CASES, listing: Any = None) -> None:
        super().__init__()
        self.cases = cases
        self.listing = listing if listing is not None else response(b'{"data": []}')
        self.asked: list[str] = []

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head.decode())
        sizes = [line.partition(b": ")[2] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")]
        sent = await reader.readexactly(int(sizes[0]) if sizes else 0)
        answer = self.listing
        if sent:
            self.asked.append(self.case_of(json.loads(sent)))
            answer = self.cases[self.asked[-1]]
        if isinstance(answer, bytes):
            writer.write(answer)
            await writer.drain()
            return
        async for piece in answer():
            writer.write(piece)
            await writer.drain()

    def case_of(self, request: dict[str, Any]) -> str:
        """Return the name of the case: the first that the text of the last message contains."""
        text = request["messages"][-1]["content"]
        return next(name for name in sorted(self.cases, key=len, reverse=True) if f"<{name}>" in text)


# --- a client ---------------------------------------------------------------------------------------------------

OPTIONS = {"first_wait_s": 0.0, "timeout_s": 5.0, "max_tries": 1, "max_concurrency": 4, "give_up_after": 999}


def opened(server: MisbehavingServer, **options: Any) -> Any:
    built = parse_plugin("engines", {"id": "openai", "base_url": server.base_url, **OPTIONS, **options}).build()
    built.open(ModelSource("any"))
    return built


def asked(name: str, number: int = 0) -> Request:
    return Request(name, 0, (Message("user", f"<{name}>"),), number, Sampling(max_tokens=20))


SIZES = [
    "gzip bomb",
    "deflate bomb",
    "raw deflate bomb",
    "body of 24 MB",
    "endless body",
    "error bomb",
    "error of 24 MB",
]


def memory_grown(base_url: str) -> list[int]:
    """Return how many replies of `SIZES` were asked for, and by how many KB this process has grown."""
    server = MisbehavingServer()
    server.base_url = base_url
    engine = opened(server, max_concurrency=1)
    list(engine.generate([asked("good")]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = list(engine.generate([asked(name, i) for i, name in enumerate(SIZES)]))
    return [len(found), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]


if __name__ == "__main__":
    print(json.dumps(memory_grown(sys.argv[1])))
