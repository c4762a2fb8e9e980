"""Replies of an OpenAI-compatible server, read strictly: a whole text, or an error that names the fault."""

from __future__ import annotations

import datetime
import email.utils
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.core.types import FinishReason

_MOST_TOKENS = 2**53
_MOST_USD = 1e9
_LONGEST_FIELD = 500
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class MalformedError(Exception):
    """The reply is not a completion; another try may get one."""


class RefusedError(Exception):
    """The server refuses the completion; another try would get the same reply."""


@dataclass(frozen=True, slots=True)
class ServerReply:
    """One choice of a completion or chat completion, with the server's own counts where it gives them."""

    text: str
    finish_reason: FinishReason
    n_prompt: int | None
    n_completion: int | None
    cost_usd: float | None


def read_reply(body: bytes, redact: Callable[[Any], Any]) -> ServerReply:
    """Parse the single choice of a completion.

    The body passes `redact` first, so neither the reply nor an error message can show what that removes.
    """
    fields = _read_json(body, redact)
    try:
        (choice,) = fields["choices"]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        reason = choice["finish_reason"]
    except (ValueError, KeyError, TypeError) as error:
        raise MalformedError(f"the reply is not a completion ({type(error).__name__}): {_start(fields)}") from None
    if reason not in ("stop", "length"):
        if reason is None or not isinstance(reason, str):
            raise MalformedError(f"the reply has no finish_reason: {_start(fields)}")
        raise RefusedError(f"the server ended the completion with {reason[:80]!r}")
    if text is not None and not isinstance(text, str):
        raise MalformedError(f"the text of the reply is not a string: {_start(fields)}")
    usage = fields.get("usage")
    counts = usage if isinstance(usage, Mapping) else {}
    return ServerReply(
        well_formed(text) if text is not None else "",  # a model that reasoned up to its budget has no content yet
        "stop" if reason == "stop" else "length",
        _whole(counts.get("prompt_tokens")),
        _whole(counts.get("completion_tokens")),
        _money(counts.get("cost")),
    )


def read_listing(body: bytes, redact: Callable[[Any], Any]) -> dict[str, dict[str, str]]:
    """Return the fields of each listed model that do not change by themselves; nothing if this is not a list."""
    try:
        entries = {entry["id"]: entry for entry in _read_json(body, redact)["data"] if isinstance(entry["id"], str)}
        return {well_formed(name): _stable_fields(entry) for name, entry in entries.items()}
    except (MalformedError, KeyError, TypeError, AttributeError):
        return {}


def _stable_fields(entry: Mapping[str, Any]) -> dict[str, str]:
    return {
        well_formed(key): well_formed(str(value))[:_LONGEST_FIELD]
        for key, value in entry.items()
        if isinstance(value, (str, int, float)) and key not in ("id", "object", "created")
    }


def well_formed(text: str) -> str:
    """Return a text that UTF-8 can write: halves of surrogate pairs that JSON can escape become U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _read_json(body: bytes, redact: Callable[[Any], Any]) -> Any:
    """Decode a body. All text from a server enters here."""
    try:
        return redact(json.loads(body))
    except (ValueError, RecursionError) as error:
        text = redact(body.decode(errors="replace"))
        raise MalformedError(f"the reply is not a completion ({type(error).__name__}): {text[:80]!r}") from None


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the wait an error requests: Retry-After in seconds or as a date, or OpenAI's header in milliseconds."""
    milliseconds, given = headers.get("retry-after-ms"), headers.get("retry-after")
    try:
        if milliseconds is not None:
            wait_s = float(milliseconds) / 1000
        elif given is None:
            return None
        elif re.fullmatch(r"[0-9.]+", given.strip()):
            wait_s = float(given)
        else:
            date = email.utils.parsedate_to_datetime(given)
            wait_s = (date - datetime.datetime.now(datetime.UTC)).total_seconds()
    except (ValueError, TypeError, OverflowError):  # not a valid header
        return None
    return max(0.0, wait_s) if math.isfinite(wait_s) else None


def pause_s(headers: Mapping[str, str]) -> float:
    """Return how long all requests should wait: until the reset, once no requests or tokens remain."""
    waits = [
        duration_s(headers.get(f"x-ratelimit-reset-{what}", ""))
        for what in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{what}", "").strip() == "0"
    ]
    return max((wait for wait in waits if wait is not None), default=0.0)


def duration_s(text: str) -> float | None:
    """Parse a duration such as '6m0s', '20ms' or '1.5' (seconds)."""
    parts = re.findall(r"([0-9.]+)(ms|s|m|h|d|$)", text.strip())
    if not parts or "".join(number + unit for number, unit in parts) != text.strip():
        return None
    try:
        seconds = sum(float(number) * _UNITS_S[unit if unit else "s"] for number, unit in parts)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) else None


def _whole(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS
    return value if is_count else None


def _money(value: Any) -> float | None:
    is_price = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= _MOST_USD
    return float(value) if is_price else None


def _start(fields: Any) -> str:
    try:
        return repr(json.dumps(fields)[:80])
    except RecursionError:
        return "it is nested too deeply"
