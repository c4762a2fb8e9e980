"""The connection to one server: its API key, and a client that bounds and redacts everything the server sends.

All that a server sends enters the process in `_Receiver`: it follows no redirect to another server, reads a bounded
number of bytes after decompression, and keeps only the headers that the engine uses. Decoded JSON passes
`ApiKey.redact_reply`, and every exception that a server's text can enter passes `ApiKey.redact`.
"""

from __future__ import annotations

import importlib
import os
import re
import urllib.parse
import zlib
from collections.abc import AsyncIterable
from dataclasses import dataclass
from typing import Any

from harness.core.errors import ConfigError
from harness.engines.openai.replies import MalformedError, RefusedError

# A shorter key protects nothing (`EMPTY`, `none`), and its letters occur in honest completions.
_SHORTEST_SECRET = 8
_DEFAULT_PORTS = {"http": 80, "https": 443}
_CONNECT_S = 10.0
_ERROR_BYTES = 2**16
"""Of the body of an error, of which a few hundred characters are shown, only the beginning is read."""
_HEADERS_KEPT = re.compile(r"retry-after(-ms)?|x-ratelimit-(remaining|reset)-(requests|tokens)|location", re.IGNORECASE)


class ApiKey:
    """The API key of a server, read once from an environment variable. No representation of it shows the key."""

    def __init__(self, variable: str) -> None:
        self.variable = variable
        self._key = os.environ.get(variable, "")
        if not re.fullmatch("[!-~]*", self._key):
            raise ConfigError(
                f"the API key in the environment variable {variable} holds a line break, other white space or a "
                "character that is not ASCII; no HTTP header can carry it, so set it without"
            )
        self._pattern = re.compile("".join(map(_spellings, self._key)), re.IGNORECASE)
        # Letters and digits are never escaped, so a text without the longest run of them needs no search.
        self._probe = max(re.findall("[a-z0-9]*", self._key.lower()), key=len)

    def __repr__(self) -> str:
        return f"ApiKey({self.variable!r})"

    def reveal(self) -> str:
        """Return the key itself, empty if the variable is not set. For the request header only."""
        return self._key

    def redact(self, text: str) -> str:
        """Replace the key in a text for people (an error, a log line), also as JSON, Python, HTML and URLs escape it.

        Letter case is ignored, since the host of an address loses it.
        """
        return self._pattern.sub("(the key)", text) if self._key else text

    def redact_reply(self, value: Any) -> Any:
        """Replace the key in all strings of decoded JSON. A key too short to be a secret stays: it may be a word."""
        return self._redact_value(value) if self.is_secret else value

    @property
    def is_secret(self) -> bool:
        """Whether it is long enough not to occur by chance."""
        return len(self._key) >= _SHORTEST_SECRET

    def _redact_value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.redact(value) if self._probe in value.lower() else value
        if isinstance(value, list):
            return [self._redact_value(item) for item in value]
        if isinstance(value, dict):
            return {self._redact_value(key): self._redact_value(item) for key, item in value.items()}
        return value


def _spellings(character: str) -> str:
    """Return a pattern of the ways in which a character of the key may be written."""
    code = ord(character)
    return rf"(?:\\*{re.escape(character)}|%0*{code:x}|\\+u00{code:x}|\\+x{code:x}|&\#0*{code};|&\#x0*{code:x};" + (
        f"|{_ENTITIES[character]})" if character in _ENTITIES else ")"
    )


_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&apos;"}


# --- the client -------------------------------------------------------------------------------------------------


def new_client(openai: Any, base_url: str, key: ApiKey, timeout_s: float, max_bytes: int, tls: Any) -> Any:
    """Return a client of the package `openai` for one event loop. A redirect to another server raises RefusedError.

    The clients of an engine share `tls`: loading the certificates takes a hundred times as long as the rest.
    """
    receiver = _Receiver(urllib.parse.urlsplit(base_url), key, max_bytes)
    hooks = {"request": [receiver.check], "response": [receiver.receive]}
    http = openai.DefaultAsyncHttpxClient(verify=tls, event_hooks=hooks)
    return openai.AsyncOpenAI(
        api_key=key.reveal() or "none",
        base_url=base_url,
        max_retries=0,
        timeout=openai.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_S)),
        http_client=http,
    )


