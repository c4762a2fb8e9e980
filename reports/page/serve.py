"""Serve the page of growing runs on loopback, to those who have its address.

Other users of the machine, and the pages of other sites in the same browser, must not read the runs. So the address has
a token, a request must name this machine as its host (a foreign name may have been made to resolve to it), and browsers
store nothing. A request never names a file: it gets the page, its state, or a chunk by number.
"""

from __future__ import annotations

import errno
import json
import re
import secrets
import socketserver
import sys
import threading
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from harness.core.errors import UsageError
from harness.core.text import printable
from harness.reports.live import LivePage

LOOPBACK = "127.0.0.1"
HOSTS = (LOOPBACK, "localhost")
"""Names of this machine in a request. The port may be another one, that of a tunnel."""
TIMEOUT_S = 60
LONGEST_END_S = 1.0
MOST_WAITING = 64
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_CHUNK = re.compile(r"chunks/(\d{1,12})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Answer:
    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    kind: str = "text/plain; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)


class PageServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A server of one page. Not an HTTPServer, which looks up the name of its host and may share its port."""

    daemon_threads = True
    allow_reuse_address = True  # of connections that have ended; a port with a server is refused
    request_queue_size = MOST_WAITING

    page: LivePage

    def __init__(self, port: int) -> None:
        """Bind the port; 0 is any free one. Requests wait until `serve`."""
        self.token = secrets.token_urlsafe()
        self._ticket: str | None = None
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OSError as error:
            is_used = error.errno == errno.EADDRINUSE
            reason = "is in use" if is_used else f"can't be used: {error.strerror}"
            raise UsageError(f"port {port} {reason}; choose another --port, or leave it out for a free one") from None

    @property
    def port(self) -> int:
        port: int = self.socket.getsockname()[1]
        return port

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.port}/{self.token}/"

    def serve(self, page: LivePage) -> None:
        """Serve the page, and keep it up to date, until an interrupt."""
        self.page = page
        stop = threading.Event()
        watcher = threading.Thread(target=page.watch, args=(stop,), daemon=True)
        watcher.start()
        try:
            self.serve_forever()
        finally:
            stop.set()
            watcher.join(LONGEST_END_S)  # a build that takes longer is left

    def new_ticket(self) -> str:
        """Return an address that leads to the page once: others can see the arguments that a browser starts with."""
        self._ticket = secrets.token_urlsafe()
        return f"http://{LOOPBACK}:{self.port}/{self._ticket}"

    def answer(self, host: str, path: str) -> Answer:
        if host.rpartition(":")[0] not in HOSTS and host not in HOSTS:
            return _refusal(HTTPStatus.FORBIDDEN, "This server answers to 127.0.0.1 and localhost only.")
        given, slash, rest = path.partition("?")[0].removeprefix("/").partition("/")
        if not slash and self._ticket is not None and _is_same(given, self._ticket):
            self._ticket = None
            return Answer(b"", HTTPStatus.SEE_OTHER, headers={"Location": f"/{self.token}/"})
        if not _is_same(given, self.token) or not slash:
            return _refusal(HTTPStatus.FORBIDDEN, "Use the whole address that `harness view` printed.")
        if rest == "":
            return Answer(self.page.html().encode(), kind="text/html; charset=utf-8")
        if rest == "state":
            return Answer(json.dumps(asdict(self.page.state)).encode(), kind="application/json")
        if (match := _CHUNK.fullmatch(rest)) is not None and (text := self.page.chunk(int(match[1]))) is not None:
            return Answer(text)
        return _refusal(HTTPStatus.NOT_FOUND, "Nothing is here.")

    def handle_error(self, *_where: Any) -> None:
        """Print one line, and none for a browser that went away."""
        error = sys.exception()
        if not isinstance(error, OSError):
            print(f"harness: a request failed: {printable(repr(error))}", file=sys.stderr)


def _is_same(given: str, secret: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "surrogatepass"), secret.encode())


def _refusal(status: HTTPStatus, text: str) -> Answer:
    return Answer(f"{text}\n".encode(), status)


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "harness", ""
    timeout = TIMEOUT_S

    def do_GET(self) -> None:
        self._send(self.server.answer(self.headers.get("Host", ""), self.path))

    def do_HEAD(self) -> None:
        self.do_GET()

    def parse_request(self) -> bool:
        """Refuse anything but reading."""
        if not super().parse_request():
            return False
        if self.command in ("GET", "HEAD"):
            return True
        self.close_connection = True  # the body is not read
        refusal = _refusal(HTTPStatus.METHOD_NOT_ALLOWED, "This page is for reading.")
        self._send(Answer(refusal.body, refusal.status, headers={"Allow": "GET, HEAD", "Connection": "close"}))
        return False

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        kept = {"Content-Type": answer.kind, "Content-Length": str(len(answer.body))}
        for name, value in {**HEADERS, **kept, **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, *_args: object) -> None:
        """Print nothing: the lines would have the token in them."""
