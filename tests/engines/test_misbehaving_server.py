"""Every misbehaviour of a server costs its own completion: for the engine openai, and for the judge that asks it."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import misbehaving_server
import pytest
from misbehaving_server import ACCEPTED, CASES, GOOD, REFUSED, SIZES, MisbehavingServer, asked, opened, response

from harness.core.errors import ModelError
from harness.core.types import Completion, Failure, Problem, Tokens
from harness.graders.judge import JudgeGrader
from harness.graders.references.text import TextReference
from harness.runs.jsonl import encode_line
from harness.runs.schema import completion_row

pytest.importorskip("openai", reason="openai is not installed")

NAMES = list(CASES)


@pytest.fixture(scope="module")
def answers() -> dict[str, Completion | Failure]:
    """All cases in one evaluation, so that a case that ended it would cost the others."""
    with MisbehavingServer() as server:
        found = list(opened(server).generate([asked(name, i) for i, name in enumerate(NAMES)]))
    return {answer.problem_id: answer for answer in found}


def test_the_table_has_every_case_once(answers: dict[str, Completion | Failure]) -> None:
    assert sorted(answers) == sorted(NAMES) and len(NAMES) >= 57


@pytest.mark.parametrize("name", ACCEPTED)
def test_unusual_replies_are_completions_and_valid_utf_8_and_json(
    name: str, answers: dict[str, Completion | Failure]
) -> None:
    answer = answers[name]
    assert isinstance(answer, Completion), answer
    assert GOOD in answer.text
    assert answer.tokens == Tokens(3, 4)  # the cost is absent where it can't be one
    line = encode_line(completion_row("t", answer, with_ids=False)).decode("utf-8")
    assert json.loads(line, parse_constant=pytest.fail)["text"] == answer.text


@pytest.mark.parametrize("name", REFUSED)
def test_misbehaviour_costs_its_own_completion_alone(name: str, answers: dict[str, Completion | Failure]) -> None:
    answer = answers[name]
    assert isinstance(answer, Failure), answer
    assert answer.reason and len(answer.reason) < 600
    assert answer.reason.isprintable(), answer.reason
    encode_line({"reason": answer.reason}).decode("utf-8")


@pytest.mark.parametrize("name", CASES)
def test_a_misbehaving_judge_costs_its_own_verdict_alone(name: str, judged: dict[str, Any]) -> None:
    verdict = judged[name]
    is_read = name in ACCEPTED or name.startswith(("usage", "tokens"))  # a judge needs no counts
    assert verdict.outcome == ("correct" if is_read else "ungraded"), verdict
    if not is_read:
        assert verdict.reason == "judge unreachable" and len(verdict.details["error"]) < 600


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("judge")
    options = {"attempts": 1, "timeout_s": 5.0, "cache_dir": str(folder), "first_wait_s": 0.0, "give_up_after": 1000}
    with MisbehavingServer() as server:
        judge = JudgeGrader(JudgeGrader.Config(base_url=server.base_url, model="m", **options))

        def verdict(name: str) -> Any:
            completion = Completion("p", 0, 0, "an answer", "stop", Tokens(1, 1))
            return judge.grade(Problem("p", "t", (), TextReference(f"<{name}>", "gold")), completion)

        with ThreadPoolExecutor(6) as threads:
            return dict(zip(CASES, threads.map(verdict, CASES), strict=True))


def test_memory_of_a_reply_is_bounded_before_it_is_decoded() -> None:
    """In a process of its own: half a gigabyte of zeros in each bomb must not be there at any time."""
    with MisbehavingServer() as server:
        run = [sys.executable, str(Path(misbehaving_server.__file__)), server.base_url]
        done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=True)
    n_found, grown_kb = json.loads(done.stdout)
    assert n_found == len(SIZES)
    assert grown_kb < 150_000, f"{grown_kb / 1e3:.0f} MB"


def test_the_limit_of_a_reply_can_be_set() -> None:
    with MisbehavingServer() as server:
        (answer,) = opened(server, max_reply_bytes=50).generate([asked("good")])
    assert "more than 50 bytes; engine.max_reply_bytes" in answer.reason


LISTINGS = ["html", "null", "list", "deep list"]
REFUSED_LISTINGS = ["endless body", "gzip bomb", "brotli", "truncated", "no status", "head of a megabyte", "closed"]
REFUSED_LISTINGS += ["redirect to itself", "redirect to no address", "error deep", "error bomb"]


@pytest.mark.parametrize("name", LISTINGS)
def test_a_reply_without_a_list_lists_nothing(name: str) -> None:
    with MisbehavingServer(listing=CASES[name]) as server:
        assert opened(server)._list_models() == {}


@pytest.mark.parametrize("name", REFUSED_LISTINGS)
def test_a_misbehaving_list_of_models_is_one_clear_error(name: str) -> None:
    with MisbehavingServer(listing=CASES[name]) as server, pytest.raises(ModelError) as raised:
        opened(server)
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize(
    "data",
    [
        '["m"]', '[{"id": 5}]', '[{"id": ["m"]}]', '{"id": "m"}', '"m"', "[null]", '[{"id": "any", "x": "\\ud800"}]',
        f'[{{"id": "any", "x": {"9" * 400}}}]', '[{"id": "any", "x": NaN}]',
    ],
)  # fmt: skip
def test_wrong_types_in_a_list_of_models_are_left_out(data: str) -> None:
    with MisbehavingServer(listing=response(f'{{"data": {data}}}'.encode())) as server:
        described = opened(server).describe_model("any")
    json.dumps(described, ensure_ascii=False).encode("utf-8")


# --- requests that the server refuses as a whole --------------------------------------------------------------------

BUDGETS = [
    "max_tokens is too large: 20. This model supports at most 16 completion tokens, whereas you provided 20.",
    "'max_tokens' or 'max_completion_tokens' is too large: 20. This model's maximum context length is 8 tokens and "
    "your request has 3 input tokens (20 > 8 - 3).",
    "max_tokens=20 cannot be greater than max_model_len=16.",
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 16. Given: 3 `inputs` tokens",
    "Unsupported parameter: 'seed' is not supported with this model.",
    "Unsupported value: 'temperature' does not support 0.6 with this model. Only the default (1) value is supported.",
]
OWN = [
    "'max_tokens' or 'max_completion_tokens' is too large: 20. This model's maximum context length is 64 tokens and "
    "your request has 60 input tokens (20 > 64 - 60).",
    "This model's maximum context length is 4096 tokens. However, your messages resulted in 5000 tokens.",
    "The prompt violates our content policy.",
]


def refusing(sentence: str) -> dict[str, Any]:
    content = json.dumps({"error": {"message": sentence, "code": "invalid_value"}}).encode()
    return {"refused": response(content, status="400 Bad Request"), "good": CASES["good"]}


@pytest.mark.parametrize("sentence", BUDGETS)
def test_a_refusal_of_what_all_requests_have_ends_the_run_with_the_servers_sentence(sentence: str) -> None:
    from harness.core.errors import EngineError

    with MisbehavingServer(refusing(sentence)) as server:
        with pytest.raises(EngineError) as raised:
            list(opened(server, max_concurrency=2).generate([asked("refused", i) for i in range(50)]))
        assert len(server.asked) <= 2
    assert sentence[:200] in str(raised.value)


@pytest.mark.parametrize("sentence", OWN)
def test_a_refusal_of_one_prompt_costs_its_own_completion(sentence: str) -> None:
    with MisbehavingServer(refusing(sentence)) as server:
        requests = [asked("refused", 0), asked("good", 1), asked("refused", 2)]
        found = list(opened(server, max_concurrency=1).generate(requests))
    assert [type(answer) for answer in found] == [Failure, Completion, Failure]


def test_after_a_reply_a_refusal_costs_its_own_completion() -> None:
    with MisbehavingServer(refusing(BUDGETS[0])) as server:
        found = list(opened(server, max_concurrency=1).generate([asked("good", 0), asked("refused", 1)]))
    assert [type(answer) for answer in found] == [Completion, Failure]
