"""Rows of verl's batch as graded completions, and the order in which they are sent to its workers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.core.types import Completion, Graded, Problem, Tokens, Verdict

PADDING = "is_padding"
"""verl's tag of rows that fill a batch up."""


@dataclass(frozen=True, slots=True)
class Row:
    """One completion as verl's agent loop left it."""

    problem: str
    """The id of the problem, with the place of its prompt in the data: a problem may be drawn twice in a step."""
    session: int
    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]
    logp_behaviour: Sequence[float] | None
    found: Mapping[str, Any]
    """The answer of the reward function."""

    @property
    def is_usable(self) -> bool:
        return bool(self.found.get("ungraded", 1.0) == 0)

    def graded(self, max_tokens: int, ends: Collection[int]) -> Graded[Any]:
        """Return the completion with its verdict; its text is not needed again."""
        n_tokens = len(self.completion_ids)
        is_cut = n_tokens >= max_tokens and self.completion_ids[-1] not in ends
        logp = tuple(self.logp_behaviour) if self.logp_behaviour is not None else None
        tokens = Tokens(len(self.prompt_ids), n_tokens, tuple(self.prompt_ids), tuple(self.completion_ids), logp)
        completion = Completion(self.problem, self.session, 0, "", "length" if is_cut else "stop", tokens)
        return Graded(Problem(self.problem, "", (), None), completion, self._verdict())

    def _verdict(self) -> Verdict:
        if not self.is_usable:
            return Verdict("ungraded", None)
        details = {"solution": self.found["solution"]} if self.found.get("solution") is not None else {}
        outcome: Literal["correct", "incorrect"] = (
            "correct" if self.found.get("correct", self.found["score"] > 0) else "incorrect"
        )
        return Verdict(outcome, float(self.found["score"]), extracted=self.found.get("extracted"), details=details)


def prompt_name(index: int, problem_id: str) -> str:
    """Return the name of a prompt, in whose order groups are cut into minibatches."""
    return f"{index:09d} {problem_id}"


def minibatch_places(names: Sequence[str], sessions: Sequence[int], is_padding: Sequence[bool], size: int) -> list[int]:
    """Return the minibatch of each row: prompts in the order of the data, `size` rows each, filling rows last."""
    order = sorted(range(len(names)), key=lambda i: (is_padding[i], names[i], sessions[i]))
    places = [0] * len(names)
    for place, row in enumerate(order):
        places[row] = place // size
    return places
