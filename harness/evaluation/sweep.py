"""One command, several evaluations: every model at every temperature, each a run folder of its own.

All of them are looked at before any model is loaded, and a model is loaded once for all its temperatures.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.core import config as configs
from harness.core.config import Tree
from harness.core.errors import ConfigError, RunFolderError
from harness.core.progress import Progress
from harness.evaluation import presets
from harness.evaluation.config import EvalConfig
from harness.evaluation.loop import Prepared, evaluate_prepared, prepare
from harness.runs.folder import RunReader


@dataclass(frozen=True, slots=True)
class Cell:
    """One evaluation, and where it goes."""

    name: str
    config: EvalConfig
    folder: Path


def sweep(models: Sequence[str], temperatures: Sequence[float]) -> list[Tree]:
    """The settings that tell the cells apart, model by model; one that sets nothing where nothing is given."""
    of_model: list[Tree] = [{"model": {"path": model}} for model in models] or [{}]
    of_temperature: list[Tree] = [{"sampling": {"temperature": t}} for t in temperatures] or [{}]
    return [configs.merge(*pair) for pair in itertools.product(of_model, of_temperature)]


def cells(several: Sequence[Tree], out: Path | None, default: Callable[[EvalConfig], Path]) -> list[Cell]:
    """Of one evaluation `out` is the run folder; of several it holds them."""
    resolved = [resolve(settings) for settings in several]
    names = _names(resolved)
    if len(resolved) == 1 or out is None:
        folders = [out if out is not None else default(config) for config in resolved]
    elif (out / "run.json").exists():
        raise RunFolderError(
            f"{out} is a run, and several evaluations need a folder of their own; choose another --out"
        )
    else:
        folders = [out / name for name in names]
    if len(set(folders)) < len(folders):
        raise ConfigError("two of the evaluations are the same; name each model and each temperature once")
    return [Cell(name, config, folder) for name, config, folder in zip(names, resolved, folders, strict=True)]


def resolve(given: Tree) -> EvalConfig:
    """The config of one evaluation: what is given over what its preset says, with what is then not as it says."""
    given = {key: value for key, value in given.items() if key != "deviations"}
    name = given.get("preset")
    if name is None or not isinstance(given.get("tasks"), list) or "model" not in given:
        return configs.parse(EvalConfig, given)
    bare: Tree = {key: given[key] for key in ("model", "engine", "preset") if key in given}
    ids = [task["id"] if isinstance(task, dict) else task for task in given["tasks"]]
    published = configs.parse(EvalConfig, presets.apply(name, {**bare, "tasks": ids}))
    config = configs.parse(EvalConfig, presets.apply(name, given))
    told = presets.deviations(name, configs.to_tree(published), configs.to_tree(config))
    return replace(config, deviations=tuple(told))


def evaluate_cells(every: Sequence[Cell], progress: Progress) -> Iterator[RunReader]:
    """The runs as they end. Nothing runs where one of them can be refused beforehand."""
    labels = [
        f"[{number}/{len(every)}] {cell.name}: " if len(every) > 1 else "" for number, cell in enumerate(every, 1)
    ]
    prepared = [
        replace(prepare(cell.config, cell.folder, progress), label=label)
        for cell, label in zip(every, labels, strict=True)
    ]
    for _, group in itertools.groupby(prepared, key=_model_and_engine):
        yield from evaluate_prepared(list(group), progress)


def _model_and_engine(one: Prepared) -> tuple[object, object]:
    return one.source, one.config.engine


def _names(resolved: Sequence[EvalConfig]) -> list[str]:
    """The model's name and the temperature; with the folders before it where two models are called the same."""
    paths = {config.model.path for config in resolved}
    short = {path: Path(path).name for path in paths}
    is_enough = len(set(short.values())) == len(paths)
    return [
        (short[config.model.path] if is_enough else config.model.path.strip("/").replace("/", "--"))
        + (f"-T{config.sampling.temperature:g}" if config.sampling.temperature is not None else "")
        for config in resolved
    ]
