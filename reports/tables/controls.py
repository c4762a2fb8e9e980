"""Controls: a trained model next to what else may explain its gain over the base model, paired by problem."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.core.protocols import TableBuilder
from harness.core.types import Table
from harness.reports.compare import compared
from harness.reports.paired_values import RATE, Measured, mean_with_interval, measure, pairs
from harness.reports.run_config import subtable
from harness.reports.run_facts import Cell, model_of, sampling_setting, task_ids, unfinished
from harness.reports.with_base import Controlled, controlled
from harness.runs.folder import RunReader

FAILURES = ("no answer", "truncated")
LEADING = ("task", "run", "control", "choice", "temperature")
LESS = "trained less this"


class Controls(TableBuilder[RunReader]):
    """One row for the trained model and one for each control of `harness eval --controls`, for each task.

    The differences are the trained model less the control, over the problems of both. `no answer` and `truncated` are
    the failures of format.
    """

    def build(self, runs: Sequence[RunReader]) -> Sequence[Table]:
        return [_table(one, task) for one in controlled(runs) for task in task_ids(one.trained[0])]


def _table(one: Controlled, task: str) -> Table:
    from harness.stats.paired_tests import holm  # numpy

    run, label = one.trained
    mine = [(control, mark) for control, mark in one.controls if task in task_ids(control[0])]
    trained = _measure(run, task)
    others = [_measure(control[0], task) for control, _ in mine]
    widest = _widest(trained, others)
    rows: list[dict[str, Cell]] = [{**_leading(run, task, label, None), **_values(trained, widest)}]
    for ((control, name), mark), values in zip(mine, others, strict=True):
        rows.append(
            {**_leading(control, task, name, mark), **_values(values, widest), **_less(task, values, trained, widest)}
        )
    known = [row for row in rows if row.get("p") is not None]
    for row, p in zip(known, holm([float(str(row["p"])) for row in known]), strict=True):
        row["p (Holm)"] = p
    columns = [
        *LEADING,
        *(name for name in (RATE, widest, LESS, "p", "p (Holm)", f"{LESS}, {widest}", *FAILURES) if name is not None),
    ]
    shown = [column for column in columns if any(row.get(column) is not None for row in rows)]
    cells = tuple(tuple(row.get(column) for column in shown) for row in rows)
    every = [one.trained, *(control for control, _ in mine)]
    return Table(
        f"Controls of {model_of(run)} on {task}", tuple(shown), cells, (*unfinished(every), *_notes(one, task))
    )


def _measure(run: RunReader, task: str) -> Measured:
    return measure(run, [task], None, None, also=("no_answer", "truncated"))[task]


def _widest(trained: Measured, others: Sequence[Measured]) -> str | None:
    """Return the pass@k of the largest k that all runs have; None without one above 1."""
    shared = [name for name in trained.values if all(name in other.values for other in others)]
    ks = [int(name.removeprefix("pass@")) for name in shared if name.startswith("pass@")]
    return f"pass@{max(ks)}" if max(ks, default=1) > 1 else None


def _leading(run: RunReader, task: str, label: str, mark: Mapping[str, Any] | None) -> dict[str, Cell]:
    kinds = [str(mark["kind"]), *map(str, mark.get("also", []))] if mark is not None else ["trained"]
    choice = subtable(mark, "chosen").get(task) if mark is not None else None
    temperature = sampling_setting(run, task, "temperature")
    return dict(zip(LEADING, (task, label, " = ".join(kinds), choice, temperature), strict=True))


def _values(measured: Measured, widest: str | None) -> dict[str, Cell]:
    names = [name for name in (RATE, widest, *FAILURES) if name is not None]
    return {name: mean_with_interval(name, measured) for name in names}


def _less(task: str, control: Measured, trained: Measured, widest: str | None) -> dict[str, Cell]:
    """Return the differences of the trained model from a control, and the p-value of that of the rate."""
    rows = {paired.metric: compared(paired) for paired in pairs(task, [control], [trained])}
    rate = rows.get(RATE, {})
    cells: dict[str, Cell] = {LESS: rate.get("difference"), "p": rate.get("p")}
    return {**cells, f"{LESS}, {widest}": rows.get(str(widest), {}).get("difference")}


# --- notes ------------------------------------------------------------------------------------------------------


def _notes(one: Controlled, task: str) -> Iterator[str]:
    yield (
        "Differences are the trained model less the control on the same problems, with 95% intervals over problems; p "
        "by the sign-flip test, and after Holm over the controls. A control that equals the trained model explains its "
        "gain."
    )
    for (run, label), mark in one.controls:
        if task in subtable(mark, "rates"):
            yield _of_prompt(label, mark, task)
        if task in subtable(mark, "tried"):
            yield _of_temperature(label, mark, task)
        for kind, tasks in subtable(mark, "refused").items():
            if task in tasks:
                yield f"NOT RUN: {kind}: {tasks[task]}"
        if task not in task_ids(run):
            yield f"NOT RUN: {label} does not have {task}"


def _of_prompt(label: str, mark: Mapping[str, Any], task: str) -> str:
    rates = mark["rates"][task]
    shown = ", ".join(f"{name} {rate:.3f}" for name, rate in rates.items())
    left_out = subtable(subtable(mark, "left out"), task)
    more = f" Left out: {'; '.join(f'{name} ({why})' for name, why in left_out.items())}." if left_out else ""
    return (
        f"{label}: {len(rates)} prompts on {mark['problems'][task]} {mark['split']} problems x {mark['samples']} "
        f"samples: {shown}. Chosen: {mark['rule']}: {mark['chosen'][task]} ({mark['prompt'][task]}).{more}"
    )


def _of_temperature(label: str, mark: Mapping[str, Any], task: str) -> str:
    tried = ", ".join(f"{entropy:.4f} at {temperature:g}" for temperature, entropy in mark["tried"][task])
    alarm = "NOT MATCHED: " if task in mark["not matched"] else ""
    return (
        f"{alarm}{label}: mean token entropy {mark['entropy'][task]:.4f} nats at temperature "
        f"{mark['temperature'][task]:g}, target {mark['target'][task]:.4f}, on {mark['problems']} "
        f"{mark['split'][task]} problems x {mark['samples']} samples, tolerance {mark['tolerance']:g}; tried: {tried}."
    )


TABLE = Controls
