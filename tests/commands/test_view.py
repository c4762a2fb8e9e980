"""`harness view`: the address it prints, its end by Ctrl-C, and what it refuses."""

import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from page_runs import make_run

from harness.cli import main


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run", [("p", 0, "text", "correct", {})])


def test_the_page_is_at_the_printed_address_until_an_interrupt(run):
    command = [sys.executable, "-m", "harness", "view", str(run), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().strip()
            with urllib.request.urlopen(address, timeout=60) as answer:
                assert "harnessLive" in answer.read().decode()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0 and out == ""
    assert err.splitlines()[-1] == "harness: the page is no longer served" and "Traceback" not in err


def test_a_port_in_use_is_refused(run, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["view", str(run), "--port", str(port)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"harness: port {port} is in use; choose another --port")
    assert printed.err.count("\n") == 1 and printed.out == ""


def test_what_is_not_a_port_or_a_run_is_refused(tmp_path, run, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["view", str(run), "--port", "65536"])
    assert ended.value.code == 2 and "from 0 to 65535" in capsys.readouterr().err
    assert main(["view", str(tmp_path / "absent")]) == 2
    assert "is not a run folder" in capsys.readouterr().err


def test_a_browser_gets_an_address_without_the_token(run, capsys, monkeypatch):
    opened = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(
        "harness.reports.page.serve.PageServer.serve", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    assert main(["view", str(run)]) == 0
    [address] = opened
    printed = capsys.readouterr().out.strip()
    assert address.startswith("http://127.0.0.1:") and printed.split("/")[3] not in address
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert main(["view", str(run)]) == 0 and len(opened) == 1
