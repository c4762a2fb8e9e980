"""No byte that leaves the process holds the API key: neither files nor outputs, whatever a server echoes."""

from __future__ import annotations

import html
import itertools
import json
import os
import subprocess
import sys
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
from misbehaving_server import MisbehavingServer, body, error, packed, response

from harness.cli import main
from harness.core.config import parse_plugin
from harness.core.errors import ConfigError

pytest.importorskip("openai", reason="openai is not installed")

CORE = "S3cretRun0123456789"
KEY = f"""sk-"a+b/c\\d&<e>'%-{CORE}"""


def redirect(place: str) -> bytes:
    return response(b"", f"Location: {place}", status="307 X")


def echoes(key: str) -> dict[str, Any]:
    """Return every way in which a server can repeat the key that it was sent."""
    escaped, raw = "".join(f"\\u{ord(letter):04x}" for letter in key), key.encode()
    return {
        "reply": response(body(choice={"message": {"content": f"it is {key}"}})),
        "reply in lower case": response(body(choice={"message": {"content": f"it is {key.lower()}"}})),
        "reply with JSON's escapes": response(body().replace(b"VERDICT", escaped.encode())),
        "reply in a URL": response(body(choice={"message": {"content": urllib.parse.quote(key)}})),
        "reply in its own repr": response(body(choice={"message": {"content": repr([key, '"'])}})),
        "reply in HTML": response(body(choice={"message": {"content": html.escape(key)}})),
        "finish reason": response(body(choice={"finish_reason": key})),
        "finish reason as a list": response(body(choice={"finish_reason": [key]})),
        "content as a list": response(body(choice={"message": {"content": [key]}})),
        "key of an object": response(json.dumps({key: 1}).encode()),
        "text that is not JSON": response(f"<html>{key}".encode()),
        "text with JSON's escapes": response(f'{{"a": "{escaped}"'.encode()),
        "text cut within the key": response(b"<" + b"." * 70 + raw),
        "compressed text": packed("identity", b"<html>" + raw),
        "encoding": packed(key, body()),
        "reason phrase": response(b"", status=f"400 {key}"),
        "reason phrase of success": response(b"{}", status=f"200 {key}"),
        "error": error("400 X", json.dumps({"error": {"message": f"bad key {key}"}}).encode()),
        "error as an object": error("400 X", json.dumps({"error": {key: [key, '"']}}).encode()),
        "error as text": error("500 X", raw),
        "error code": error("429 X", json.dumps({"error": {"message": key, "code": key, "type": key}}).encode()),
        "wait": error("429 X", b"", f"Retry-After: {key}", f"x-request-id: {key}"),
        "illegal header": response(body(), f"{key}: \x01"),
        "illegal status": response(body(), status=key),
        "illegal chunk": response(raw, "Transfer-Encoding: chunked", sized=False),
        "header": response(b"{}", f"x-request-id: {key}", f"content-type: {key}"),
        "redirect to a host": redirect(f"http://{key}.example/v1"),
        "redirect to a path": redirect(f"http://localhost:1/{key}"),
        "redirect on the server": redirect(f"/v1/{urllib.parse.quote(key)}"),
        "redirect with another scheme": redirect(f"{key}://host"),
        "redirect to a user": redirect(f"http://{urllib.parse.quote(key)}@127.0.0.1:1/"),
    }


class EchoServer(MisbehavingServer):
    """Echoes the key in each way in turn."""

    def __init__(self, cases: dict[str, Any], listing: bytes) -> None:
        super().__init__(cases, listing)
        self._turns = itertools.cycle(cases)

    def case_of(self, request: dict[str, Any]) -> str:
        return next(self._turns)


def command(server: MisbehavingServer, folder: Path, n_asked: int = 4) -> list[str]:
    options = {"base_url": server.base_url, "timeout_s": 5, "max_tries": 1, "first_wait_s": 0, "give_up_after": 999}
    settings = [f"--set=engine.{name}={json.dumps(value)}" for name, value in options.items()]
    asked = ["eval", "any", "--tasks", "countdown", "--n", "1", "--limit", str(n_asked)]
    return [*asked, "--engine", "openai", *settings, "--out", str(folder)]


