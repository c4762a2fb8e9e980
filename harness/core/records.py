"""What a run folder holds of its evaluation, in memory that does not grow with the length of the texts."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.core.journal import read_line_at, read_places
from harness.core.store import BAD_ROW, RunView, misunderstood
from harness.core.types import Completion, FinishReason, Tokens, Verdict

Samples = dict[tuple[str, int], "StoredCompletion"]
Verdicts = dict[tuple[str, int], Verdict]
"""By problem and sample index."""


class StoredCompletion(Completion):
    """A completion on record. Its text is read from the run folder when somebody asks for it.

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

    def __reduce__(self) -> tuple[type[Completion], tuple[Any, ...]]:
        """A copy holds its text."""
        fields = (self.problem_id, self.index, self.seed, self.text, self.finish_reason, self.tokens, self.engine_s)
        return Completion, fields


class Records:
    """The completions of each task, and the last verdict on each under the task's grader."""

    def __init__(self, view: RunView, graders: Mapping[str, str], *, with_completions: bool = True) -> None:
        """`graders` names one for each task; other tasks and graders are passed over."""
        self.completions: dict[str, Samples] = {task: {} for task in graders}
        self.verdicts: dict[str, Verdicts] = {task: {} for task in graders}
        with _no_collections():
            if with_completions:
                self._read_completions(view.folder / "completions.jsonl")
            self._read_verdicts(view.folder / "verdicts.jsonl", graders)

    # One loop each, without calls: there may be millions of lines.

    def _read_completions(self, path: Path) -> None:
        number, counts = 0, dict[tuple[int, int, float | None], Tokens]()
        try:
            for offset, row in read_places(path):
                number += 1
                samples = self.completions.get(row["task"])
                if samples is None:
                    continue
                told = row["tokens"]
                n_prompt, n_completion, cost_usd = told["n_prompt"], told["n_completion"], told.get("cost_usd")
                tokens = counts.get((n_prompt, n_completion, cost_usd))
                if tokens is None:
                    tokens = Tokens(n_prompt, n_completion, cost_usd=cost_usd)
                    counts[n_prompt, n_completion, cost_usd] = tokens
                key = (row["problem_id"], row["index"])
                samples[key] = StoredCompletion(
                    path, offset, *key, row["seed"], row["finish_reason"], tokens, row.get("engine_s")
                )
        except BAD_ROW as error:
            raise misunderstood(path, number, error) from None

    def _read_verdicts(self, path: Path, graders: Mapping[str, str]) -> None:
        number, plain = 0, dict[tuple[Any, ...], Verdict]()
        try:
            for _, row in read_places(path):
                number += 1
                task = row["task"]
                if graders.get(task) != row["grader"]:
                    continue
                fields = (row["outcome"], row["reward"], row["extracted"], row["reason"])
                verdict = plain.get(fields) if not row["details"] else Verdict(*fields, row["details"])
                if verdict is None:
                    verdict = plain[fields] = Verdict(*fields)
                self.verdicts[task][row["problem_id"], row["index"]] = verdict
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
