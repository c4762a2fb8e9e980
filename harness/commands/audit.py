"""Show where the graders of a run disagree.

Only the run folder is read. `harness grade RUN --grader g` adds a grader to it.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.commands import DONE
from harness.commands.base.arguments import JsonArguments, add_json, integer
from harness.commands.base.output import print_result
from harness.core.errors import UsageError
from harness.core.types import Completion, Table, Verdict
from harness.reports.render import to_terminal
from harness.runs.folder import RunReader
from harness.runs.schema import Key

EXAMPLE = "harness audit runs/a --show 20"
SHOWN_CHARACTERS = 400
REASONS = ("no answer", "truncated", "several answers")

Verdicts = Mapping[Key, Verdict]
Texts = Mapping[Key, Completion]
Row = tuple[str | int | None, ...]


class Arguments(JsonArguments):
    run: Path
    show: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, help="a run folder that `harness grade` may have given more graders")
    parser.add_argument("--show", type=integer, default=5, help="so many disagreements with their texts (default: 5)")
    add_json(parser)


def run(args: Arguments) -> int:
    found = audit(RunReader.read(args.run), args.show)
    tables = [table for table in (found.rates, found.agreement) if table.rows]
    print_result(args, asdict(found), "\n\n".join([*map(to_terminal, tables), disagreements_text(found)]))
    return DONE


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One completion that two graders judge differently, with the end of its text."""

    task: str
    problem_id: str
    index: int
    verdicts: Mapping[str, str]
    """The outcome, the reason and the extracted answer, by grader."""
    text: str


@dataclass(frozen=True, slots=True)
class Audit:
    rates: Table
    agreement: Table
    disagreements: tuple[Disagreement, ...]
    n_disagreements: int
    n_compared: int
    """Completions that two graders or more could grade."""
    nothing_compared: str
    """Why no completion could be compared, and what to do; empty if some were."""


def audit(view: RunReader, n_shown: int) -> Audit:
    """Tabulate the verdicts of every grader and of every pair, with the first disagreements."""
    graders = view.graders()
    if not graders:
        raise UsageError(f"{view.folder} has no verdicts yet; run `harness grade {view.folder}`")
    verdicts = {grader: view.verdicts(grader) for grader in graders}
    texts = {(task, c.problem_id, c.index): c for task, c in view.completions()}
    tasks = sorted({task for task, _, _ in texts})
    found = list(_disagreements(verdicts, texts))
    n_compared = sum(len(by_grader) > 1 for _, _, by_grader in _graded_by(verdicts, texts))
    return Audit(
        _rates(tasks, verdicts, texts),
        _agreement(tasks, verdicts),
        tuple(found[:n_shown]),
        len(found),
        n_compared,
        _why_nothing(view.folder, graders) if n_compared == 0 else "",
    )


def _why_nothing(folder: Path, graders: Sequence[str]) -> str:
    if len(graders) == 1:
        return (
            f"nothing to compare: {folder} has the verdicts of one grader, {graders[0]}; `harness grade {folder} "
            "--grader ID` adds another (`harness list graders`)"
        )
    return (
        f"nothing to compare: no completion was graded by two of {', '.join(graders)}, as the others' verdicts are "
        "ungraded or on other completions; the table above has their numbers"
    )


def disagreements_text(found: Audit) -> str:
    """Return the disagreements as text for a terminal, or why there can't be any."""
    if found.nothing_compared:
        return found.nothing_compared
    blocks = [f"disagreements: {found.n_disagreements}" + _cut(len(found.disagreements), found.n_disagreements)]
    for item in found.disagreements:
        verdicts = [f"  {grader}: {verdict}" for grader, verdict in item.verdicts.items()]
        text = "\n".join(f"  | {line}" for line in item.text.splitlines())
        blocks.append("\n".join([f"{item.task} {item.problem_id}[{item.index}]", *verdicts, text]))
    return "\n\n".join(blocks)


def _cut(n_shown: int, n_all: int) -> str:
    return f", the first {n_shown} shown" if n_shown < n_all else ""


# --- tables --------------------------------------------------------------------------------------------------------


def _rates(tasks: Sequence[str], verdicts: Mapping[str, Verdicts], texts: Texts) -> Table:
    columns = ("task", "grader", "completions", "correct", "incorrect", "ungraded", *REASONS, "cut off")
    rows: list[Row] = []
    for task, (grader, found) in itertools.product(tasks, verdicts.items()):
        graded = [(texts[key], verdict) for key, verdict in found.items() if key[0] == task and key in texts]
        if not graded:
            continue
        outcomes = Counter(verdict.outcome for _, verdict in graded)
        reasons = Counter(verdict.reason for _, verdict in graded)
        n_cut = sum(completion.finish_reason == "length" for completion, _ in graded)
        counts = [outcomes["correct"], outcomes["incorrect"], outcomes["ungraded"]]
        counts += [*(reasons[reason] for reason in REASONS), n_cut]
        rows.append((task, grader, len(graded), *(f"{count / len(graded):.1%}" for count in counts)))
    notes = (
        "Shares of the grader's completions. `no answer` is the rate of format failure: a reply that ended by itself "
        "and holds no answer that the grader can find. `cut off` counts replies that reached the token limit.",
    )
    return Table("verdicts by grader", columns, tuple(rows), notes)


def _agreement(tasks: Sequence[str], verdicts: Mapping[str, Verdicts]) -> Table:
    columns = ("task", "first", "second", "both correct", "only first", "only second", "neither", "ungraded", "agree")
    rows: list[Row] = []
    for task, (first, second) in itertools.product(tasks, itertools.combinations(verdicts, 2)):
        shared = [key for key in verdicts[first] if key in verdicts[second] and key[0] == task]
        pairs = [(verdicts[first][key].outcome, verdicts[second][key].outcome) for key in shared]
        graded = [(a == "correct", b == "correct") for a, b in pairs if "ungraded" not in (a, b)]
        cells = [graded.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))]
        share = f"{(cells[0] + cells[3]) / len(graded):.1%}" if graded else None
        if shared:
            rows.append((task, first, second, *cells, len(pairs) - len(graded), share))
    return Table(
        "agreement of the graders",
        columns,
        tuple(rows),
        ("`ungraded` counts completions that one of the two could not grade; no other cell does.",),
    )


# --- disagreements ----------------------------------------------------------------------------------------------


def _disagreements(verdicts: Mapping[str, Verdicts], texts: Texts) -> Iterator[Disagreement]:
    """Yield completions on which two graders disagree, in order. An ungraded verdict disagrees with none."""
    for key, completion, graded in _graded_by(verdicts, texts):
        if len({verdict.outcome for verdict in graded.values()}) > 1:
            every = {grader: found[key] for grader, found in verdicts.items() if key in found}
            texts_of = {grader: _verdict_text(verdict) for grader, verdict in every.items()}
            yield Disagreement(*key, texts_of, completion.text[-SHOWN_CHARACTERS:])


def _graded_by(
    verdicts: Mapping[str, Verdicts], texts: Texts
) -> Iterator[tuple[Key, Completion, Mapping[str, Verdict]]]:
    """Yield each completion with the verdicts of the graders that could grade it."""
    for key, completion in texts.items():
        found = {grader: of_grader[key] for grader, of_grader in verdicts.items() if key in of_grader}
        yield key, completion, {grader: verdict for grader, verdict in found.items() if verdict.outcome != "ungraded"}


def _verdict_text(verdict: Verdict) -> str:
    reason = f" ({verdict.reason})" if verdict.reason else ""
    return verdict.outcome + reason + (f", read {verdict.extracted!r}" if verdict.extracted is not None else "")
