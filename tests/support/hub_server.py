"""A hub of our own on loopback, which answers the real client as the hub does, or as badly as a test asks."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c0ffee" * 6 + "c0de"


class Hub:
    """Files by `repo/path`, what was asked for, and how to misbehave."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.url = ""
        self.large = True
        """Whether files are identified by SHA-256, as large ones are, or by git's hash."""
        self.refuses: tuple[int, str, str] | None = None
        """A status, an X-Error-Code and a message, for every request."""
        self.breaks_off_after: int | None = None
        """Bytes of a body after which the connection is closed, once."""
        self.refuses_then: tuple[int, str, str] | None = None
        """The answer to every request after that."""
        self.sends: dict[str, bytes] = {}
        """Another content than the one that was promised."""
        self.chunked = False
        self.without_ranges = False

    def etag(self, content: bytes) -> str:
        if self.large:
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()

    def bodies(self) -> list[tuple[str, str | None]]:
        """The paths and ranges of the GET requests."""
        return [(path, ranged) for method, path, ranged in self.requests if method == "GET"]


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing: stderr belongs to what is tested."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        hub = self.hub
        hub.requests.append((self.command, self.path, self.headers.get("Range")))
        if hub.refuses is not None:
            return self._refuse(*hub.refuses)
        if self.path.startswith("/api/datasets/"):
            return self._list("/".join(self.path.split("/")[3:5]))
        name = self._name()
        if name is None:
            return self._refuse(404, "RevisionNotFound", "Invalid rev id")
        if not any(known.startswith(name[0] + "/") for known in hub.files):
            return self._refuse(401, "RepoNotFound", "Repository not found")
        content = hub.files.get("/".join(name))
        if content is None:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        return self._send(content, hub.sends.get("/".join(name), content), with_body)

    def _name(self) -> tuple[str, str] | None:
        """The repo and the path, if the revision is one of ours; a plain path is its own name."""
        parts = self.path.lstrip("/").split("/")
        if parts[0] != "datasets":
            return parts[0], "/".join(parts[1:])
        return ("/".join(parts[1:3]), "/".join(parts[5:])) if parts[4] in ("main", COMMIT) else None

    def _list(self, repo: str) -> None:
        """Send the list of a dataset's files, as the hub's API does."""
        names = [name.removeprefix(f"{repo}/") for name in self.hub.files if name.startswith(f"{repo}/")]
        if not names:
            return self._refuse(401, "RepoNotFound", "Repository not found")
        listing = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
        content = json.dumps(listing).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        return None

    def _refuse(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, promised: bytes, content: bytes, with_body: bool) -> None:
        start = 0
        ranged = self.headers.get("Range")
        if ranged is not None and with_body and not self.hub.without_ranges:
            start = int(ranged.removeprefix("bytes=").partition("-")[0])
            if start >= len(content):
                return self._refuse(416, "", "Range Not Satisfiable")
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{self.hub.etag(promised)}"')
        if self.hub.large:
            self.send_header("X-Linked-ETag", f'"{self.hub.etag(promised)}"')
            self.send_header("X-Linked-Size", str(len(promised)))
        self.send_header("Accept-Ranges", "bytes")
        if self.hub.chunked and with_body:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if with_body:
            self._body(content[start:])
        return None

    def _body(self, content: bytes) -> None:
        last = self.hub.breaks_off_after
        self.hub.breaks_off_after = None
        part = content if last is None else content[:last]
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), part) if self.hub.chunked else part)
        if last is not None:
            self.wfile.flush()
            self.close_connection = True
            self.hub.refuses = self.hub.refuses_then
        elif self.hub.chunked:
            self.wfile.write(b"0\r\n\r\n")


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OurHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
