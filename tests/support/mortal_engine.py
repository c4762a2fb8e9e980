"""An engine for the tests of ray that fails where a test asks. `Mortal` stands in for what a config chose."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stub_engine import StubEngine

from harness.core.types import Completion, Request, Tokens


@dataclass(frozen=True)
class Mortal(StubEngine):
    """Says each request's seed. At the request `end_at` (an index) it is killed, as often as there are `lives`."""

    folder: str
    end_at: int = -1
    lives: int = 0
    raises: Exception | None = None
    leaves_out: bool = False
    dies_opening: bool = False
    once_each: bool = False
    """It is killed at that request of each problem once."""
    id: str = "mortal"

    def build(self) -> Mortal:
        return self

    def open(self, source: Any) -> None:
        if self.dies_opening:
            self._end()

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            if request.index == self.end_at:
                self._end(request.problem_id if self.once_each else None)
                if self.leaves_out:
                    continue
            tokens = Tokens(1, 1)
            yield Completion(request.problem_id, request.index, request.seed, str(request.seed), "stop", tokens)

    def _end(self, problem: str | None = None) -> None:
        if self.raises is not None:
            raise self.raises
        died = Path(self.folder) / f"died-{problem if problem is not None else os.getpid()}"
        if died.exists():
            return
        if len(list(died.parent.glob("died-*"))) < self.lives:
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
