"""Drop from the originals of a perturbed benchmark, problem by problem: how much a model knows by heart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from harness.core.protocols import TableBuilder
from harness.core.types import Estimate, Table
from harness.reports.compare import IGNORED, NOTED
from harness.reports.paired_values import measure
from harness.reports.protocol_card import card
from harness.reports.run_config import run_config
from harness.reports.run_facts import Cell, Labelled, labelled, model_of, sampling_setting, task_ids, unfinished
from harness.runs.folder import RunReader

TASK, ORIGINAL, METRIC = "math_perturb", "original", "avg_at_k"
OF_THE_DATA = ("source", "data fingerprint", "data rows", "data as recorded", "task options")
COLUMNS = ("model", "temperature", "variant", "problems", "original", "perturbed", "change")
NOTE = (
    "change: mean over problems of perturbed less original, both asked in the same way. A change on `simple` alone "
    "speaks for memory of the originals; on `hard` the problems are harder too. The interval is over problems."
)


class Perturbed(TableBuilder[RunReader]):
    """One row for each model and variant of which there is a run, and a run of the originals with the same protocol."""

    def build(self, runs: Sequence[RunReader]) -> Sequence[Table]:
        evaluations = [(run, label) for run, label in labelled(runs, "eval") if TASK in task_ids(run)]
        rows = tuple(_rows(evaluations))
        notes = (NOTE, *unfinished(evaluations))
        return [Table("Change under perturbation", COLUMNS, rows, notes)] if rows else []


def _rows(evaluations: Sequence[Labelled]) -> Iterator[tuple[Cell, ...]]:
    variants: dict[tuple[str, ...], dict[str, RunReader]] = {}
    for run, _ in evaluations:
        options = dict(_options(run))
        variant = str(options.pop("variant", "hard"))
        variants.setdefault((*_protocol(run), str(sorted(options.items()))), {})[variant] = run
    for found in variants.values():
        if ORIGINAL in found:
            original = found.pop(ORIGINAL)
            leading = (model_of(original), sampling_setting(original, TASK, "temperature"))
            before = _values(original)
            for variant, run in sorted(found.items()):
                yield (*leading, variant, *_change(before, _values(run)))


def _protocol(run: RunReader) -> Iterator[str]:
    """Yield the settings that two paired runs have in common: model, seed, and the protocol but for the data."""
    config, settings = run_config(run), card(run, TASK)
    yield from map(str, (settings["model"], settings["model fingerprint"], config.n, config.seed))
    yield from (f"{name}: {value}" for name, value in settings.items() if name not in (*NOTED, *IGNORED, *OF_THE_DATA))


def _options(run: RunReader) -> Mapping[str, object]:
    chosen = run_config(run).task(TASK)
    return chosen.options if chosen is not None else {}


def _values(run: RunReader) -> Mapping[str, float]:
    """Return each problem's share of right completions."""
    (values,) = measure(run, [TASK], None, METRIC)[TASK].values.values()
    return values


def _change(before: Mapping[str, float], after: Mapping[str, float]) -> tuple[Cell, ...]:
    from harness.stats.paired_tests import difference_interval

    problems = [problem for problem in before if problem in after]
    if not problems:
        return (0, None, None, None)
    n, changes = len(problems), [after[problem] - before[problem] for problem in problems]
    interval = difference_interval(changes)
    change = Estimate("change", sum(changes) / n, interval.low, interval.high, n, 0, 0, interval.method)
    return (n, *(round(sum(values[problem] for problem in problems) / n, 3) for values in (before, after)), change)


TABLE = Perturbed
