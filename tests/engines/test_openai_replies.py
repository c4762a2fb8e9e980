"""Response bodies, headers and signs of overload as the openai engine reads them, without a server."""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import json
import urllib.parse
from typing import Any

import pytest

from harness.core.errors import ConfigError
from harness.engines.openai import replies
from harness.engines.openai.concurrency import Gate
from harness.engines.openai.connection import ApiKey
from harness.engines.openai.replies import MalformedError, RefusedError, ServerReply, duration_s, pause_s, retry_after_s

KEY = 'sk-"a+b/c\\d'


def chat(content: Any = "hi", finish_reason: Any = "stop", **more: Any) -> str:
    return json.dumps({"choices": [{"message": {"content": content}, "finish_reason": finish_reason}], **more})


def read_reply(body: str, redact: Any = lambda value: value) -> ServerReply:
    return replies.read_reply(body.encode(), redact)


def read_listing(body: str, redact: Any = lambda value: value) -> dict[str, dict[str, str]]:
    return replies.read_listing(body.encode(), redact)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> ApiKey:
    monkeypatch.setenv("SOME_SERVERS_KEY", KEY)
    return ApiKey("SOME_SERVERS_KEY")


def test_server_answer_has_text_finish_reason_and_token_counts() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 5, "cost": 0.25}
    assert read_reply(chat(usage=usage)) == ServerReply("hi", "stop", 3, 5, 0.25)
    assert read_reply(chat(finish_reason="length")) == ServerReply("hi", "length", None, None, None)
    assert read_reply('{"choices": [{"text": "x", "finish_reason": "stop"}]}').text == "x"


def test_reasoning_without_an_answer_is_empty_text() -> None:
    assert read_reply(chat(content=None, finish_reason="length")).text == ""


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html>",
        "[]",
        "null",
        "{}",
        '{"choices": []}',
        '{"choices": [1, 2]}',
        '{"choices": [{"message": null, "finish_reason": "stop"}]}',
        '{"choices": [{"message": {"content": "x"}}]}',
        chat(finish_reason=None),
        chat(content=["not", "text"]),
        chat()[:-1],
    ],
)
def test_server_answer_without_a_completion_is_malformed(body: str) -> None:
    with pytest.raises(MalformedError):
        read_reply(body)


