"""Every sample of the runs for the page: columns that its filters scan, and chunks with the texts.

A run's files are read once from the front, to find out which lines count, and then line by line in the order of the
problems. So memory holds the columns and one chunk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.core.text import printable
from harness.reports.flags import FLAGS, Sample, flags_of
from harness.reports.page.pack import ChunkWriter, SampleChunks
from harness.reports.page.tokens import TokenTexts
from harness.reports.protocol_card import grader_of
from harness.reports.run_config import run_config
from harness.reports.run_facts import task_ids
from harness.runs.files import open_regular
from harness.runs.folder import RunReader
from harness.runs.index import CompletionLine, VerdictLine, for_each_line, line_decoder, no_collections
from harness.runs.jsonl import altered_in_use, parse_line, read_lines

JUDGEMENTS = "judgements.jsonl"
"""Labels of strategies that `harness diversity --judge` writes into a run folder."""
CODES = {"incorrect": "0", "correct": "1", "ungraded": "2"}
NO_VERDICT = "3"
FINISH = {"stop": "0", "length": "1", "failed": "2"}
LONGEST_KEY = 200
"""Characters of an extracted answer that can be the name of a group of samples. A program is longer."""

Place = tuple[int, int]
"""Offset and size of a line in its file."""
Key = tuple[str, int]


@dataclass(slots=True)
class Columns:
    """The samples of one run on one task, ordered by problem and index, one entry each."""

    run: int
    grader: str
    problems: list[int] = field(default_factory=list)
    """Numbers of the problems that it has, and below how many samples of each."""
    counts: list[int] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)
    finish: list[str] = field(default_factory=list)
    extracted: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    """Number of the strategy or the answer, -1 without one."""
    others: dict[str, list[str]] = field(default_factory=dict)
    """Outcomes by other graders."""
    starts: Sequence[int] = ()
    chunks: Sequence[int] = ()
    flags: list[int] = field(default_factory=list)
    """A bit for each flag, in the order of FLAGS."""
    pieces: Mapping[int, str] = field(default_factory=dict)
    """Texts of the tokens whose log-probabilities are shown."""

    def to_plain(self) -> dict[str, Any]:
        """Convert to JSON values: digits of one place as one text."""
        return {
            "run": self.run,
            "grader": self.grader,
            "p": self.problems,
            "n": self.counts,
            "i": self.indices,
            "o": "".join(self.outcomes),
            "f": "".join(self.finish),
            "x": "".join(self.extracted),
            "t": self.tokens,
            "s": self.groups,
            "g": {name: "".join(codes) for name, codes in self.others.items()},
            "starts": self.starts,
            "chunks": self.chunks,
            "flags": self.flags,
            "pieces": self.pieces,
        }

    def rates(self) -> dict[int, float]:
        """Return the share of right samples of each problem that has graded ones."""
        found, start = {}, 0
        for problem, count in zip(self.problems, self.counts, strict=True):
            codes = self.outcomes[start : start + count]
            n_graded = codes.count("0") + codes.count("1")
            if n_graded:
                found[problem] = codes.count("1") / n_graded
            start += count
        return found


@dataclass(slots=True)
class TaskSamples:
    """One task over all runs."""

    id: str
    problems: dict[str, int] = field(default_factory=dict)
    """Number of each problem, in the order shown."""
    groups: dict[str, int] = field(default_factory=dict)
    """Number of each strategy or answer."""
    names_solutions: bool = False
    """Whether a grader names solutions, so that groups of right samples are strategies."""
    runs: list[Columns] = field(default_factory=list)

    def problem(self, name: str) -> int:
        return self.problems.setdefault(name, len(self.problems))

    def group(self, name: str | None) -> int:
        return -1 if name is None or len(name) > LONGEST_KEY else self.groups.setdefault(name, len(self.groups))


@dataclass(frozen=True, slots=True)
class Known:
    """Facts about problems that flags depend on."""

    right: Mapping[tuple[str, str], frozenset[str]]
    """Answers that are known to be right, by task and problem."""
    statements: Mapping[str, Mapping[str, str]]
    """Texts of problems by task."""


@dataclass(slots=True)
class _Sample:
    """Places of the lines of one sample, and what its columns need."""

    finish: str = "failed"
    n_tokens: int = 0
    text: Place | None = None
    verdict: Place | None = None
    outcome: str = ""
    is_extracted: bool = False
    group: int = -1
    others: dict[str, tuple[str, str]] | None = None


def add_run(
    run: RunReader,
    number: int,
    tasks: dict[str, TaskSamples],
    chunks: ChunkWriter,
    known: Known,
    most_tokens: int,
) -> None:
    """Add the samples of an evaluation to its tasks."""
    graders = {task: _own_grader(run, task) for task in task_ids(run)}
    with no_collections():
        found = _read_completions(run, graders)
        _read_verdicts(run, graders, found, tasks)
    _read_strategies(run, found, tasks)
    for task, samples in found.items():
        if samples:
            shown = tasks.setdefault(task, TaskSamples(task))
            pieces = TokenTexts([run_config(run).model], most_tokens // len(found))
            columns = Columns(number, graders[task])
            _fill(columns, run, shown, samples, SampleChunks(chunks), pieces, known)
            shown.runs.append(columns)


def _own_grader(run: RunReader, task: str) -> str:
    """Return the recorded grader of a task; in folders that do not name it, the first that gave verdicts."""
    recorded = run.record.data.get(task, {}).get("grader")
    return str(recorded if recorded is not None else grader_of(run, task)).partition(", ")[0]


# --- first pass: which lines count ------------------------------------------------------------------------------


def _read_completions(run: RunReader, graders: Mapping[str, str]) -> dict[str, dict[Key, _Sample]]:
    found: dict[str, dict[Key, _Sample]] = {task: {} for task in graders}
    decode, most = line_decoder(CompletionLine), run_config(run).n
    names: dict[str, str] = {}

    def add(line: bytes, offset: int) -> None:
        row = decode(line)
        if row.task in found and (most is None or row.index < most):
            name = names.setdefault(row.problem_id, row.problem_id)
            sample = _Sample(row.finish_reason, row.tokens.n_completion, (offset, len(line)))
            found[row.task][name, row.index] = sample

    for_each_line(run.lines("completions.jsonl"), add)
    return found


def _read_verdicts(
    run: RunReader,
    graders: Mapping[str, str],
    found: Mapping[str, dict[Key, _Sample]],
    tasks: dict[str, TaskSamples],
) -> None:
    decode, most = line_decoder(VerdictLine), run_config(run).n

    def add(line: bytes, offset: int) -> None:
        row = decode(line)
        if row.task not in found or (most is not None and row.index >= most):
            return
        sample = found[row.task].setdefault((row.problem_id, row.index), _Sample())
        if row.grader != graders[row.task]:
            sample.others = {**(sample.others or {}), row.grader: (row.outcome, row.reason)}
            return
        sample.verdict, sample.outcome = (offset, len(line)), row.outcome
        sample.is_extracted = row.extracted is not None
        task = tasks.setdefault(row.task, TaskSamples(row.task))
        details = bytes(row.details)
        solution = _solution(details)
        task.names_solutions |= solution is not None
        answer = _failure(row) if b'"verdict":' in details else row.extracted
        sample.group = task.group(solution if solution is not None else answer)

    for_each_line(run.lines("verdicts.jsonl"), add)


def _read_strategies(run: RunReader, found: Mapping[str, dict[Key, _Sample]], tasks: Mapping[str, TaskSamples]) -> None:
    """Group right samples by a judge's labels where no grader names solutions: the first labelling of each problem.

    A judge labels each run on its own, so its names say nothing about two runs.
    """
    seen: set[tuple[str, str]] = set()
    for row in read_lines(run.folder / JUDGEMENTS):
        key = (row["task"], row["problem_id"])
        if row["labels"] is None or key in seen or row["task"] not in tasks or tasks[row["task"]].names_solutions:
            continue
        seen.add(key)
        for index, label in zip(row["indices"], row["labels"], strict=True):
            if (sample := found[row["task"]].get((row["problem_id"], index))) is not None:
                sample.group = tasks[row["task"]].group(str(label)[:LONGEST_KEY])


def _failure(row: VerdictLine) -> str:
    """Return the group of a program: the test that it failed and how. Programs themselves are hardly ever equal."""
    return "passes all tests" if row.outcome == "correct" else row.reason


def _solution(details: bytes) -> str | None:
    if b'"solution"' not in details:
        return None
    found = parse_line(details)
    solution = found.get("solution") if isinstance(found, dict) else None
    return solution if isinstance(solution, str) else None


# --- second pass: columns and texts -----------------------------------------------------------------------------


def _fill(
    columns: Columns,
    run: RunReader,
    task: TaskSamples,
    samples: Mapping[Key, _Sample],
    texts: SampleChunks,
    pieces: TokenTexts,
    known: Known,
) -> None:
    ordered = sorted(samples, key=lambda key: (task.problem(key[0]), key[1]))
    names = sorted({name for sample in samples.values() for name in sample.others or ()})
    columns.others = {name: [] for name in names}
    for key, row in zip(ordered, _rows(run, [samples[key] for key in ordered], pieces), strict=True):
        _append(columns, task.problems[key[0]], key[1], samples[key])
        columns.flags.append(_flags(task.id, key[0], samples[key], row, known))
        texts.add(row)
    texts.close()
    columns.starts, columns.chunks, columns.pieces = texts.starts, texts.numbers, pieces.to_plain()


def _append(columns: Columns, problem: int, index: int, sample: _Sample) -> None:
    if columns.problems and columns.problems[-1] == problem:
        columns.counts[-1] += 1
    else:
        columns.problems.append(problem)
        columns.counts.append(1)
    columns.indices.append(index)
    columns.outcomes.append(CODES.get(sample.outcome, NO_VERDICT))
    columns.finish.append(FINISH[sample.finish])
    columns.extracted.append("1" if sample.is_extracted else "0")
    columns.tokens.append(sample.n_tokens)
    columns.groups.append(sample.group)
    for name, codes in columns.others.items():
        codes.append(CODES[(sample.others or {})[name][0]] if name in (sample.others or {}) else NO_VERDICT)


def _flags(task: str, problem: str, sample: _Sample, row: Sequence[Any], known: Known) -> int:
    flagged = flags_of(
        Sample(
            text=row[0],
            finish_reason=sample.finish,
            outcome=sample.outcome,
            extracted=row[1],
            others={name: outcome for name, (outcome, _) in (sample.others or {}).items()},
            right_answers=known.right.get((task, problem), frozenset()),
            statement=known.statements.get(task, {}).get(problem),
        )
    )
    return sum(_BITS[name] for name in flagged)


_BITS = {name: 1 << place for place, name in enumerate(FLAGS)}


def _rows(run: RunReader, samples: Sequence[_Sample], pieces: TokenTexts) -> Iterator[list[Any]]:
    """Yield text, extracted answer, reason, reward, details, other verdicts, likelihoods and tokens of each sample."""
    with _Lines(run.folder / "completions.jsonl") as completions, _Lines(run.folder / "verdicts.jsonl") as verdicts:
        for sample in samples:
            completion, verdict = completions.read(sample.text), verdicts.read(sample.verdict)
            yield [
                completion.get("text", ""),
                verdict.get("extracted"),
                verdict.get("reason", ""),
                verdict.get("reward"),
                verdict.get("details") or 0,
                sample.others or 0,
                completion.get("likelihoods") or 0,
                pieces.row(completion.get("tokens", {}), completion.get("index", 0)),
            ]


class _Lines:
    """A file of lines, read at given places."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._file is not None:
            os.close(self._file)

    def read(self, place: Place | None) -> dict[str, Any]:
        if place is None:
            return {}
        if self._file is None:
            self._file = open_regular(self._path, os.O_RDONLY)
        try:
            row: dict[str, Any] = parse_line(os.pread(self._file, place[1], place[0]))
        except (ValueError, RecursionError) as error:  # the first pass skips what it does not keep
            raise altered_in_use(self._path, place[0], error) from None
        return row


def group_names(task: TaskSamples) -> list[str]:
    """Return the strategies and answers by number, safe to show."""
    return [printable(name) for name in task.groups]
