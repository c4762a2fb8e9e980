"""The rollouts of a run in a file: what was sampled and how it was judged, to train on without sampling again.

rollouts.jsonl   one line of facts: task, sampling, engine, tokenizer and weights that it was begun with
                 a line that begins a step, with the digest of the weights that sampled it
                 a line a completion: tokens, log-probabilities, verdict
                 a line that ends the step; a step without one is not there, a step that comes again is the same
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.core.config import digest
from harness.core.errors import RunFolderError
from harness.core.types import Completion, Graded, Problem, Tokens, Verdict
from harness.runs.jsonl import JsonlFile
from harness.trainers.rollouts import Rollouts

FILE = "rollouts.jsonl"
FORMAT = 1
_SAMPLED = ("problem_id", "index", "seed", "text", "finish_reason", "tokens")
"""Of a completion: what the same seed gives again, which the time it took is not."""
_BEGIN, _END = b'{"begin":', b'{"end":'


class RolloutWriter:
    """Appends to the file of one run folder. A step that is there already is not written twice."""

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        path = folder / FILE
        self._journal = JsonlFile(path)
        ends = [json.loads(line) for line in _lines(path, _END)] if path.exists() else []
        self.last_step = ends[-1]["end"] if ends else 0
        self.n_problems_drawn = sum(end["n_problems_drawn"] for end in ends)
        if not path.exists() or next(_lines(path, b"{"), None) is None:
            self._journal.append({"format": FORMAT, "facts": facts})

    def append(self, step: int, rollouts: Rollouts, weights: str) -> None:
        if step <= self.last_step:
            return
        self._journal.append({"begin": step, "weights": weights})
        chosen = {(item.problem.id, item.completion.index) for item in rollouts.chosen}
        for item in rollouts.sampled:
            is_chosen = (item.problem.id, item.completion.index) in chosen
            self._journal.append(_row(item, "chosen" if is_chosen else "left_out"))
        for item in rollouts.greedy:
            self._journal.append(_row(item, "greedy"))
        counts = {"n_problems_drawn": rollouts.n_problems_drawn, "n_rounds": rollouts.n_rounds}
        self._journal.append({"end": step, **counts})
        self.last_step = step

    def close(self) -> None:
        self._journal.close()


class RolloutFile:
    """A file of rollouts open for reading, a step at a time, forwards."""

    def __init__(self, name: str) -> None:
        """`name` is a run folder or the file itself."""
        self.path = Path(name) / FILE if Path(name).is_dir() else Path(name)
        first = next(_lines(self.path, b"{"), None)
        if first is None:
            raise RunFolderError(f"{self.path} holds no rollouts")
        header = self._parsed(first)
        if header.get("format") != FORMAT:
            raise RunFolderError(f"{self.path} is no file of rollouts that this version reads")
        self.facts: Mapping[str, Any] = header["facts"]
        self._rest = _lines(self.path, b"{")

    def about(self) -> dict[str, dict[str, str]]:
        """For a run record. The fingerprint is of the facts it was begun with: it may grow, and stays the same file."""
        return {"rollouts": {"name": str(self.path), "fingerprint": digest(self.facts)}}

    def n_steps(self) -> int:
        return max((self._parsed(line)["end"] for line in _lines(self.path, _END)), default=0)

    def read(self, step: int) -> tuple[Rollouts, str]:
        """The rollouts of a step, and the digest of the weights that sampled it. Steps are asked for in their order."""
        lines: list[bytes] = []
        for line in self._rest:
            if line.startswith(_BEGIN):
                lines = [line] if self._parsed(line)["begin"] == step else []
            elif lines and line.startswith(_END):
                begin, *rows, end = map(self._parsed, [*lines, line])
                return self._rollouts(rows, end), begin["weights"]
            elif lines:
                lines.append(line)
        raise RunFolderError(f"{self.path} has no step {step}")

    def _rollouts(self, rows: list[dict[str, Any]], end: Mapping[str, Any]) -> Rollouts:
        try:
            items = [(row["part"], _item(row)) for row in rows]
            return Rollouts(
                sampled=[item for part, item in items if part != "greedy"],
                chosen=[item for part, item in items if part == "chosen"],
                n_problems_drawn=end["n_problems_drawn"],
                n_rounds=end["n_rounds"],
                greedy=[item for part, item in items if part == "greedy"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RunFolderError(f"{self.path} can't be understood ({type(error).__name__}: {error})") from None

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            row: dict[str, Any] = json.loads(line)
        except ValueError:
            raise RunFolderError(f"{self.path} is not a file of JSON lines") from None
        return row


def _row(item: Graded[Any], part: str) -> dict[str, Any]:
    completion, verdict = dataclasses.asdict(item.completion), dataclasses.asdict(item.verdict)
    sampled = {key: completion[key] for key in _SAMPLED}
    return {"part": part, "task": item.problem.task, "completion": sampled, "verdict": verdict}


def _item(row: Mapping[str, Any]) -> Graded[Any]:
    given = row["completion"]
    completion = Completion(**{**given, "tokens": Tokens(**given["tokens"])})
    return Graded(Problem(completion.problem_id, row["task"], (), None), completion, Verdict(**row["verdict"]))


def _lines(path: Path, beginning: bytes) -> Iterator[bytes]:
    """The whole lines of a journal that begin so."""
    try:
        with path.open("rb") as file:
            yield from (line for line in file if line.startswith(beginning) and line.endswith(b"\n"))
    except FileNotFoundError:
        raise RunFolderError(f"there are no rollouts in {path}; harness train --rollouts-only writes them") from None
    except OSError as error:
        raise RunFolderError(f"{path} can't be read: {error.strerror}") from None