@pytest.mark.parametrize("reason", ["content_filter", "tool_calls", "abort"])
def test_unknown_finish_reason_is_a_refusal(reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        read_reply(chat(finish_reason=reason))


@pytest.mark.parametrize("counts", [{"prompt_tokens": -1}, {"prompt_tokens": "3"}, {"prompt_tokens": True}, None, 7])
def test_invalid_token_counts_are_absent(counts: Any) -> None:
    assert read_reply(chat(usage=counts)).n_prompt is None


def test_retry_after_of_an_error_is_parsed() -> None:
    assert retry_after_s({}) is None
    assert retry_after_s({"retry-after": "2.5"}) == 2.5
    assert retry_after_s({"retry-after": "7", "retry-after-ms": "1500"}) == 1.5
    assert retry_after_s({"retry-after": "soon"}) is None
    assert retry_after_s({"retry-after": "1.2.3"}) is None
    in_a_minute = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=60)
    wait_s = retry_after_s({"retry-after": email.utils.format_datetime(in_a_minute, usegmt=True)})
    assert wait_s is not None and 50 < wait_s <= 60
    assert retry_after_s({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0


def test_rate_limit_headers_of_an_answer_give_its_pause() -> None:
    left = {"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "9s"}
    used_up = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1m2s"}
    assert (pause_s({}), pause_s(left), pause_s({**left, **used_up})) == (0, 0, 62)
    assert pause_s({"x-ratelimit-remaining-tokens": "0"}) == 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("6m0s", 360), ("20ms", 0.02), ("1.5", 1.5), ("1h2m", 3720), ("", None), ("soon", None), ("1x", None)],
)
def test_rate_limit_durations_are_parsed(text: str, seconds: float | None) -> None:
    assert duration_s(text) == seconds


def test_model_listing_keeps_only_stable_fields() -> None:
    entry = {"id": "m", "object": "model", "created": 1, "owned_by": "us", "max_model_len": 9, "permission": [{}]}
    assert read_listing(json.dumps({"data": [entry]})) == {"m": {"owned_by": "us", "max_model_len": "9"}}
    assert [read_listing(body) for body in ("", "{}", '{"data": null}', '{"data": ["m"]}', "[]")] == [{}] * 5


# --- the key ------------------------------------------------------------------------------------------------------


def test_api_key_is_hidden_in_every_representation(key: ApiKey) -> None:
    assert key.reveal() == KEY
    assert "sk-" not in f"{key} {key!r} {[key]}"


@pytest.mark.parametrize("write", [str, repr, json.dumps, urllib.parse.quote_plus])
def test_api_key_is_redacted_in_every_encoding(key: ApiKey, write: Any) -> None:
    assert "a+b" not in key.redact(write(f"<{KEY}>")) and "%2Bb" not in key.redact(write(f"<{KEY}>"))


def test_api_key_is_redacted_in_every_field_of_an_answer(key: ApiKey) -> None:
    body = json.dumps({"choices": [{"message": {"content": f"is it {KEY}?"}, "finish_reason": "stop"}]})
    assert read_reply(body, key.redact_reply).text == "is it (the key)?"
    with pytest.raises(RefusedError, match=r"\(the key\)"):
        read_reply(chat(finish_reason=KEY), key.redact_reply)
    for broken in (chat(content=[KEY]), f"<html>{json.dumps(KEY)}", f"{' ' * 70}{KEY}"):
        with pytest.raises(MalformedError) as raised:
            read_reply(broken, key.redact_reply)
        assert "sk-" not in str(raised.value)
    listing = json.dumps({"data": [{"id": KEY, KEY: "x", "owned_by": KEY}]})
    assert read_listing(listing, key.redact_reply) == {"(the key)": {"(the key)": "x", "owned_by": "(the key)"}}


def test_short_api_key_is_redacted_in_errors_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SERVERS_KEY", "EMPTY")
    key = ApiKey("SOME_SERVERS_KEY")
    assert read_reply(chat(content="The set is EMPTY."), key.redact_reply).text == "The set is EMPTY."
    assert key.redact("the key EMPTY is wrong") == "the key (the key) is wrong"


def test_missing_api_key_redacts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOME_SERVERS_KEY", raising=False)
    key = ApiKey("SOME_SERVERS_KEY")
    assert (key.reveal(), key.redact("text"), key.redact_reply(["text"])) == ("", "text", ["text"])


@pytest.mark.parametrize(
    "bad", ["sk-1234567\n", "sk-1234567\r", " sk-1234567", "sk-1234567\t", "sk-123456é", "sk-1\x7f"]
)
def test_api_key_invalid_in_a_header_is_refused_without_being_shown(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SERVERS_KEY", bad)
    with pytest.raises(ConfigError, match="environment variable SOME_SERVERS_KEY holds") as raised:
        ApiKey("SOME_SERVERS_KEY")
    assert "sk-" not in str(raised.value)


# --- the gate -----------------------------------------------------------------------------------------------------


def answered(gate: Gate, n: int, *, is_overloaded: bool) -> None:
    async def round_trip() -> None:
        entered = [await gate.enter() for _ in range(n)]
        await asyncio.sleep(0.001)
        for at in entered:
            await gate.leave(at, is_overloaded=is_overloaded)

    asyncio.run(round_trip())


def test_concurrency_limit_doubles_until_overload_and_then_grows_by_one() -> None:
    gate = Gate(100)
    assert gate.limit == 8
    answered(gate, 8, is_overloaded=False)
    assert gate.limit == 16
    answered(gate, 16, is_overloaded=True)  # sixteen signs of the same overload
    assert gate.limit == 8
    answered(gate, 8, is_overloaded=False)
    assert 8.9 < gate.limit < 9.01


def test_concurrency_limit_stays_between_one_and_the_maximum() -> None:
    gate = Gate(10)
    for _ in range(3):
        answered(gate, int(gate.limit), is_overloaded=False)
    assert gate.limit == 10
    for _ in range(9):
        answered(gate, int(gate.limit), is_overloaded=True)
    assert gate.limit == 1


def test_requests_above_the_concurrency_limit_wait() -> None:
    async def scene() -> None:
        gate = Gate(1)
        at = await gate.enter()
        waiting = asyncio.create_task(gate.enter())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        await gate.leave(at, is_overloaded=False)
        await asyncio.wait_for(waiting, 5)

    asyncio.run(scene())
