"""An OpenAI-compatible server on loopback whose model sorts numbered solutions by a rule, or misbehaves."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODEL = "referee"


def solutions_in(prompt: str) -> list[str]:
    """Return the texts between the marks of a prompt, in order."""
    return [text for _, text in re.findall(r"<<<(\d+)\n(.*?)\n\1>>>", prompt, re.DOTALL)]


def grouped(texts: list[str], strategy: Callable[[str], str]) -> str:
    """Return the reply of an obedient judge that sees a strategy by `strategy`."""
    members = defaultdict(list)
    for number, text in enumerate(texts, 1):
        members[strategy(text)].append(number)
    groups = [{"name": f"way {name}", "idea": f"It goes {name}.", "members": found} for name, found in members.items()]
    return json.dumps({"groups": groups})


class JudgeServer:
    """`reply(prompt, n)` gives the n-th reply (from 0): a text, a status code, or `hang`, `drop` or `filtered`."""

    def __init__(self, reply: Callable[[str, int], str | int]) -> None:
        self.reply = reply
        self.prompts: list[str] = []
        self.bodies: list[dict] = []


@contextlib.contextmanager
def running(reply: Callable[[str, int], str | int]) -> Iterator[JudgeServer]:
    state = JudgeServer(reply)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, {"data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "test"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = body["messages"][-1]["content"]
            with lock:
                number = len(state.prompts)
                state.prompts.append(prompt)
                state.bodies.append(body)
            answer = state.reply(prompt, number)
            if answer == "hang":
                time.sleep(3)
            if answer == "drop":
                self.connection.close()
                return None
            if isinstance(answer, int):
                return self._send(answer, {"error": {"message": f"this is a {answer}"}})
            reason = "content_filter" if answer == "filtered" else "stop"
            choice = {"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": reason}
            usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(str(answer).split())}
            return self._send(200, {"choices": [choice], "usage": usage, "model": MODEL})

        def _send(self, status: int, value: object) -> None:
            content = json.dumps(value).encode()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    class Listener(ThreadingHTTPServer):
        request_queue_size = 128  # of 5, a burst of requests loses some

    with Listener(("127.0.0.1", 0), Handler) as server:
        server.handle_error = lambda request, address: None
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_port}/v1"
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
