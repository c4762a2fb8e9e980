"""One command, several evaluations: every model at every temperature, each in a run folder of its own.

All are checked before any model is loaded, and a model is loaded once for all its temperatures.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core import config as configs
from harness.core.config import Tree
from harness.core.errors import ConfigError, RunFolderError
from harness.core.progress import Progress
from harness.evaluation.config import EvalConfig
from harness.evaluation.loop import Evaluation, checked_setup, evaluate_all
from harness.evaluation.presets import resolve_config
from harness.evaluation.setup import EvalSetup


@dataclass(frozen=True, slots=True)
class EvalRun:
    """One evaluation of a sweep, and its run folder."""

    name: str
    config: EvalConfig
    folder: Path


def sweep(models: Sequence[str], temperatures: Sequence[float]) -> list[Tree]:
    """Return the settings in which the evaluations differ, model by model; one empty tree if nothing is given."""
    of_model: list[Tree] = [{"model": {"path": model}} for model in models] or [{}]
    of_temperature: list[Tree] = [{"sampling": {"temperature": t}} for t in temperatures] or [{}]
    return [configs.merge(*pair) for pair in itertools.product(of_model, of_temperature)]


def eval_runs(several: Sequence[Tree], out: Path | None, default: Callable[[EvalConfig], Path]) -> list[EvalRun]:
    """Parse the evaluations and name their folders. `out` is the run folder of one, or the parent of several."""
    parsed = [resolve_config(settings) for settings in several]
    names = _names(parsed)
    if len(parsed) == 1 or out is None:
        folders = [out if out is not None else default(config) for config in parsed]
    elif (out / "run.json").exists():
        raise RunFolderError(
            f"{out} is a run, and several evaluations need a folder of their own; choose another --out"
        )
    else:
        folders = [out / name for name in names]
    if len(set(folders)) < len(folders):
        raise ConfigError("two of the evaluations are the same; name each model and each temperature once")
    return [EvalRun(name, config, folder) for name, config, folder in zip(names, parsed, folders, strict=True)]


def evaluate_runs(runs: Sequence[EvalRun], progress: Progress) -> Iterator[Evaluation]:
    """Yield the evaluations as they end. If a check of one fails, none runs."""
    labels = [f"[{number}/{len(runs)}] {run.name}: " if len(runs) > 1 else "" for number, run in enumerate(runs, 1)]
    setups = [checked_setup(run.config, run.folder, progress, label) for run, label in zip(runs, labels, strict=True)]
    for _, group in itertools.groupby(setups, key=_model_and_engine):
        yield from evaluate_all(list(group), progress)


def _model_and_engine(setup: EvalSetup) -> tuple[object, object]:
    return setup.source, setup.config.engine


def _names(every: Sequence[EvalConfig]) -> list[str]:
    """Return model name and temperature of each; the model's whole path if two models have the same name."""
    paths = {config.model.path for config in every}
    short = {path: Path(path).name for path in paths}
    is_enough = len(set(short.values())) == len(paths)
    return [
        (short[config.model.path] if is_enough else config.model.path.strip("/").replace("/", "--"))
        + (f"-T{config.sampling.temperature:g}" if config.sampling.temperature is not None else "")
        for config in every
    ]
