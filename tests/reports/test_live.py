"""The page of growing runs: what a server on loopback gives, and to whom."""

import hashlib
import http.client
import json
import re
import shutil
import socket
import threading
import zlib
from base64 import b64decode
from contextlib import ExitStack, closing

import pytest
from page_runs import make_pair, make_run, make_training, open_run, sample

from harness.core.errors import RunFolderError, UsageError
from harness.reports import live
from harness.reports.live import LivePage
from harness.reports.page.serve import PageServer


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(live, "EVERY_S", 0.02)
    monkeypatch.setattr(live, "MOST_SHARE", 100.0)


@pytest.fixture
def pages():
    """Build a page of some paths, which is closed after the test."""
    with ExitStack() as stack:
        yield lambda *paths, names={}: stack.enter_context(LivePage(paths, names))


@pytest.fixture
def served(pages):
    """Serve a page of some paths."""
    with ExitStack() as stack:

        def serve(*paths):
            server = stack.enter_context(PageServer(0))
            thread = threading.Thread(target=server.serve, args=(pages(*paths),))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return server

        yield serve


def ask(server, path=None, *, method="GET", **headers):
    """Return the status, the headers and the body of a request; without a path, of the page."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        connection.request(method, path if path is not None else f"/{server.token}/", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def main_values(page, number=None):
    chunk = page.chunk(number if number is not None else page.state.main)
    return json.loads(zlib.decompress(b64decode(chunk)))


def newer(page, than):
    """Wait until the watch has built a state after the one whose number is given."""
    for _ in range(3000):  # a minute, as the machine may be busy
        if page.state.main != than:
            return page.state
        threading.Event().wait(0.02)
    raise AssertionError(f"no newer state than {than}: {page.state}")


def snapshot(folder):
    found = {}
    for path in sorted(folder.rglob("*")):
        stat = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        found[path.relative_to(folder)] = (content, stat.st_mtime_ns, stat.st_ctime_ns)
    return found


def n_samples(page):
    return main_values(page)["tasks"][0]["samples"]


def test_the_page_its_state_and_its_chunks_are_served(tmp_path, served):
    server = served(*make_pair(tmp_path / "runs"), make_training(tmp_path / "runs/train"))
    status, headers, body = ask(server)
    html = body.decode()
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-store" and headers["Referrer-Policy"] == "no-referrer"
    assert int(headers["Content-Length"]) == len(body) < 350_000
    assert "connect-src 'self'" in html and "unsafe" not in html.partition("<style>")[0]
    state = json.loads(ask(server, f"/{server.token}/state")[2])
    assert state["main"] == int(re.search(r'data-main="(\d+)"', html)[1]) and state["error"] is None
    status, _, chunk = ask(server, f"/{server.token}/chunks/{state['main']}")
    values = json.loads(zlib.decompress(b64decode(chunk)))
    assert status == 200 and [run["label"] for run in values["runs"]] == ["strong", "weak", "train"]
    assert ask(server, method="HEAD")[0::2] == (200, b"")


@pytest.mark.parametrize(
    "path",
    ["/", "/{token}", "/{half}/", "/{token}x/", "/x/../{token}/", "/{upper}/", "/{token}\u00ff/", "/\u00ff/"],
)
def test_an_address_without_the_whole_token_is_refused(tmp_path, served, path):
    server = served(make_run(tmp_path / "run", [("p", 0, "secret text", "correct", {})]))
    token = server.token
    path = path.format(token=token, half=token[:20], upper=token.swapcase())
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=60)) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode("latin-1"))
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 403 ") and b"<" not in answer and token.encode() not in answer


@pytest.mark.parametrize(
    "path", ["../run.json", "..%2frun.json", "chunks/-1", "chunks/999", "chunks/0/", "chunks/٣", "x"]
)
def test_no_path_leads_to_a_file(tmp_path, served, path):
    server = served(make_run(tmp_path / "run", [("p", 0, "text", "correct", {})]))
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=60)) as raw:
        raw.sendall(f"GET /{server.token}/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 404 ") and answer.endswith(b"Nothing is here.\n")


def test_a_foreign_name_of_this_machine_is_refused(tmp_path, served):
    server = served(make_run(tmp_path / "run", [("p", 0, "text", "correct", {})]))
    for host in ("example.org", f"example.org:{server.port}", "", "127.0.0.1.example.org:80", "localhost@example.org"):
        assert ask(server, Host=host)[0] == 403, host
    for host in ("localhost", "127.0.0.1", f"localhost:{server.port}", "localhost:9000"):
        assert ask(server, Host=host)[0] == 200, host


def test_only_reading_is_allowed(tmp_path, served):
    server = served(make_run(tmp_path / "run", [("p", 0, "text", "correct", {})]))
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"):
        status, headers, _ = ask(server, method=method)
        assert status == 405 and headers["Allow"] == "GET, HEAD", method


def test_a_ticket_leads_to_the_page_once(tmp_path, served):
    server = served(make_run(tmp_path / "run", [("p", 0, "text", "correct", {})]))
    path = server.new_ticket().removeprefix(f"http://127.0.0.1:{server.port}")
    assert server.token not in path
    status, headers, _ = ask(server, path)
    assert status == 303 and ask(server, headers["Location"])[0] == 200
    assert ask(server, path)[0] == 403


def test_only_loopback_is_bound_and_a_used_port_is_refused(tmp_path):
    with PageServer(0) as server:
        assert server.server_address[0] == "127.0.0.1"
        with pytest.raises(UsageError, match=f"port {server.port} is in use; choose another --port"):
            PageServer(server.port)


def test_new_samples_and_steps_are_shown_and_nothing_is_written(tmp_path, served):
    growing, training = open_run(tmp_path / "runs/growing"), make_training(tmp_path / "runs/train")
    sample(growing, "p", 0, "first", "correct")
    before = snapshot(tmp_path / "runs")
    server = served(tmp_path / "runs")
    page, first = server.page, server.page.state.main
    assert n_samples(page) == 1 and ask(server)[0] == 200
    assert any("UNFINISHED: growing is still running" in line for line in main_values(page)["warnings"])
    assert "growing: 1 samples of sums, 1 of 1 graded right so far" in main_values(page)["warnings"]
    assert snapshot(tmp_path / "runs") == before
    sample(growing, "p", 1, "second", "incorrect")
    before = snapshot(tmp_path / "runs")
    second = newer(page, first).main
    while n_samples(page) == 1:  # seen between completion and verdict, or in between
        second = newer(page, second).main
    assert n_samples(page) == 2 and second > first
    assert snapshot(tmp_path / "runs") == before
    growing.finish("done")
    with (training / "steps.jsonl").open("ab") as file:
        file.write(b'{"step": 4, "rew')  # a line that is being written
    third = newer(page, second).main
    assert ask(server, f"/{server.token}/chunks/{third}")[0] == 200
    state = newer(page, third) if main_values(page)["runs"][0]["status"] != "done" else page.state
    assert state.error is None and main_values(page)["runs"][0]["status"] == "done"


def test_a_state_stays_until_there_are_two_newer_ones(tmp_path, pages):
    run = make_run(tmp_path / "run", [("p", 0, "text", "correct", {})])
    page = pages(run)
    states = [page.state.main]
    for number in (1, 2):
        (run / "extra.json").write_text("x" * number)
        page.refresh()
        states.append(page.state.main)
    first, second, third = states
    assert first < second < third and page.chunk(first) is None
    assert main_values(page, second)["runs"] == main_values(page, third)["runs"]
    page.refresh()
    assert page.state.main == third  # nothing has changed


def test_a_state_that_can_not_be_built_leaves_the_last_one_with_the_reason(tmp_path, pages):
    run = make_run(tmp_path / "run", [("p", 0, "text", "correct", {})])
    page = pages(run)
    before, path = page.state, run / "completions.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"text":"text"', b'"text":"tezt"'))
    page.refresh()
    assert page.state.main == before.main and "completions.jsonl" in page.state.error
    assert n_samples(page) == 1
    path.write_bytes(whole)
    page.refresh()
    assert page.state.error is None and page.state.main > before.main


def test_a_folder_that_vanishes_is_named_and_the_others_stay(tmp_path, pages):
    strong, weak = make_pair(tmp_path / "runs")
    page = pages(strong, weak, names={"weak": "mine"})
    shutil.rmtree(strong)
    page.refresh()
    values = main_values(page)
    assert [run["label"] for run in values["runs"]] == ["mine"]
    assert f"GONE: {strong} is no longer there" in values["warnings"]
    shutil.rmtree(weak)
    page.refresh()
    assert "no longer there" in page.state.error and [run["label"] for run in main_values(page)["runs"]] == ["mine"]
    make_pair(tmp_path / "runs")
    page.refresh()
    values = main_values(page)
    assert page.state.error is None and values["warnings"] == []
    assert [run["label"] for run in values["runs"]] == ["strong", "mine"]


def test_runs_that_begin_later_are_found(tmp_path, pages):
    make_run(tmp_path / "runs/one", [("p", 0, "text", "correct", {})])
    page = pages(tmp_path / "runs")
    make_run(tmp_path / "runs/two", [("p", 0, "text", "incorrect", {})])
    page.refresh()
    assert [run["label"] for run in main_values(page)["runs"]] == ["one", "two"]


def test_what_is_not_a_run_is_refused_at_once(tmp_path):
    with pytest.raises(RunFolderError, match="is not a run folder"):
        LivePage([tmp_path / "absent"], {})
