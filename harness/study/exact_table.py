"""The table of exact metrics of a study: its last checkpoints on a task whose every right answer is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.config import parse, parse_plugin
from harness.core.protocols import Task
from harness.core.types import Estimate, Problem, Table
from harness.reports.frontier import Curves
from harness.reports.run_config import run_config
from harness.runs.folder import RunReader
from harness.study.index import EvalCell, read_index

if TYPE_CHECKING:
    from harness.study.exact_target import Exact

MOST_TEXTS = 20_000
"""Right texts of a table: a second or two for each checkpoint of a small model."""
METRICS = {
    "success_rate": "exact pass@1",
    "effective_solutions": "effective solutions",
    "coverage": "coverage",
    "kl_reference": "KL to base",
    "kl_target": "KL to target",
}
"""Metric -> its column."""
NOTES = (
    "Computed from the probability of every right answer at temperature 1, without sampling. KL in nats over the right "
    "answers and one atom for everything else.",
    "effective solutions: exp of the entropy over the solutions of a right answer.",
    "target: base x exp(pull), with the pull that the loss has at this policy's success rate. Arms without a pull to "
    "the base have no target.",
)


def exact_tables(study_folder: Path, curves: Curves) -> list[Table]:
    """Return a table with a row for each arm; none where the task does not enumerate its right answers."""
    cells = [c for c in read_index(study_folder) if c.task == curves.task and c.split == curves.split]
    last = _last_cells(cells, curves)
    models = {cell: _model(study_folder / cell.folder) for of_arm in last.values() for cell in of_arm}
    if not all(Path(model).exists() for cell, model in models.items() if cell.step > 0):
        return []  # the checkpoints were removed after the study
    task = parse_plugin("tasks", _task_settings(study_folder / next(iter(models)).folder, curves.task)).build()
    problems = _problems(task, curves)
    if not problems:
        return []
    rows = []
    for arm, found in _evaluate(task, problems, last, models, curves.k).items():
        cells_of_arm = last[arm]
        estimates = [_estimate(curves, metric, name, found) for metric, name in METRICS.items()]
        rows.append((arm, len(found), cells_of_arm[0].step, *estimates))
    # The distances of the base from itself say nothing.
    rows = [(*row[:-2], None, None) if row[2] == 0 else row for row in rows]
    names = [f"{name}@{curves.k}" if name == "coverage" else name for name in METRICS.values()]
    title = f"Exact metrics of {curves.task}, {len(problems)} {curves.split} problems"
    return [Table(title, ("arm", "seeds", "step", *names), tuple(rows), NOTES)]


def _last_cells(cells: Sequence[EvalCell], curves: Curves) -> dict[str, list[EvalCell]]:
    """Return an evaluation of the last checkpoint of each seed of each arm."""
    found: dict[str, list[EvalCell]] = {}
    for arm, seeds in curves.seeds.items():
        step = max(point.step for point in curves.arms[arm])
        by_seed = {cell.seed: cell for cell in cells if cell.arm == arm and cell.step == step}
        found[arm] = [by_seed[seed] for seed in seeds]
    return found


def _task_settings(folder: Path, task_id: str) -> Mapping[str, Any]:
    """Return the table of a task in the config of an evaluation."""
    task = run_config(RunReader.read(folder)).task(task_id)
    return task.settings() if task is not None else {"id": task_id}


def _problems(task: Task[Any], curves: Curves) -> list[Problem[Any]]:
    """Return problems of the curves, as many as have MOST_TEXTS right texts together; none that are not enumerated."""
    split: Any = curves.split
    wanted = set(curves.problems)
    found: list[Problem[Any]] = []
    n_texts = 0
    for problem in task.problems(split, seed=0) if split != "train" else ():
        if problem.id in wanted:
            n_new = len(task.right_texts(problem))
            n_texts += n_new
            if n_new == 0 or (found and n_texts > MOST_TEXTS):
                break
            found.append(problem)
    return found


def _evaluate(
    task: Task[Any],
    problems: Sequence[Problem[Any]],
    last: Mapping[str, Sequence[EvalCell]],
    models: Mapping[EvalCell, str],
    k: int,
) -> dict[str, list[list[Exact]]]:
    """Return the metrics of each arm, seed and problem."""
    from harness.study.exact_target import ExactEvaluator
    from harness.trainers.config import TrainConfig

    trained = {cell: Path(model).parent.parent for cell, model in models.items() if cell.step > 0}
    configs = {cell: parse(TrainConfig, RunReader.read(folder).config()) for cell, folder in trained.items()}
    base = next(iter(configs.values())).model.path if configs else next(iter(models.values()))
    evaluator = ExactEvaluator(task, problems, base, k)
    return {arm: [evaluator.evaluate(models[cell], configs.get(cell)) for cell in cells] for arm, cells in last.items()}


def _model(folder: Path) -> str:
    model = run_config(RunReader.read(folder)).model
    assert model is not None, "a study evaluates models, and imports nothing"
    return model


def _estimate(curves: Curves, metric: str, name: str, found: Sequence[Sequence[Exact]]) -> Estimate | None:
    import numpy as np

    from harness.stats.frontier import seeded_interval

    values = [[getattr(one, metric) for one in row] for row in found]
    if any(value is None for row in values for value in row):
        return None
    array = np.array(values, dtype=np.float64)
    upper = 1.0 if metric in ("success_rate", "coverage") else max(1.0, 2 * float(array.max()))
    interval = seeded_interval(curves.counted(array), upper)
    return Estimate(name, float(array.mean()), interval.low, interval.high, array.shape[1], 0, 0, interval.method)
