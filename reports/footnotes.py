"""Notes below a table of a suite: its protocol, what is missing, what the marks mean, and the runs behind the rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from harness.core.types import Estimate
from harness.reports.methods import checkpoint_step
from harness.reports.power import NO_POWER, no_power
from harness.reports.run_config import run_config, subtable
from harness.reports.run_facts import Cell, labels, trainer_of, unfinished
from harness.reports.suites import Column, Row, Suite
from harness.runs.folder import RunReader
from harness.runs.search import HELD_OUT_FOLDER

MARKS = (
    "In bold: the best of its column; †: not significantly worse than it (Holm over the column, 5%; paired over "
    "problems, with several runs also over runs). Unfinished runs are shown and not ranked."
)
INTERVALS = "[low, high] is a 95% interval over problems, and over runs where a row has several."
ONE_RUN = "Each row is one run: marks and intervals are about these runs and the problems, not about other seeds."
OFF = {"top p": ("None", "1.0"), "top k": ("None", "0"), "min p": ("None", "0.0"), "stop": ("None", "[]")}
ON_CARD = {"prompt form": "prompt", "grader": "grader", "data fingerprint": "data", "tests": "tests"}


def notes(suite: Suite, rows: Sequence[Row], columns: Sequence[Column], *, ranked: bool = True) -> list[str]:
    """Return the notes of a table with these rows and columns, most important first."""
    return [
        *_unfinished(rows),
        *_missing(rows, columns),
        *_ungraded(rows, columns),
        *([MARKS] if ranked and len(rows) > 1 else []),
        *(
            [ONE_RUN]
            if ranked and len(rows) > 1 and all(len(runs) == 1 for r in rows for runs in r.runs.values())
            else []
        ),
        INTERVALS,
        protocol(suite, columns),
        *_deviations(rows),
        *(line for row in rows if (line := training(row)) is not None),
        runs_line(rows),
    ]


def _has_seeds(rows: Sequence[Row]) -> bool:
    return any(len(runs) > 1 for row in rows for runs in row.runs.values())


def protocol(suite: Suite, columns: Sequence[Column]) -> str:
    """Return the protocol card in a line: the shared settings, then those of each benchmark."""
    shared = ", ".join(
        f"{name} {value}" for name, value in suite.settings.items() if str(value) not in OFF.get(name, ("None",))
    )
    own = "; ".join(f"{column.title}: {_card(suite.cards[column])}" for column in columns)
    return f"Protocol: {shared}. {own}."


def _card(settings: Mapping[str, Cell]) -> str:
    shown = [(word, settings.get(name)) for name, word in ON_CARD.items()]
    options = settings.get("task options")
    return ", ".join([*(f"{word} {value}" for word, value in shown if value), *([str(options)] if options else [])])


def _unfinished(rows: Sequence[Row]) -> list[str]:
    runs = _runs(rows)
    return unfinished(list(zip(runs, labels(runs), strict=True)))


def _runs(rows: Sequence[Row]) -> list[RunReader]:
    return list({run.folder: run for row in rows for run in row.all_runs}.values())


def _missing(rows: Sequence[Row], columns: Sequence[Column]) -> Iterator[str]:
    """Yield a line on the runs that a complete table would have."""
    absent, fewer = [], []
    most = {column: max((len(row.runs.get(column, ())) for row in rows), default=0) for column in columns}
    for row in rows:
        for column in columns:
            n_runs = len(row.runs.get(column, ()))
            if n_runs == 0:
                absent.append(f"{row.label} on {column.title}")
            elif n_runs < most[column]:
                fewer.append(f"{row.label} on {column.title} ({n_runs} of {most[column]})")
    if absent:
        yield f"MISSING under this protocol: {'; '.join(absent)}."
    if fewer:
        yield f"FEWER SEEDS than other rows: {'; '.join(fewer)}."


def _ungraded(rows: Sequence[Row], columns: Sequence[Column]) -> Iterator[str]:
    counts = [
        f"{n} of {row.label} on {column.title}"
        for row in rows
        for column in columns
        if (n := sum(int(samples.n_ungraded.sum()) for samples in row.samples(column)))
    ]
    if counts:
        yield f"UNGRADED completions, in no number: {'; '.join(counts)}."


def without_power(rows: Sequence[Row], cells: Mapping[str, Sequence[Estimate | None]]) -> list[str]:
    """Return a line for each column in which all rows are at the ceiling or all at the floor."""
    lines = []
    for title, column in cells.items():
        reasons = [no_power(cell.value) for cell in column if cell is not None]
        if len(rows) and reasons and all(reasons):
            lines.append(f"{NO_POWER}: {title}: every row is {reasons[0]}")
    return lines


def _deviations(rows: Sequence[Row]) -> list[str]:
    runs = _runs(rows)
    lines: dict[str, list[str]] = {}
    for run, label in zip(runs, labels(runs), strict=True):
        config = run_config(run)
        if config.preset is not None and config.deviations:
            lines.setdefault(f"from preset {config.preset}: {'; '.join(config.deviations)}", []).append(label)
    return [f"DEVIATES {line} ({', '.join(names)})." for line, names in lines.items()]


# --- the training behind a row ------------------------------------------------------------------------------------


def training(row: Row) -> str | None:
    """Return which checkpoint a row is of, how it was chosen, and the rollouts per training problem."""
    if not row.trainers:
        return None
    run = row.all_runs[0]
    trainer = trainer_of(run)
    assert trainer is not None
    parts = [checkpoint(run, trainer)]
    rollouts = [number for one in row.trainers if (number := rollouts_per_problem(one)) is not None]
    if rollouts:
        parts.append(f"{sum(rollouts) / len(rollouts):.4g} rollouts per training problem")
    n = len(row.trainers)
    return f"{row.label}: {', '.join(parts)}; {n} training run{'s' if n > 1 else ''}."


def checkpoint(run: RunReader, trainer: RunReader) -> str:
    """Return the rule by which the evaluated checkpoint was chosen, as far as it is on record."""
    step, last = checkpoint_step(run, trainer), run_config(trainer).n_steps
    if step is not None and step == last:
        return f"checkpoint: the last, step {step}"
    n_held_out = len(list((trainer.folder / HELD_OUT_FOLDER).glob("*/run.json")))
    seen = f", of {n_held_out} with held-out evaluations" if n_held_out else ""
    return f"checkpoint: step {step} of {last}{seen}; how it was chosen is not on record"


def rollouts_per_problem(trainer: RunReader) -> float | None:
    """Return the sampled completions per different training problem; None where that is not on record.

    Where fewer prompts were drawn than the data set has rows, each prompt counts as a problem of its own.
    """
    steps, loop = trainer.steps(), subtable(trainer.config(), "loop")
    task = run_config(trainer).tasks
    prompts_per_step = loop.get("prompts_per_step")
    n_completions = [step.get("n_completions") for step in steps]
    if not steps or not isinstance(prompts_per_step, int) or not all(isinstance(n, int) for n in n_completions):
        return None
    n_rows = trainer.record.data.get(task[0].id, {}).get("rows") if task else None
    n_drawn = sum(prompts_per_step * int(step.get("sampling_rounds", 1)) for step in steps)
    n_problems = min(n_drawn, n_rows) if isinstance(n_rows, int) and n_rows > 0 else n_drawn
    return sum(n for n in n_completions if n is not None) / n_problems if n_problems else None


def runs_line(rows: Sequence[Row]) -> str:
    """Return the runs of each row by their ids and config digests."""
    named = [
        f"{row.label}: {', '.join(f'{run.record.id} ({run.record.config_digest})' for run in row.all_runs)}"
        for row in rows
    ]
    return f"Runs: {'; '.join(named)}."


def is_code(cards: Mapping[Column, Mapping[str, Cell]], column: Column) -> bool:
    """Return whether programs were run to judge a benchmark."""
    return bool(cards[column].get("tests")) or column.task in CODE_TASKS


CODE_TASKS = ("livecodebench", "codeforces", "humaneval_plus", "mbpp_plus", "deepcoder")
