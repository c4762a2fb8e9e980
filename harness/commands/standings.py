"""Fetch standings of Codeforces contests into a file, for ratings.

The file holds what a rating by standings needs: for each contest the points of its problems and, for every player
with a rating change, the points, the penalty and the rating before. An evaluation only reads it.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.commands import DONE
from harness.commands.base.arguments import OutputArguments, add_output_options
from harness.commands.base.output import print_tables
from harness.core.config import parse_plugin
from harness.core.errors import DataError, UsageError
from harness.core.progress import Progress
from harness.core.types import Table
from harness.runs.jsonl import write_whole

EXAMPLE = "harness standings standings.json"
API = "https://codeforces.com/api"
PAUSE_S = 2.0
"""The API asks for no more than one request in two seconds."""
FORMAT = 1
_ATTEMPTS, _TIMEOUT_S = 4, 120.0
_COLUMNS = ("contest", "name", "players", "problems with points")


class Arguments(OutputArguments):
    file: Path
    contests: list[str]
    api: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="where the standings go; it must not exist yet")
    parser.add_argument(
        "contests", nargs="*", metavar="CONTEST", help="numbers (default: those of the task codeforces)"
    )
    parser.add_argument("--api", default=API, help="another address of the API")
    add_output_options(parser)


def run(args: Arguments) -> int:
    task = parse_plugin("tasks", "codeforces").build()
    contests = args.contests if args.contests else contests_of(list(task.recorded_digests("test")))
    print_tables(args, [fetch_standings(args.file, contests, Progress(quiet=args.quiet), api=args.api)])
    return DONE


def contests_of(ids: Sequence[str]) -> list[str]:
    """Return the contests of problem ids such as 1971A."""
    found = (re.match(r"[0-9]+(?=[A-Z])", key) for key in ids)
    return sorted({match.group() for match in found if match is not None}, key=int)


def fetch_standings(
    path: Path, contests: Sequence[str], progress: Progress, *, api: str = API, pause_s: float = PAUSE_S
) -> Table:
    """Fetch the contests into a new file. An interrupted fetch leaves a `.part` file, and the next one resumes it."""
    if path.exists():
        raise UsageError(f"{path} exists already, and a frozen file is never changed; name another one")
    part = path.with_name(path.name + ".part")
    done: dict[str, Any] = _read_part(part) if part.exists() else {}
    progress.begin("standings", len(contests), len(done.keys() & set(contests)))
    for contest in contests:
        if contest not in done:
            done[contest] = _contest(api, contest, pause_s, progress)
            write_whole(part, json.dumps(done))
            progress.advance()
    progress.end()
    wanted = {contest: done[contest] for contest in contests}
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    text = json.dumps({"format": FORMAT, "source": api, "fetched": day, "contests": wanted})
    write_whole(path, text + "\n")
    part.unlink()
    return _summary(path, wanted)


def _read_part(part: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(part.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(f"{part} can't be read ({error}); remove it to begin again") from None


def _summary(path: Path, contests: Mapping[str, Any]) -> Table:
    rows = tuple((key, c["name"], len(c["rows"]), len(c["points"])) for key, c in contests.items())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Table(f"Standings in {path}", _COLUMNS, rows, (f"sha256 {digest}",))


# --- the API ----------------------------------------------------------------------------------------------------


def _contest(api: str, contest: str, pause_s: float, progress: Progress) -> dict[str, Any]:
    standings = _call(f"{api}/contest.standings?contestId={contest}&showUnofficial=false", pause_s, progress)
    changes = _call(f"{api}/contest.ratingChanges?contestId={contest}", pause_s, progress)
    try:
        ratings = {change["handle"]: change["oldRating"] for change in changes}
        rows = [
            [row["points"], row["penalty"], ratings[handle]]
            for row in standings["rows"]
            if (handle := row["party"]["members"][0]["handle"]) in ratings
        ]
        points = {each["index"]: each["points"] for each in standings["problems"] if "points" in each}
        return {"name": standings["contest"]["name"], "points": points, "rows": rows}
    except (LookupError, TypeError) as error:
        raise DataError(
            f"the answers of {api} for contest {contest} don't have the expected form ({type(error).__name__}: {error})"
        ) from None


def _call(url: str, pause_s: float, progress: Progress) -> Any:
    """Return the result of one call. A busy server is asked again, with a line of progress."""
    for attempt in range(1, _ATTEMPTS + 1):
        time.sleep(pause_s * attempt)
        status, body = _answer(url)
        try:
            answer = json.loads(body)
        except ValueError:
            answer = {}
        comment = answer.get("comment", "no comment") if isinstance(answer, dict) else "no object"
        if isinstance(answer, dict) and answer.get("status") == "OK" and "result" in answer:
            return answer["result"]
        if not (status == 429 or status >= 500 or "limit exceeded" in comment):
            break
        if attempt < _ATTEMPTS:
            progress.say(f"{url} answered {status} ({comment}); asking again")
    raise DataError(f"{url} answered {status}: {comment}; run the same command again to go on with the rest")


def _answer(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DataError(
            f"{url} can't be reached ({reason}); run the same command again to go on with the rest"
        ) from error
