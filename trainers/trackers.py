"""Experiment trackers for the step metrics: TensorBoard, Weights & Biases and trackio, in addition to steps.jsonl."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from harness.core.errors import MissingExtraError
from harness.core.types import RunRecord
from harness.trainers.config import TrackConfig


class Tracker(Protocol):
    def resume(self, record: RunRecord, step: int) -> None:
        """Drop what was logged after this step; those steps are repeated."""
        ...

    def log(self, row: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Writes event files into the run folder, for `tensorboard --logdir RUN`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def resume(self, record: RunRecord, step: int) -> None:  # noqa: ARG002  # the folder is the run's own
        from tensorboardX import SummaryWriter

        # Names have a resolution of one second; the suffix keeps two files of one second apart.
        self._writer = SummaryWriter(
            str(self._folder / "tensorboard"), purge_step=step + 1, filename_suffix=f".from-{step + 1}"
        )

    def log(self, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(f"train/{name}", value, int(row["step"]))
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class Hosted:
    """Logs to wandb or trackio, two packages with the same interface."""

    def __init__(self, package: str, project: str, folder: Path, config: Mapping[str, Any]) -> None:
        try:
            self._package = importlib.import_module(package)
        except ImportError:
            raise MissingExtraError(f"track.{package} needs the package {package}: pip install {package}") from None
        self._project, self._folder, self._config = project, folder, config
        self._run: Any = None

    def resume(self, record: RunRecord, step: int) -> None:  # noqa: ARG002  # both ignore a step that was logged before
        unique = unique_name(record)
        options = {"id": unique, "dir": str(self._folder)} if self._package.__name__ == "wandb" else {}
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            self._run = self._package.init(
                project=self._project, name=unique, config=dict(self._config), resume="allow", **options
            )

    def log(self, row: Mapping[str, float]) -> None:
        self._run.log({name: value for name, value in row.items() if name != "step"}, step=int(row["step"]))

    def close(self) -> None:
        if self._run is not None:
            with contextlib.redirect_stdout(sys.stderr):
                self._package.finish()  # run.finish() would make trackio finish again at exit, and print to stdout


def unique_name(record: RunRecord) -> str:
    """Return a name that is unique in a project and stays the same when the run folder is moved."""
    start = hashlib.sha256(f"{record.created} {record.config_digest}".encode()).hexdigest()
    return f"{record.id}-{start[:8]}"


def make_trackers(config: TrackConfig, folder: Path, run_config: Mapping[str, Any]) -> Sequence[Tracker]:
    trackers: list[Tracker] = []
    if config.tensorboard:
        trackers.append(TensorBoard(folder))
    for package, project in (("wandb", config.wandb), ("trackio", config.trackio)):
        if project is not None:
            trackers.append(Hosted(package, project, folder, run_config))
    return trackers
