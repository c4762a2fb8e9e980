"""Match the rows of a file with the problems of tasks: by id, else by the question's text, else by number."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.core.protocols import Split, Task
from harness.core.types import Problem
from harness.interop.imports.base import ProblemKeys

Key = Literal["auto", "id", "text", "number"]
ANCHOR_CHARACTERS = 32
"""A question is searched in a prompt by its first characters, so that a prompt is scanned once for all questions."""
SHORTEST_INSIDE = 16
"""Questions with fewer characters are not searched inside prompts, where they might stand by chance."""


class UnmatchedError(Exception):
    """A row that belongs to no problem, or to several. The message is the reason."""


@dataclass(frozen=True, slots=True)
class Place:
    """A problem of a task."""

    task: str
    problem_id: str


class Matcher:
    """Finds the problem of a row among all problems of the chosen tasks."""

    def __init__(self, tasks: Mapping[str, Sequence[tuple[str, str]]], by: Key = "auto") -> None:
        """`tasks` has the id and the text of each problem of a task, in the order of its data."""
        self._by = by
        self._tasks = tasks
        self._by_id: dict[str, list[Place]] = {}
        self._by_text: dict[str, list[Place]] = {}
        for task, problems in tasks.items():
            for problem_id, text in problems:
                place = Place(task, problem_id)
                self._by_id.setdefault(problem_id, []).append(place)
                self._by_text.setdefault(normalised(text), []).append(place)
        self._anchors: dict[str, list[str]] = {}
        for text in self._by_text:
            if len(text) >= SHORTEST_INSIDE:
                self._anchors.setdefault(text[:ANCHOR_CHARACTERS], []).append(text)
        self._lengths = sorted({len(anchor) for anchor in self._anchors})
        self._of_text = functools.lru_cache(maxsize=65536)(self._search)

    def find(self, keys: ProblemKeys) -> Place:
        """Return the problem, or raise UnmatchedError."""
        by = self._by
        if by in ("auto", "id") and (found := self._with_id(keys)):
            place = _only(found)
            asked = self._of_text(keys.text) if by == "auto" and keys.text is not None else ()
            if asked and place not in asked:
                raise UnmatchedError(f"its id is that of another problem than its question, {asked[0].problem_id}")
            return place
        if by in ("auto", "text") and keys.text is not None and (found := self._of_text(keys.text)):
            return _only(found)
        number = keys.number
        if number is None and keys.id is not None and keys.id.isdecimal():
            number = int(keys.id)
        if by in ("auto", "number") and number is not None:
            if by == "auto" and keys.text is not None:
                raise UnmatchedError("its question is none of the task's, so its number may count other data")
            return self._numbered(number)
        raise UnmatchedError("no such problem" if keys != ProblemKeys() else "it names no problem")

    def _with_id(self, keys: ProblemKeys) -> Sequence[Place]:
        found = self._by_id.get(keys.id, ()) if keys.id is not None else ()
        return found if found or keys.stem is None else self._by_id.get(keys.stem, ())

    def _numbered(self, number: int) -> Place:
        if len(self._tasks) > 1:
            raise UnmatchedError("a number does not decide between several tasks")
        ((task, problems),) = self._tasks.items()
        if number >= len(problems):
            raise UnmatchedError(f"there are {len(problems)} problems, counted from 0")
        return Place(task, problems[number][0])

    def _search(self, text: str) -> Sequence[Place]:
        """Return the problems with this text, else those whose text is inside it."""
        text = normalised(text)
        exact = self._by_text.get(text)
        if exact is not None:
            return exact
        inside = set(self._inside(text))
        longest = [one for one in inside if not any(one != other and one in other for other in inside)]
        return [place for one in longest for place in self._by_text[one]]

    def _inside(self, text: str) -> Iterator[str]:
        for length in self._lengths:
            for start in range(len(text) - length + 1):
                for whole in self._anchors.get(text[start : start + length], ()):
                    if text.startswith(whole, start):
                        yield whole


def _only(found: Sequence[Place]) -> Place:
    if len(found) == 1:
        return found[0]
    raise UnmatchedError("it matches " + " and ".join(f"{place.task} {place.problem_id}" for place in found[:3]))


def normalised(text: str) -> str:
    """Return a question without white space and case, in one Unicode form: copies of data sets differ in these."""
    return "".join(unicodedata.normalize("NFKC", text).split()).casefold()


def questions(task: Task[Any], split: Split, problems: Sequence[Problem[Any]]) -> list[tuple[str, str]]:
    """Return the id and the text of each problem, in the order of the data where the task has files."""
    statements = list(task.statements(split))
    if statements:
        return statements
    return [(problem.id, problem.messages[-1].content if problem.messages else "") for problem in problems]
