"""Asks a chat model behind an OpenAI-compatible server: standard library only, retried, cached by content.

The key comes from an environment variable, is read for each request and goes nowhere but into its header. The cache
is a folder of small JSON files named by the digest of everything the reply depends on: model, prompt, sampling.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import DiskError, RunFolderError
from harness.core.journal import write_whole

MAX_REPLY_BYTES = 4_000_000
RETRIED = frozenset((408, 409, 425, 429, 500, 502, 503, 504))


class JudgeUnreachableError(Exception):
    """No usable reply after every attempt; the message says what the last one was."""


@dataclass(frozen=True, slots=True)
class Server:
    base_url: str
    model: str
    key_variable: str
    timeout_s: float
    attempts: int
    first_wait_s: float
    max_tokens: int

    def ask(self, prompt: str) -> tuple[str, int]:
        """The reply, and how many attempts failed before it. Raises JudgeUnreachableError."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": self.max_tokens,
        }
        failure = "no attempt was made"
        for attempt in range(self.attempts):
            if attempt:
                self._wait(attempt)
            try:
                return self._once(json.dumps(body).encode()), attempt
            except _FailedError as error:
                failure = str(error)
                if not error.may_pass:
                    break
        raise JudgeUnreachableError(failure)

    def digest(self, prompt: str) -> str:
        """Of everything the reply depends on."""
        return hashlib.sha256(json.dumps([self.base_url, self.model, self.max_tokens, prompt]).encode()).hexdigest()

    def _wait(self, attempt: int) -> None:
        """Twice as long each time, and a random share of it, so that many clients don't come back together."""
        time.sleep(self.first_wait_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))

    def _once(self, body: bytes) -> str:
        headers = {"Content-Type": "application/json"}
        key = os.environ.get(self.key_variable)
        if key:
            headers["Authorization"] = f"Bearer {key}"
        address = self.base_url.rstrip("/") + "/chat/completions"
        try:
            request = urllib.request.Request(address, data=body, headers=headers, method="POST")
            with urllib.request.urlopen(request, timeout=self.timeout_s) as reply:
                return _content(reply.read(MAX_REPLY_BYTES))
        except urllib.error.HTTPError as error:
            raise _FailedError(f"HTTP {error.code} {error.reason}", may_pass=error.code in RETRIED) from None
        except OSError as error:  # refused, reset, timed out, not resolved
            raise _FailedError(f"{type(error).__name__}: {error}", may_pass=True) from None
        except ValueError as error:  # an address that is none
            raise _FailedError(str(error), may_pass=False) from None
        except Exception as error:  # http.client's own: a reply that is no HTTP
            raise _FailedError(f"{type(error).__name__}: {error}", may_pass=True) from None


class _FailedError(Exception):
    def __init__(self, message: str, *, may_pass: bool) -> None:
        super().__init__(message)
        self.may_pass = may_pass


def _content(reply: bytes) -> str:
    try:
        content = json.loads(reply)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        raise _FailedError("a reply that is no chat completion", may_pass=True) from None
    if not isinstance(content, str) or not content.strip():
        raise _FailedError("an empty reply", may_pass=True)
    return content


class ReplyCache:
    """Replies on disk. A file that can't be read is asked for again; a disk that can't be written costs the cache."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, digest: str) -> str | None:
        try:
            reply = json.loads(self._path(digest).read_text(encoding="utf-8"))["reply"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return reply if isinstance(reply, str) else None

    def put(self, digest: str, reply: str) -> bool:
        """Whether it is kept."""
        try:
            self._path(digest).parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path(digest), json.dumps({"reply": reply}) + "\n")
        except (OSError, DiskError, RunFolderError):
            return False
        return True

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / f"{digest}.json"
