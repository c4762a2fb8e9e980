"""Index of a run folder: its completions without their texts, and the last verdict on each.

Lines are decoded into structs of the wanted fields, so a text is skipped and never held: a million completions are read
in seconds. `StoredCompletion.load` reads one back whole.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from harness.core.types import NO_COMPLETION, NO_VERDICT, Completion, Outcome, StoredCompletion, Tokens, Verdict
from harness.runs.folder import CompletionFile, RunReader, RunWriter, bad_row_error
from harness.runs.jsonl import parse_line, read_raw_lines
from harness.runs.schema import BAD_ROW, LARGEST

StoredReason = Literal["stop", "length"]
"""A completion that failed is never stored."""
Samples = dict[tuple[str, int], StoredCompletion]
Verdicts = dict[tuple[str, int], Verdict]
"""By problem and sample index."""

S = TypeVar("S", bound=msgspec.Struct)
K = TypeVar("K")
V = TypeVar("V")

MOST_SHARED = 100_000
"""Equal token counts and equal verdicts are one object, up to this many different ones."""
LONGEST_SHARED = 500
"""Bytes of a verdict's details above which the verdict is not looked up among the shared ones."""


Count = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]


class TokenCounts(msgspec.Struct, frozen=True):
    """The counts of a line's `tokens`; ids and log-probabilities are skipped."""

    n_prompt: Count
    n_completion: Count
    cost_usd: float | None = None


class CompletionLine(msgspec.Struct):
    """The fields of a line of completions.jsonl that the index keeps."""

    task: str
    problem_id: str
    index: Count
    seed: int
    finish_reason: StoredReason
    tokens: TokenCounts
    engine_s: float | None = None  # not measured by earlier versions


class VerdictLine(msgspec.Struct):
    """A line of verdicts.jsonl. The details stay JSON, which serves to find equal verdicts."""

    task: str
    problem_id: str
    index: Count
    grader: str
    outcome: Outcome
    reward: float | None
    extracted: str | None = None
    reason: str = ""
    details: msgspec.Raw = msgspec.Raw(b"{}")


class CompletionIndex:
    """The completions of each task, and the last verdict on each under the task's grader."""

    def __init__(self, run: RunReader, graders: Mapping[str, str], *, with_completions: bool = True) -> None:
        """Read the folder. `graders` names one for each task; other tasks and graders are skipped."""
        self.completions: dict[str, Samples] = {task: {} for task in graders}
        self.verdicts: dict[str, Verdicts] = {task: {} for task in graders}
        with no_collections():
            if with_completions:
                self._read_completions(run.lines("completions.jsonl"))
            self._read_verdicts(run.lines("verdicts.jsonl"), graders)

    def _read_completions(self, path: Path) -> None:
        file, decode = CompletionFile(path), line_decoder(CompletionLine)
        names: dict[str, str] = {}
        counts: dict[TokenCounts, Tokens] = {}

        def add(line: bytes, offset: int) -> None:
            row = decode(line)
            samples = self.completions.get(row.task)
            if samples is None:
                return
            problem_id = names.setdefault(row.problem_id, row.problem_id)
            tokens = counts.get(row.tokens)
            if tokens is None:
                tokens = Tokens(row.tokens.n_prompt, row.tokens.n_completion, cost_usd=row.tokens.cost_usd)
                _share(counts, row.tokens, tokens)
            samples[problem_id, row.index] = StoredCompletion(
                problem_id, row.index, row.seed, row.finish_reason, tokens, row.engine_s, file, offset
            )

        for_each_line(path, add)

    def _read_verdicts(self, path: Path, graders: Mapping[str, str]) -> None:
        decode = line_decoder(VerdictLine)
        names: dict[str, str] = {}
        known: dict[tuple[object, ...], Verdict] = {}

        def add(line: bytes, _offset: int) -> None:
            row = decode(line)
            if graders.get(row.task) != row.grader:
                return
            details = bytes(row.details)
            content = (row.outcome, row.reward, row.extracted, row.reason, details)
            verdict = known.get(content)
            if verdict is None:
                verdict = Verdict(row.outcome, row.reward, row.extracted, row.reason, parse_line(details))
                if len(details) <= LONGEST_SHARED:
                    _share(known, content, verdict)
            self.verdicts[row.task][names.setdefault(row.problem_id, row.problem_id), row.index] = verdict

        for_each_line(path, add)


class TaskResults:
    """The stored completions and verdicts of one task under one grader, and the writer that adds to them."""

    def __init__(
        self, writer: RunWriter, task: str, grader: str, *, with_ids: bool = False, index: CompletionIndex | None = None
    ) -> None:
        """Take the results from `index`, or read them from the folder."""
        self._writer, self._task, self._grader, self._with_ids = writer, task, grader, with_ids
        index = index if index is not None else CompletionIndex(writer.reader(), {task: grader})
        self.completions, self.verdicts = index.completions[task], index.verdicts[task]
        for key in [key for key, verdict in self.verdicts.items() if is_open(verdict)]:
            del self.verdicts[key]

    def append_completion(self, completion: Completion) -> StoredCompletion:
        """Append it to completions.jsonl; return a handle that reads it back on demand."""
        stored = self._writer.append_completion(self._task, completion, with_ids=self._with_ids)
        self.completions[stored.problem_id, stored.index] = stored
        return stored

    def append_verdict(self, completion: Completion | StoredCompletion, verdict: Verdict) -> None:
        if NO_COMPLETION not in verdict.details:
            self.verdicts[completion.problem_id, completion.index] = verdict
        self._writer.append_verdict(self._task, completion.problem_id, completion.index, self._grader, verdict)


def is_open(verdict: Verdict) -> bool:
    """Return whether the next run asks again for what the verdict is about."""
    return NO_COMPLETION in verdict.details or NO_VERDICT in verdict.details


# --- decoding ---------------------------------------------------------------------------------------------------


def for_each_line(path: Path, add: Callable[[bytes, int], None]) -> None:
    """Call `add` with each line and the byte at which it begins."""
    number = offset = 0
    try:
        for number, line in enumerate(read_raw_lines(path), 1):  # noqa: B007 (named in the error)
            add(line, offset)
            offset += len(line)
    except BAD_ROW as error:
        raise bad_row_error(path, number, error) from None


def line_decoder(kind: type[S]) -> Callable[[bytes], S]:
    fast = msgspec.json.Decoder(kind).decode
    keeps_json = any(field.name == "details" and field.type is msgspec.Raw for field in msgspec.structs.fields(kind))

    def decode(line: bytes) -> S:
        try:
            return fast(line)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:  # half a surrogate pair or an infinity: Python writes and reads both
            row = json.loads(line)
            if keeps_json and isinstance(row, dict) and "details" in row:
                row["details"] = msgspec.Raw(json.dumps(row["details"]).encode())
            decoded = msgspec.convert(row, kind)
            _refuse_non_finite(decoded)
            return decoded

    return decode


def _refuse_non_finite(row: Any) -> None:
    """Raise ValueError if a number of a struct is not finite; what is in its details does not matter."""
    for value in (getattr(row, name) for name in row.__struct_fields__):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"a number is not finite: {value}")
        if isinstance(value, msgspec.Struct):
            _refuse_non_finite(value)


def _share(known: dict[K, V], key: K, value: V) -> None:
    if len(known) < MOST_SHARED:
        known[key] = value


@contextlib.contextmanager
def no_collections() -> Iterator[None]:
    """Pause the garbage collector: nothing that is read becomes garbage, and its passes take longer and longer."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
