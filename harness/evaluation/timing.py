"""How long completions take, and how long their engine waits for somebody."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from harness.core.types import Completion, Failure


@dataclass(slots=True)
class Stopwatch:
    """The time of one session with the engine, and how much of it the engine was at work."""

    engine_s: float = 0.0
    total_s: float = 0.0
    n_completions: int = 0

    def __str__(self) -> str:
        waited = 1 - self.engine_s / self.total_s if self.total_s > 0 else 0.0
        return f"{self.n_completions} completions in {self.total_s:.1f} s; the engine waited {100 * waited:.2f} % of it"


def timed(answers: Iterator[Completion | Failure], stopwatch: Stopwatch) -> Iterator[Completion | Failure]:
    """Each completion with the time that was waited for it; that of a failure goes to the next completion."""
    opened_s, waited_s = time.monotonic(), 0.0
    while True:
        began_s = time.monotonic()
        answer = next(answers, None)
        ended_s = time.monotonic()
        waited_s += ended_s - began_s
        stopwatch.engine_s += ended_s - began_s
        stopwatch.total_s = ended_s - opened_s
        if answer is None:
            return
        if isinstance(answer, Completion):
            answer, waited_s = replace(answer, engine_s=round(waited_s, 6)), 0.0
            stopwatch.n_completions += 1
        yield answer
