"""The connection to one server: its API key, and a client that follows no redirect to another server.

All text that a server sends, and every exception that this text can enter, passes `ApiKey.redact_reply` or
`ApiKey.redact` before anything else reads it.
"""

from __future__ import annotations

import json
import os
import re
import urllib.parse
from typing import Any

from harness.core.errors import ConfigError
from harness.engines.openai.replies import RefusedError

# A shorter key protects nothing (`EMPTY`, `none`), and its letters occur in honest completions.
_SHORTEST_SECRET = 8
_DEFAULT_PORTS = {"http": 80, "https": 443}


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
        # As it is, and as Python, JSON and a URL write it.
        forms = {self._key, repr(self._key)[1:-1], json.dumps(self._key)[1:-1], urllib.parse.quote(self._key, safe="")}
        self._forms = sorted(forms, key=len, reverse=True) if self._key else []

    def __repr__(self) -> str:
        return f"ApiKey({self.variable!r})"

    def reveal(self) -> str:
        """Return the key itself, empty if the variable is not set. For the request header only."""
        return self._key

    def redact(self, text: str) -> str:
        """Replace the key wherever it occurs in a text for people: an error, a log line."""
        for form in self._forms:
            text = text.replace(form, "(the key)")
        return text

    def redact_reply(self, value: Any) -> Any:
        """Replace the key in all strings of decoded JSON. A key too short to be a secret stays: it may be a word."""
        return self._redact_value(value) if len(self._key) >= _SHORTEST_SECRET else value

    def _redact_value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, list):
            return [self._redact_value(item) for item in value]
        if isinstance(value, dict):
            return {self.redact(key): self._redact_value(item) for key, item in value.items()}
        return value


def new_client(openai: Any, base_url: str, key: ApiKey, timeout_s: float, tls: Any) -> Any:
    """Return a client of the package `openai` for one event loop. A redirect to another server raises RefusedError.

    The clients of an engine share `tls`: loading the certificates takes a hundred times as long as the rest.
    """
    home = urllib.parse.urlsplit(base_url)

    async def check(request: Any) -> None:
        """Check each request before it is sent, those that follow a redirect included."""
        if not key.reveal():
            request.headers.pop("authorization", None)  # the package refuses to work without one
        target = urllib.parse.urlsplit(str(request.url))
        if not _is_same_server(home, target):
            raise RefusedError(
                f"the server redirects to another, {key.redact(target.netloc)}, which is not followed; set base_url to "
                "it if you trust it"
            )

    http = openai.DefaultAsyncHttpxClient(verify=tls, event_hooks={"request": [check]})
    return openai.AsyncOpenAI(
        api_key=key.reveal() or "none", base_url=base_url, max_retries=0, timeout=timeout_s, http_client=http
    )


def _is_same_server(home: urllib.parse.SplitResult, target: urllib.parse.SplitResult) -> bool:
    """Return whether both are one origin, or the second is the first one's default port under TLS."""
    is_upgrade = (home.scheme, target.scheme) == ("http", "https") and _port(home) == 80 and _port(target) == 443
    is_same = home.scheme == target.scheme and _port(home) == _port(target)
    return home.hostname == target.hostname and (is_same or is_upgrade)


def _port(address: urllib.parse.SplitResult) -> int | None:
    return address.port if address.port is not None else _DEFAULT_PORTS.get(address.scheme)
