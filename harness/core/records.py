"""What a run folder holds of its evaluation, in memory that does not grow with the length of the texts."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.core.journal import read_line_at, read_raw
from harness.core.pieces import Known, completion_pieces, finish, task_and_problem, verdict, verdict_pieces
from harness.core.store import BAD_ROW, RunView, misunderstood
from harness.core.types import Completion, FinishReason, Likelihood, Tokens, Verdict

Samples = dict[tuple[str, int], "StoredCompletion"]
Verdicts = dict[tuple[str, int], Verdict]
"""By problem and sample index."""


class StoredCompletion(Completion):
    """A completion on record. Its text and likelihoods are read from the run folder when somebody asks for them.

    Token ids and log-probabilities stay there: `RunView.completions` reads them.
    """

    __slots__ = ("_offset", "_path")

    _path: Path
    _offset: int

    def __init__(
        self,
        path: Path,
        offset: int,
        problem_id: str,
        index: int,
        seed: int,
        finish_reason: FinishReason,
        tokens: Tokens,
        engine_s: float | None,
    ) -> None:
        put = object.__setattr__  # frozen
        put(self, "_path", path)
        put(self, "_offset", offset)
        put(self, "problem_id", problem_id)
        put(self, "index", index)
        put(self, "seed", seed)
        put(self, "finish_reason", finish_reason)
        put(self, "tokens", tokens)
        put(self, "engine_s", engine_s)

    @classmethod
    def of(cls, completion: Completion, path: Path, offset: int) -> StoredCompletion:
        told, c = completion.tokens, completion
        tokens = Tokens(told.n_prompt, told.n_completion, cost_usd=told.cost_usd)
        return cls(path, offset, c.problem_id, c.index, c.seed, c.finish_reason, tokens, c.engine_s)

    @property
    def text(self) -> str:
        text: str = read_line_at(self._path, self._offset)["text"]
        return text

    @property
    def likelihoods(self) -> tuple[Likelihood, ...]:
        return tuple(Likelihood(**one) for one in read_line_at(self._path, self._offset).get("likelihoods", ()))

    def __reduce__(self) -> tuple[type[Completion], tuple[Any, ...]]:
        """A copy holds its text."""
        place = (self.problem_id, self.index, self.seed)
        return Completion, (*place, self.text, self.finish_reason, self.tokens, self.likelihoods, self.engine_s)


class Records:
    """The completions of each task, and the last verdict on each under the task's grader.

    Of a line in the form that the store writes only the fields are read that are needed and new; a text is not looked
    at before somebody asks for it.
    """

    def __init__(self, view: RunView, graders: Mapping[str, str], *, with_completions: bool = True) -> None:
        """`graders` names one for each task; other tasks and graders are passed over."""
        self.completions: dict[str, Samples] = {task: {} for task in graders}
        self.verdicts: dict[str, Verdicts] = {task: {} for task in graders}
        with _no_collections():
            if with_completions:
                self._read_completions(view.folder / "completions.jsonl")
            self._read_verdicts(view.folder / "verdicts.jsonl", graders)

    def _read_completions(self, path: Path) -> None:
        heads, tails = Known(task_and_problem), Known(finish)
        completions, number, offset = self.completions, 0, 0
        try:
            for number, line in enumerate(read_raw(path), 1):  # noqa: B007 (told in the error)
                head, index, seed, tail, engine_s = completion_pieces(line)
                task, problem_id = heads[head]
                finish_reason, tokens = tails[tail]
                if task in completions:
                    completions[task][problem_id, index] = StoredCompletion(
                        path, offset, problem_id, index, seed, finish_reason, tokens, engine_s
                    )
                offset += len(line)
        except BAD_ROW as error:
            raise misunderstood(path, number, error) from None

    def _read_verdicts(self, path: Path, graders: Mapping[str, str]) -> None:
        heads, tails, number = Known(task_and_problem), Known(verdict), 0
        try:
            for number, line in enumerate(read_raw(path), 1):  # noqa: B007 (told in the error)
                head, index, tail = verdict_pieces(line)
                task, problem_id = heads[head]
                grader, judged = tails[tail]
                if graders.get(task) == grader:
                    self.verdicts[task][problem_id, index] = judged
        except BAD_ROW as error:
            raise misunderstood(path, number, error) from None


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """Nothing that is read becomes garbage, and the collector would look for it again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
