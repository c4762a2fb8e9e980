"""A server on loopback that answers as Codeforces' public API does, for contests given as plain values."""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Api:
    """`contests`: number -> (name, {index: points or None}, [(handle, points, penalty, rating before or None)])."""

    def __init__(self, contests: dict[str, Any]) -> None:
        self.contests = contests
        self.asked: list[str] = []
        self.refusals: list[tuple[int, Any]] = []
        """Answers of the next requests instead of the regular ones: a status, and an object or bytes."""
        self.url = ""

    def answer(self, method: str, query: dict[str, str]) -> tuple[int, Any]:
        number = query["contestId"]
        if number not in self.contests:
            return 400, {"status": "FAILED", "comment": f"contestId: Contest with id {number} not found"}
        name, problems, players = self.contests[number]
        if method == "contest.ratingChanges":
            changes = [
                {"contestId": int(number), "contestName": name, "handle": h, "rank": 1, "oldRating": r, "newRating": r}
                for h, _, _, r in players
                if r is not None
            ]
            return 200, {"status": "OK", "result": changes}
        assert (method, query["showUnofficial"]) == ("contest.standings", "false")
        listed = [
            {"contestId": int(number), "index": i, "name": i, "type": "PROGRAMMING", "tags": []} for i in problems
        ]
        for each in listed:
            if problems[each["index"]] is not None:
                each["points"] = problems[each["index"]]
        rows = [
            {
                "party": {"contestId": int(number), "members": [{"handle": h}], "participantType": "CONTESTANT"},
                "rank": rank,
                "points": points,
                "penalty": penalty,
                "problemResults": [],
            }
            for rank, (h, points, penalty, _) in enumerate(players, 1)
        ]
        contest = {"id": int(number), "name": name, "type": "CF", "phase": "FINISHED"}
        return 200, {"status": "OK", "result": {"contest": contest, "problems": listed, "rows": rows}}


@contextlib.contextmanager
def running_api(contests: dict[str, Any]) -> Iterator[Api]:
    api = Api(contests)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urllib.parse.urlsplit(self.path)
            method, query = parts.path.rpartition("/")[2], dict(urllib.parse.parse_qsl(parts.query))
            api.asked.append(f"{method} {query['contestId']}")
            status, value = api.refusals.pop(0) if api.refusals else api.answer(method, query)
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    api.url = f"http://127.0.0.1:{server.server_port}/api"
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


PLAYERS = [(f"p{n}", 5000 - 10 * n, 7 * (n % 3), 2500 - 5 * n) for n in range(300)]
UNRATED = [("guest", 9000, 0, None)]
CONTESTS = {
    "1971": ("Round 1971 (Div. 1)", {"A": 500.0, "B": 1000.0, "F2": 750.0}, [*UNRATED, *PLAYERS]),
    "1972": (
        "Educational",
        {"A": None, "B": None},
        [(h, 6 - n // 60, 9 * n, r) for n, (h, _, _, r) in enumerate(PLAYERS)],
    ),
    "1980": ("Small", {"A": 500.0}, PLAYERS[:50]),
}
"""Contests for `running_api`: with points, without, and with few players."""
