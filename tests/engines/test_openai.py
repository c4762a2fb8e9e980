"""The openai engine against a server that misbehaves on schedule: every request ends, and nothing is invented."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopback_server import MODEL, LoopbackServer, reply_to

from harness.cli import main
from harness.core.config import parse_plugin
from harness.core.errors import ConfigError, EngineError, ModelError
from harness.core.protocols import ModelSource
from harness.core.types import Completion, Failure, Message, Request, Sampling
from harness.models.chat import PLAIN
from harness.runs.folder import RunReader

pytest.importorskip("openai", reason="openai is not installed")

FAST = {"first_wait_s": 0.01, "longest_wait_s": 5.0, "timeout_s": 1.0, "max_tries": 5}
PASSING = ["stall", "trickle", "drop", "truncated", "garbage", "half json", "no choices", "no reason", "429", "429 0"]
PASSING += ["429 0.05", "429 Wed, 21 Oct 2015 07:28:00 GMT", "500", "502", "503", "529", "408"]


def opened(server: LoopbackServer, **options: Any) -> Any:
    engine = parse_plugin("engines", {"id": "openai", "base_url": server.base_url, **FAST, **options}).build()
    engine.open(ModelSource(MODEL))
    return engine


def requests(n: int, **sampling: Any) -> list[Request]:
    how = Sampling(**{"max_tokens": 20, **sampling})
    return [Request(f"p{i}", 0, (Message("user", f"question {i}"),), 7919 * i, how) for i in range(n)]


def split(answers: Any) -> tuple[dict[int, Completion], dict[int, Failure]]:
    listed = list(answers)
    had = {answer.seed: answer for answer in listed if isinstance(answer, Completion)}
    lost = {answer.seed: answer for answer in listed if isinstance(answer, Failure)}
    assert len(had) + len(lost) == len(listed)
    return had, lost


def plagued(n: int, n_lost_every: int) -> Callable[[int, int], str]:
    """Up to four troubles in turn for each seed and then the answer; for every `n_lost_every`-th never."""
    turns = itertools.cycle(PASSING)
    plan = {request.seed: [next(turns) for _ in range(i % 5)] for i, request in enumerate(requests(n))}
    lost = {request.seed for request in requests(n)[::n_lost_every]}

    def behave(seed: int, attempt: int) -> str:
        if seed in lost:
            return "503"
        return plan[seed][attempt - 1] if attempt <= len(plan[seed]) else "ok"

    return behave


def test_every_request_ends_and_received_completions_are_right() -> None:
    asked = requests(51)
    with LoopbackServer(plagued(51, 17)) as server:
        had, lost = split(opened(server, max_concurrency=16, give_up_after=99).generate(asked))
    assert sorted(lost) == [request.seed for request in asked[::17]]
    assert sorted([*had, *lost]) == [request.seed for request in asked]
    for seed, completion in had.items():
        text, finish_reason, n_tokens = reply_to(seed)
        assert (completion.text, completion.finish_reason) == (text, finish_reason)
        assert (completion.tokens.n_prompt, completion.tokens.n_completion) == (3, n_tokens)
    for failure in lost.values():
        assert failure.reason == "the server answered 503: this is a 503 (the last of 5 tries)"
    assert {behaviour for _, _, behaviour in server.log} == {"ok", *PASSING}
    assert max(server.attempts.values()) == 5
    assert server.most_under_way <= 16


def test_request_body_has_the_requested_messages_and_sampling() -> None:
    with LoopbackServer() as server:
        engine = opened(server, extra_body={"repetition_penalty": 1.1})
        list(engine.generate(requests(1, temperature=0.6, top_p=0.9, top_k=5, min_p=0.1, stop=("x",))))
        bare = opened(server, omit=["temperature", "seed"], budget_field="max_completion_tokens")
        assert bare._fields(requests(1)[0]) == {"max_completion_tokens": 20}
    assert server.bodies[0] == {
        "model": MODEL,
        "messages": [{"role": "user", "content": "question 0"}],
        "max_tokens": 20,
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "stop": ["x"],
        "seed": 0,
        "repetition_penalty": 1.1,
    }


def test_retry_after_of_one_answer_pauses_every_request() -> None:
    with LoopbackServer(lambda seed, attempt: "429 0.4" if seed == 0 and attempt == 1 else "ok") as server:
        had, _ = split(opened(server, max_concurrency=2).generate(requests(30)))
    assert len(had) == 30
    refused_at = next(at for at, _, behaviour in server.log if behaviour != "ok")
    # One other request was under way, and a place or two may have been given before the refusal was read.
    early = [at for at, _, _ in server.log if refused_at < at < refused_at + 0.4]
    assert len(early) <= 2


def test_exhausted_rate_limit_pauses_before_a_refusal() -> None:
    with LoopbackServer(lambda seed, attempt: "remaining 0") as server:
        list(opened(server, max_concurrency=1).generate(requests(3)))
    times = [at for at, _, _ in server.log]
    assert all(later - sooner >= 0.3 for sooner, later in itertools.pairwise(times))


def test_too_long_retry_after_fails_the_request() -> None:
    with LoopbackServer(lambda seed, attempt: "429 3600") as server:
        _, lost = split(opened(server).generate(requests(1)))
    assert "asks for a wait of 3600 s" in lost[0].reason
    assert server.attempts[0] == 1


@pytest.mark.parametrize(
    ("behaviour", "told"), [("400", "answered 400"), ("422", "answered 422"), ("filtered", "content_filter")]
)
def test_permanent_request_errors_are_not_retried(behaviour: str, told: str) -> None:
    with LoopbackServer(lambda seed, attempt: behaviour) as server:
        _, lost = split(opened(server).generate(requests(3)))
    assert all(told in failure.reason for failure in lost.values()) and len(lost) == 3
    assert set(server.attempts.values()) == {1}


@pytest.mark.parametrize("behaviour", ["401", "403", "404"])
def test_errors_common_to_all_requests_stop_the_run(behaviour: str) -> None:
    with LoopbackServer(lambda seed, attempt: "ok" if seed < 3 * 7919 else behaviour) as server:
        stream = opened(server, max_concurrency=1).generate(requests(200))
        assert [next(stream).seed for _ in range(3)] == [0, 7919, 15838]
        with pytest.raises(EngineError, match=f"answered {behaviour}.*the same command requests the rest"):
            next(stream)
    assert len(server.log) == 4


def test_dead_server_stops_the_run_early() -> None:
    with LoopbackServer(lambda seed, attempt: "drop") as server:
        engine = opened(server, max_concurrency=4, give_up_after=8, max_tries=2)
        _, lost = split(engine.generate(requests(500)))
    assert len(lost) == 500
    assert len(server.attempts) <= 8 + 4
    assert sum("not requested" in failure.reason for failure in lost.values()) >= 500 - 12


def test_closed_completion_stream_sends_no_more_requests() -> None:
    with LoopbackServer() as server:
        stream = opened(server, max_concurrency=2).generate(requests(5000))
        next(stream)
        stream.close()
        assert len(server.log) < 5000


def test_token_counts_come_from_the_server_or_from_a_tokenizer_but_are_never_made_up() -> None:
    with LoopbackServer(lambda seed, attempt: "no usage") as server:
        _, lost = split(opened(server).generate(requests(1)))
        assert "engine.tokenizer" in lost[0].reason
        had, _ = split(opened(server, tokenizer="countdown-tiny").generate(requests(1)))
    assert had[0].tokens.n_completion > 0


def test_costs_are_counted_where_prices_are_given() -> None:
    prices = {"usd_per_million_prompt_tokens": 10.0, "usd_per_million_completion_tokens": 100.0}
    with LoopbackServer() as server:
        (free,), (paid,) = (list(opened(server, **each).generate(requests(1))) for each in ({}, prices))
    assert free.tokens.cost_usd is None
    assert paid.tokens.cost_usd == pytest.approx((3 * 10 + paid.tokens.n_completion * 100) / 1e6)


def test_completions_endpoint_receives_token_ids() -> None:
    from harness.models.loading import load_tokenizer, resolve

    tokenizer = load_tokenizer(ModelSource(resolve("countdown-tiny")))
    asked = Request("p", 0, (Message("user", "3 4 = 7 :"),), 5, Sampling(max_tokens=9))
    with LoopbackServer() as server:
        (completion,) = opened(server, endpoint="completions", tokenizer="countdown-tiny").generate([asked])
    assert completion.text == reply_to(5, 9)[0]
    assert server.bodies[0]["prompt"] == tokenizer("3 4 = 7 :", add_special_tokens=False)["input_ids"]


def test_plain_prompts_are_sent_without_messages() -> None:
    asked = Request("p", 0, (Message(PLAIN, "3 4 = 7 :"),), 5, Sampling(max_tokens=9))
    with LoopbackServer() as server:
        with pytest.raises(EngineError, match=r"plain text.*engine\.endpoint"):
            next(opened(server).generate([asked]))
        (completion,) = opened(server, endpoint="completions", tokenizer="countdown-tiny").generate([asked])
    assert completion.text == reply_to(5, 9)[0]


# --- before the money is spent -----------------------------------------------------------------------------------


def test_unreachable_server_is_reported_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with LoopbackServer() as server:
        pass
    assert evaluate(server, tmp_path / "run") == 2
    assert f"no server answers at {server.base_url}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_random_weights_are_refused_for_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with LoopbackServer() as server:
        assert evaluate(server, tmp_path / "run", "--set=model.weights=random") == 2
    assert "no effect on a remote model" in capsys.readouterr().err


def test_a_model_that_is_not_served_is_refused_with_the_nearest() -> None:
    with LoopbackServer() as server:
        engine = parse_plugin("engines", {"id": "openai", "base_url": server.base_url}).build()
        with pytest.raises(ModelError, match="did you mean 'served-model'"):
            engine.open(ModelSource("served-modl"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"base_url": "127.0.0.1:8000"}, "begin with http"),
        ({"base_url": "http://me:secret@host/v1"}, "environment"),
        ({"base_url": "http://host/v1", "endpoint": "completions"}, "needs a tokenizer"),
        ({}, "base_url' is missing"),
    ],
)
def test_impossible_openai_config_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse_plugin("engines", {"id": "openai", **options})


# --- a whole evaluation ------------------------------------------------------------------------------------------


def evaluate(server: LoopbackServer, folder: Path, *more: str) -> int:
    options = {"base_url": server.base_url, **FAST}
    settings = [f"--set=engine.{key}={json.dumps(value)}" for key, value in options.items()]
    command = ["eval", MODEL, "--tasks", "countdown", "--engine", "openai", "--n", "2", "--limit", "20", "--quiet"]
    return main([*command, *settings, "--out", str(folder), *more])


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SOME_SERVERS_KEY", "sk-very-secret-0123456789")
    return "sk-very-secret-0123456789"


def test_lost_completions_are_ungraded_and_requested_again_on_resume(
    tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = {"is": True}
    lost: set[int] = set()

    def behave(seed: int, attempt: int) -> str:
        if broken["is"] and seed % 3 == 0:
            lost.add(seed)
            return "500"
        return "ok"

    folder, use_key = tmp_path / "run", "--set=engine.key_variable=SOME_SERVERS_KEY"
    with LoopbackServer(behave, key=key) as server:
        assert evaluate(server, folder, use_key) == 3
        assert f"{len(lost)} completions could not be generated" in capsys.readouterr().err
        first = RunReader.read(folder)
        assert {c.seed for _, c in first.completions()} == set(server.attempts) - lost
        verdicts = first.verdicts("countdown").values()
        reasons = [verdict.reason for verdict in verdicts if verdict.outcome == "ungraded"]
        assert len(reasons) == len(lost) and all("no completion: the server answered 500" in each for each in reasons)
        assert first.estimates()["countdown"][0].n_ungraded == len(lost)
        former = dict(server.attempts)
        broken["is"] = False
        assert evaluate(server, folder, use_key) == 0
        assert {seed for seed, n in server.attempts.items() if n > former[seed]} == lost
        assert evaluate(server, tmp_path / "unbroken", use_key) == 0
    assert (folder / "metrics.json").read_text() == (tmp_path / "unbroken" / "metrics.json").read_text()
    record = RunReader.read(folder).record.data["model"]
    assert record["name"] == MODEL and record["server"] == server.base_url
    assert record["served owned_by"] == "loopback"
    assert not [path for path in folder.rglob("*") if path.is_file() and key in path.read_text()]


def test_wrong_api_key_error_names_the_variable_and_shows_no_key(
    tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with LoopbackServer(key="another") as server:
        assert evaluate(server, tmp_path / "run", "--set=engine.key_variable=SOME_SERVERS_KEY") == 2
    told = capsys.readouterr().err
    assert "answered 401" in told and "SOME_SERVERS_KEY" in told
    assert key not in told
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("bad", ["sk-very-secret\n", "sk-very-s\u00e9cret"])
def test_api_key_invalid_in_a_header_is_refused_before_anything_is_sent(
    bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOME_SERVERS_KEY", bad)
    with LoopbackServer() as server:
        assert evaluate(server, tmp_path / "run", "--set=engine.key_variable=SOME_SERVERS_KEY") == 2
        assert server.heads == []
    message = capsys.readouterr().err
    assert "SOME_SERVERS_KEY holds a line break" in message and "very" not in message
    assert not (tmp_path / "run").exists()


def test_api_key_repeated_by_the_server_is_never_recorded(
    tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    repeats = ["say {key}", "phrase {key}", "redirect 307 http://{key}.example/v1", "garbage {key}"]
    turns = itertools.cycle(repeats)
    with LoopbackServer(lambda seed, attempt: next(turns).format(key=key), key=key) as server:
        server.listed = {"owned_by": key, key: "x"}
        settings = ("--set=engine.key_variable=SOME_SERVERS_KEY", "--set=engine.max_tries=2")
        assert evaluate(server, tmp_path / "run", *settings) == 3
    assert RunReader.read(tmp_path / "run").record.data["model"]["served owned_by"] == "(the key)"
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert any("(the key)" in path.read_text() for path in written if path.name == "completions.jsonl")
    assert [path for path in written if key in path.read_text()] == []
    captured = capsys.readouterr()
    assert key not in captured.out + captured.err


def test_requests_without_an_api_key_have_no_authorization_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with LoopbackServer() as server:
        list(opened(server).generate(requests(1)))
    assert len(server.heads) == 2
    assert not any("authorization" in head.lower() for head in server.heads)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_no_redirect_to_another_server_is_followed(code: int, key: str) -> None:
    with LoopbackServer() as other, LoopbackServer(lambda seed, attempt: f"redirect {code} {other.base_url}") as server:
        _, lost = split(opened(server, key_variable="SOME_SERVERS_KEY").generate(requests(2)))
        assert other.heads == []
        assert len(lost) == 2 and all("redirects to another, 127.0.0.1:" in each.reason for each in lost.values())
        assert set(server.attempts.values()) == {1}
        server.list_at = other.base_url + "/models"
        with pytest.raises(ModelError, match="redirects to another"):
            opened(server)
    assert other.heads == []


def test_a_redirect_on_the_same_server_is_followed() -> None:
    with LoopbackServer(lambda seed, attempt: "redirect 307 /elsewhere" if attempt == 1 else "ok") as server:
        had, _ = split(opened(server).generate(requests(1)))
    assert had[0].text == reply_to(0)[0]
    assert [head.split()[1] for head in server.heads[1:]] == ["/v1/chat/completions", "/elsewhere"]


def test_uncounted_tokens_are_accepted_if_configured() -> None:
    with LoopbackServer(lambda seed, attempt: "no usage") as server:
        had, _ = split(opened(server, is_counted=False).generate(requests(1)))
    assert (had[0].tokens.n_prompt, had[0].tokens.n_completion) == (0, 0)


def test_model_listing_is_requested_only_where_needed() -> None:
    with LoopbackServer() as server:
        pass
    engine = opened(server, is_listed=False)
    with pytest.raises(ModelError, match="no server answers"):
        engine.describe_model(MODEL)


def test_changed_model_under_the_same_name_is_refused_on_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with LoopbackServer() as server:
        assert evaluate(server, tmp_path / "run") == 0
        server.listed = {"owned_by": "loopback", "root": "another"}
        assert evaluate(server, tmp_path / "run") == 2
    assert "another model" in capsys.readouterr().err