def leaks(folder: Path, outputs: dict[str, str], secret: str = CORE) -> list[str]:
    """Return where the secret is, in any letter case."""
    contents = {name: text.encode(errors="surrogatepass") for name, text in outputs.items()}
    contents |= {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return [name for name, content in contents.items() if secret.lower().encode() in content.lower()]


@pytest.mark.parametrize("key", [KEY, CORE])
def test_a_key_that_the_server_echoes_is_in_no_file_and_no_output(key: str, tmp_path: Path) -> None:
    """In a process of its own, in which the packages below log all they can."""
    cases = echoes(key)
    listing = json.dumps({"data": [{"id": "any", "owned_by": key, key: "x", "root": key.lower()}]}).encode()
    environment = {**os.environ, "OPENAI_API_KEY": key, "OPENAI_LOG": "debug"}
    with EchoServer(cases, response(listing, f"x-a: {key}", status=f"200 {key}")) as server:
        run = [sys.executable, "-m", "harness", *command(server, tmp_path / "run", len(cases))]
        done = subprocess.run(run, capture_output=True, text=True, env=environment, timeout=120, check=False)
        assert set(server.asked) == set(cases), "each echo was met"
        assert all(f"Bearer {key}" in head for head in server.heads), "and the server had the key to echo"
    assert done.returncode in (0, 3), done.stderr
    assert "Traceback" not in done.stderr and "openai._base_client" in done.stderr
    assert leaks(tmp_path / "run", {"stdout": done.stdout, "stderr": done.stderr}) == []
    assert (tmp_path / "run" / "completions.jsonl").read_bytes().count(b"(the key)") >= 5


LISTINGS: dict[str, Any] = {
    "another model": response(json.dumps({"data": [{"id": KEY}]}).encode()),
    "refused": error("401 X", KEY.encode()),
    "refused in the reason phrase": error(f"403 {KEY}", b""),
    "error": error("500 X", json.dumps({"error": {"message": KEY, "code": KEY}}).encode()),
    "redirect": redirect(f"http://localhost:1/{KEY}"),
    "illegal status": response(b"", status=KEY),
    "illegal header": response(b"{}", f"{KEY}: \x01"),
}


@pytest.mark.parametrize("name", LISTINGS)
def test_a_list_of_models_that_echoes_the_key_shows_none(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with EchoServer(echoes(KEY), LISTINGS[name]) as server:
        assert main(command(server, tmp_path / "run")) == 2
    assert leaks(tmp_path / "run", capsys.readouterr()._asdict()) == []
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "key", [f"{CORE}\n", f"{CORE}\r\nx: y", f"{CORE}é", f" {CORE}", f"{CORE}\x7f", f"\udc80{CORE}"]
)
def test_a_key_that_no_header_can_carry_is_refused_unshown_and_unsent(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with EchoServer(echoes(KEY), response(b"{}")) as server:
        assert main(command(server, tmp_path / "run")) == 2
        assert server.heads == []
    outputs = capsys.readouterr()
    assert "OPENAI_API_KEY" in outputs.err and leaks(tmp_path / "run", outputs._asdict()) == []
    assert not (tmp_path / "run").exists()


def test_an_empty_key_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "")
    with EchoServer({"good": response(body())}, response(b"{}")) as server:
        assert main(command(server, tmp_path / "run")) == 0
        assert not any("authorization" in head.lower() for head in server.heads)


def test_a_short_key_is_hidden_in_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "QWXZ")
    with EchoServer(echoes(KEY), error("401 X", b"who is QWXZ?")) as server:
        assert main(command(server, tmp_path / "run")) == 2
    assert leaks(tmp_path / "run", capsys.readouterr()._asdict(), "QWXZ") == []


def test_a_key_in_the_options_is_refused_since_they_are_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for options in ({"base_url": f"http://host/{KEY}"}, {"base_url": "http://host", "extra_body": {"a": [KEY]}}):
        with pytest.raises(
            ConfigError, match="contain the API key in the environment variable OPENAI_API_KEY"
        ) as caught:
            parse_plugin("engines", {"id": "openai", **options}).build()
        assert CORE not in str(caught.value)
