"""Downloads from a hub of our own on loopback, by the hub's real client, and from plain addresses."""

import hashlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from hub_server import COMMIT, running_hub

from harness.cli import main
from harness.core.errors import DataError
from harness.core.types import DataFile
from harness.data import download

REPO = "svc-huggingface/minerva-math"
NAME = f"{REPO}/test.jsonl"
BLOBS = f"hub/datasets--{REPO.replace('/', '--')}/blobs"


def minerva(n=272):
    rows = [{"problem": f"p{i} " * 40, "solution": f"\\boxed{{{i}}}", "type": "x", "idx": i} for i in range(n)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def hub():
    with running_hub() as running:
        running.files[NAME] = minerva()
        yield running


@pytest.fixture
def home(tmp_path, monkeypatch, hub):
    """A cache of its own, and the client pointed at our hub. It reads its settings once, when it is imported."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.delenv("HARNESS_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    point_to(hub.url, monkeypatch)
    # Its own handler keeps the stderr of the test that imported it first, which may be a test that has ended.
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "handlers", [])
    # Between one try and the next the client waits, half a minute in all.
    monkeypatch.setattr(_http, "time", SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None}))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "home"


def point_to(url, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


def left(home):
    """Return the files of the cache, without locks and the note for backup programs."""
    files = (path for path in home.rglob("*") if not path.is_dir())
    return {str(path.relative_to(home)) for path in files if path.suffix not in (".lock", ".TAG")}


def refused(capsys, *command):
    """The one line of an error."""
    assert main([*command, "--quiet"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    lines = [line for line in said.err.splitlines() if line.startswith("harness: ")]
    assert len(lines) == 1
    assert "Traceback" not in said.err
    return lines[0]


# --- the hub ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("large", [True, False], ids=["by SHA-256", "by git's hash"])
def test_file_is_downloaded_once_and_then_not_requested(hub, home, capsys, large):
    hub.large = large
    assert main(["fetch", "minerva", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)[0]["rows"]
    assert (row["task"], row["split"], row["rows"], row["files"]) == ("minerva", "test", 272, 1)
    describe_mismatch = row["as recorded"]
    assert describe_mismatch.startswith("272 of the test rows differ from the recorded ones")
    assert [path for path, _ in hub.bodies() if "resolve" in path] == [f"/datasets/{REPO}/resolve/main/test.jsonl"]
    hub.requests.clear()
    assert main(["fetch", "minerva", "--quiet"]) == 0
    assert main(["show", "minerva", "--problem", "1"]) == 0
    assert hub.requests == []
    assert left(home) == {
        f"{BLOBS}/{hub.etag(minerva())}",
        f"hub/datasets--{REPO.replace('/', '--')}/refs/main",
        f"hub/datasets--{REPO.replace('/', '--')}/snapshots/{COMMIT}/test.jsonl",
    }


def test_download_honours_the_hub_environment_and_works_offline_afterwards(hub, tmp_path):
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    environment.pop("HARNESS_DATA_DIR", None)
    environment.pop("HF_HUB_CACHE", None)

    def fetch(task, **more):
        command = [sys.executable, "-m", "harness", "fetch", task, "--quiet"]
        return subprocess.run(command, env={**environment, **more}, capture_output=True, text=True, timeout=100)

    assert fetch("minerva").returncode == 0
    hub.requests.clear()
    again = fetch("minerva", HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    absent = fetch("math500", HF_HUB_OFFLINE="1")
    assert absent.returncode == 2
    assert "math500" not in absent.stdout
    assert "run `harness fetch TASK` once, or set HARNESS_DATA_DIR" in absent.stderr.splitlines()[-1]
    assert hub.requests == []


def test_download_continues_after_a_broken_connection(hub, home, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # it keeps whole chunks, of ten million bytes
    hub.breaks_off_after = 20_000
    assert main(["fetch", "minerva", "--quiet"]) == 0
    ranges = [ranged for path, ranged in hub.bodies() if "resolve" in path]
    assert ranges == [None, "bytes=20000-"]
    assert (home / BLOBS / hub.etag(minerva())).read_bytes() == minerva()


def test_interrupted_download_is_reported_and_completed_by_the_same_command(hub, home, capsys):
    hub.breaks_off_after, hub.refuses_then = 20_000, (503, "", "tired")
    message = refused(capsys, "fetch", "minerva")
    assert REPO in message
    assert not any("snapshots" in path for path in left(home))
    hub.refuses = None
    hub.requests.clear()
    assert main(["fetch", "minerva", "--quiet"]) == 0
    assert (home / BLOBS / hub.etag(minerva())).read_bytes() == minerva()
    assert not [path for path in left(home) if path.endswith(".incomplete")]


@pytest.mark.parametrize("large", [True, False], ids=["by SHA-256", "by git's hash"])
def test_an_altered_download_is_refused_and_leaves_the_cache_clean(hub, home, capsys, large):
    hub.large = large
    hub.sends[NAME] = minerva().replace(b"p17 ", b"p18 ")
    message = refused(capsys, "fetch", "minerva")
    assert "was altered or truncated" in message
    assert not any("blobs" in path or "snapshots" in path for path in left(home))
    hub.sends.clear()
    assert main(["fetch", "minerva", "--quiet"]) == 0


def test_a_download_of_another_length_is_refused_and_leaves_the_cache_clean(hub, home, capsys):
    hub.sends[NAME] = minerva()[:-100]
    message = refused(capsys, "fetch", "minerva")
    assert REPO in message
    assert not any("snapshots" in path or path.endswith(hub.etag(minerva())) for path in left(home))
    hub.sends.clear()
    assert main(["fetch", "minerva", "--quiet"]) == 0
    assert (home / BLOBS / hub.etag(minerva())).read_bytes() == minerva()


def test_forced_download_replaces_the_cached_file(hub, home):
    assert main(["fetch", "minerva", "--quiet"]) == 0
    blob = home / BLOBS / hub.etag(minerva())
    blob.write_bytes(blob.read_bytes()[:-1000])  # the cache spoilt on disk
    with pytest.raises(DataError, match="fetch it again"):
        _records(download.cached(DataFile("test.jsonl", REPO)))
    assert main(["fetch", "minerva", "--again", "--quiet"]) == 0
    assert blob.read_bytes() == minerva()


def test_forced_download_without_the_hub_keeps_the_cached_file(hub, home, capsys):
    assert main(["fetch", "minerva", "--quiet"]) == 0
    capsys.readouterr()
    hub.refuses = (500, "", "broken")
    refused(capsys, "fetch", "minerva", "--again")
    assert (home / BLOBS / hub.etag(minerva())).read_bytes() == minerva()
    assert main(["fetch", "minerva", "--quiet"]) == 0


def _records(path):
    from harness.data.files import read_records

    return list(read_records(path, ["idx"]))


@pytest.mark.parametrize("status", [401, 403])
def test_gated_data_name_the_page_and_the_token(hub, home, capsys, status):
    hub.refuses = (status, "GatedRepo", "Access to dataset Idavidrein/gpqa is restricted.")
    message = refused(capsys, "fetch", "gpqa")
    assert "accept its terms at https://huggingface.co/datasets/Idavidrein/gpqa" in message
    assert "HF_TOKEN" in message
    assert left(home) == set()


def test_a_missing_repository_file_or_revision_is_named(hub, home, capsys):
    assert "openai/gsm8k does not exist or is not visible to you" in refused(capsys, "fetch", "gsm8k")
    hub.files["openai/gsm8k/other"] = b""
    assert "openai/gsm8k has no file main/train-00000-of-00001.parquet" in refused(capsys, "fetch", "gsm8k")
    assert "HuggingFaceH4/MATH-500 has no revision ff5b20257d81" in refused(capsys, "fetch", "math500")
    assert left(home) == set()


@pytest.mark.parametrize("status", [500, 503, 429])
def test_hub_server_error_is_one_line(hub, home, capsys, status):
    hub.refuses = (status, "", "in trouble")
    assert REPO in refused(capsys, "fetch", "minerva")
    assert left(home) == set()


def test_download_without_network_explains_the_remedies(hub, home, capsys, monkeypatch):
    point_to(f"http://127.0.0.1:{closed_port()}", monkeypatch)
    message = refused(capsys, "fetch", "minerva")
    assert "run `harness fetch TASK` once, or set HARNESS_DATA_DIR" in message
    assert left(home) == set()


def test_download_of_gated_data_without_network_names_the_token(hub, home, capsys, monkeypatch):
    point_to(f"http://127.0.0.1:{closed_port()}", monkeypatch)
    message = refused(capsys, "fetch", "gpqa")
    assert "accept its terms at https://huggingface.co/datasets/Idavidrein/gpqa" in message
    assert "HF_TOKEN" in message


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_full_disk_error_names_the_variable_of_the_hub_cache(hub, home, capsys):
    home.write_text("a file where the folder should be")
    message = refused(capsys, "fetch", "minerva")
    assert "can't be written to the cache" in message
    assert "HF_HOME" in message


# --- plain addresses --------------------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 20_000


@pytest.fixture
def plain(hub, home, tmp_path):
    """A file at a plain address, and where it goes."""
    hub.files["files/data.bin"] = CONTENT
    file = DataFile("data.bin", url=f"{hub.url}/files/data.bin", sha256=hashlib.sha256(CONTENT).hexdigest())
    return file, tmp_path / "xdg" / "harness" / "files"


def names(folder):
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_a_plain_file_is_downloaded_checked_and_kept(hub, plain):
    file, folder = plain
    assert download.cached(file) is None
    path = download.download(file)
    assert path == download.cached(file) == folder / "data.bin"
    assert path.read_bytes() == CONTENT
    assert names(folder) == {"data.bin"}


def test_full_disk_error_names_the_variable_of_the_file_cache(plain):
    file, folder = plain
    folder.parent.parent.mkdir(exist_ok=True)
    folder.parent.write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"can't be written to the cache.*XDG_CACHE_HOME"):
        download.download(file)


@pytest.mark.parametrize("held", [1, 1_000_000, len(CONTENT) - 1])
def test_partial_download_is_continued(hub, plain, held):
    file, folder = plain
    hub.breaks_off_after = held
    with pytest.raises(DataError, match=r"can't be reached .*bytes arrived"):
        download.download(file)
    assert names(folder) == {"data.bin.part"}
    hub.requests.clear()
    assert download.download(file).read_bytes() == CONTENT
    assert hub.requests == [("GET", "/files/data.bin", f"bytes={held}-")]
    assert names(folder) == {"data.bin"}


def test_partial_download_restarts_on_a_server_without_ranges(hub, plain):
    file, _ = plain
    hub.breaks_off_after, hub.without_ranges = 1000, True
    with pytest.raises(DataError):
        download.download(file)
    assert download.download(file).read_bytes() == CONTENT


def test_complete_partial_download_is_used(hub, plain):
    """The machine stopped between the last byte and the renaming."""
    file, folder = plain
    folder.mkdir(parents=True)
    (folder / "data.bin.part").write_bytes(CONTENT)
    assert download.download(file).read_bytes() == CONTENT
    assert names(folder) == {"data.bin"}


def test_partial_download_of_another_file_is_discarded(hub, plain):
    file, folder = plain
    folder.mkdir(parents=True)
    (folder / "data.bin.part").write_bytes(b"x" * 1000)
    with pytest.raises(DataError, match="was altered or truncated"):
        download.download(file)
    assert names(folder) == set()
    assert download.download(file).read_bytes() == CONTENT


def test_truncated_chunked_body_is_refused_and_continued(hub, plain):
    file, folder = plain
    hub.chunked, hub.breaks_off_after = True, 3_000_000
    with pytest.raises(DataError, match="can't be reached"):
        download.download(file)
    assert "data.bin" not in names(folder)
    assert download.download(file).read_bytes() == CONTENT


def test_download_with_another_checksum_is_refused_and_discarded(hub, plain):
    file, folder = plain
    hub.sends["files/data.bin"] = CONTENT[:-1] + b"?"
    with pytest.raises(DataError, match="was altered or truncated"):
        download.download(file)
    assert names(folder) == set()


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_http_error_is_reported_with_its_status(hub, plain, status):
    file, folder = plain
    hub.refuses = (status, "", "no")
    with pytest.raises(DataError, match=f"returned {status}"):
        download.download(file)
    assert names(folder) == set()


def test_malformed_or_empty_http_answer_is_reported(home, tmp_path):
    for answer in (b"", b"nonsense\r\n\r\n"):
        with socket.create_server(("127.0.0.1", 0)) as server:

            def once(server=server, answer=answer):
                connection, _ = server.accept()
                with connection:
                    connection.recv(10_000)
                    connection.sendall(answer)

            thread = threading.Thread(target=once)
            thread.start()
            file = DataFile("x.bin", url=f"http://127.0.0.1:{server.getsockname()[1]}/x.bin")
            with pytest.raises(DataError, match=r"can't be reached .*HARNESS_DATA_DIR"):
                download.download(file)
            thread.join()


def test_unreachable_address_is_reported(home):
    file = DataFile("x.bin", url=f"http://127.0.0.1:{closed_port()}/x.bin")
    with pytest.raises(DataError, match=r"can't be reached .*run `harness fetch TASK` once"):
        download.download(file)