@dataclass(frozen=True, slots=True)
class _Receiver:
    """The hooks of a client, which see each request before it is sent and each response before it is read."""

    home: urllib.parse.SplitResult
    key: ApiKey
    max_bytes: int

    async def check(self, request: Any) -> None:
        """Check a request, also one that follows a redirect."""
        if not self.key.reveal():
            request.headers.pop("authorization", None)  # the package refuses to work without one
        request.headers["accept-encoding"] = "gzip, deflate"
        target = urllib.parse.urlsplit(str(request.url))
        if not _is_same_server(self.home, target):
            raise RefusedError(
                f"the server redirects to another, {self.key.redact(target.netloc)}, which is not followed; set "
                "base_url to it if you trust it"
            )

    async def receive(self, response: Any) -> None:
        """Read the whole body within its bound, and put what may be shown in place of the response."""
        is_error = response.status_code >= 400
        most = min(self.max_bytes, _ERROR_BYTES) if is_error else self.max_bytes
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        try:
            body = await read_bounded(response.stream, encoding, most, is_cut=is_error)
        finally:
            await response.stream.aclose()
        kept = {name: self.key.redact(value) for name, value in response.headers.items() if _HEADERS_KEPT.match(name)}
        response.headers.clear()
        response.headers.update({**kept, "content-type": "application/json"})
        response.extensions["reason_phrase"] = b""
        package = importlib.import_module(type(response).__module__.partition(".")[0])  # httpx, or httpx2
        response.stream = package.ByteStream(body)


async def read_bounded(stream: AsyncIterable[bytes], encoding: str, most: int, *, is_cut: bool = False) -> bytes:
    """Read and decompress a body. Beyond `most` bytes raise RefusedError, or drop the rest if `is_cut`."""
    if encoding not in ("identity", "", "gzip", "x-gzip", "deflate"):
        raise MalformedError(f"the reply has the content encoding {encoding[:40]!r}, which was not requested")
    body, inflater = bytearray(), None
    async for piece in stream:
        if inflater is not None and inflater.eof:
            break  # what follows is not a part of the reply
        if encoding in ("identity", ""):
            body += piece[: most + 1 - len(body)]
        else:
            inflater = inflater if inflater is not None else _inflater(encoding, piece)
            try:
                body += inflater.decompress(piece, most + 1 - len(body))
            except zlib.error as error:
                raise MalformedError(f"the reply can't be decompressed: {error}") from None
        if len(body) > most:
            if is_cut:
                return bytes(body[:most])
            raise RefusedError(f"the reply has more than {most} bytes; engine.max_reply_bytes is the limit")
    if inflater is not None and not inflater.eof and not is_cut:
        raise MalformedError("the compressed reply is truncated")
    return bytes(body)


def _inflater(encoding: str, start: bytes) -> Any:
    is_raw = (
        encoding == "deflate" and start[:1] != b"" and start[0] & 15 != zlib.DEFLATED
    )  # some servers omit the header
    return zlib.decompressobj(-zlib.MAX_WBITS if is_raw else 32 + zlib.MAX_WBITS)


def _is_same_server(home: urllib.parse.SplitResult, target: urllib.parse.SplitResult) -> bool:
    """Return whether both are one origin, or the second is the first one's default port under TLS."""
    is_upgrade = (home.scheme, target.scheme) == ("http", "https") and _port(home) == 80 and _port(target) == 443
    is_same = home.scheme == target.scheme and _port(home) == _port(target)
    return home.hostname == target.hostname and (is_same or is_upgrade)


def _port(address: urllib.parse.SplitResult) -> int | None:
    return address.port if address.port is not None else _DEFAULT_PORTS.get(address.scheme)
