"""Checkpoints: a Hugging Face model directory that anything can load, with the training state in it.

    checkpoints/step-000160/   config.json, model.safetensors, tokenizer files ...
                               training_state.pt: position in the data, optimiser, the objective's own parameters,
                               KL controller, reference resets
                               reference.pt: the weights of the reference, once it is no longer the base model
                               adapter/: the LoRA adapters; the model has them merged

A checkpoint is written under another name and renamed when it is complete, so a kill never leaves half of one. The
parameters of the objective have an entry of their own: they were never in the policy, so exports and weight sync need
no filter. There is no random state: all randomness derives from the seed of the run and the step.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from harness.core.errors import RunFolderError
from harness.models.digests import write_digests
from harness.models.loading import CHECKPOINT_PREFIX, checkpoint_folders
from harness.runs.jsonl import disk_error

_STATE = "training_state.pt"
_REFERENCE = "reference.pt"  # not safetensors, of which some loaders take all that they find
_TEMPORARY = ".tmp"


@dataclass(frozen=True, slots=True)
class Position:
    """The position of a run: steps done, problems drawn from the task."""

    step: int
    n_problems_drawn: int


class Checkpoints:
    """The checkpoints of one run folder; the newest `keep` of them stay."""

    def __init__(self, run_folder: Path, keep: int) -> None:
        self._folder = run_folder / "checkpoints"
        self._run_folder = run_folder
        self._keep = keep

    def newest(self) -> Path | None:
        found = checkpoint_folders(self._run_folder)
        return found[-1] if found else None

    def temporary(self, position: Position) -> Path:
        """Return where a checkpoint is written until it is complete."""
        return self._folder / f"{CHECKPOINT_PREFIX}{position.step:06d}{_TEMPORARY}"

    def save(
        self, position: Position, state: Mapping[str, Any], policy: Any, tokenizer: Any, reference: Any = None
    ) -> Path:
        """Save the policy with the training state. `reference` is the module of one that is not the base model."""
        temporary = self.temporary(position)
        final = temporary.with_suffix("")
        saved = {**state, "step": position.step, "n_problems_drawn": position.n_problems_drawn}
        try:
            self._clear_unfinished()
            temporary.mkdir(parents=True)
            policy.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            torch.save(saved, temporary / _STATE)
            if reference is not None:
                torch.save(reference.state_dict(), temporary / _REFERENCE)
            write_digests(temporary)
            _sync(temporary)
            temporary.rename(final)
            _sync_one(self._folder)
            self._prune()
        except (OSError, RuntimeError, SafetensorError) as error:
            # torch and safetensors raise errors of their own for a full disk.
            shutil.rmtree(temporary, ignore_errors=True)
            raise disk_error(final, error) from error
        return final

    def restore(self, checkpoint: Path, reference: Any = None) -> tuple[Position, Mapping[str, Any]]:
        """Return the position and the training state; the policy's weights are loaded like any model's.

        `reference` is the module of the reference. It keeps its weights where the checkpoint has none for it.
        """
        state = _load(checkpoint / _STATE)
        with explaining_damage(checkpoint):
            position = Position(int(state["step"]), int(state["n_problems_drawn"]))
            if reference is not None and (checkpoint / _REFERENCE).exists():
                reference.load_state_dict(_load(checkpoint / _REFERENCE))
        return position, state

    def _prune(self) -> None:
        for folder in checkpoint_folders(self._run_folder)[: -self._keep]:
            # Renamed first, so that a kill does not leave a checkpoint with files missing.
            shutil.rmtree(folder.rename(folder.with_name(folder.name + _TEMPORARY)))

    def _clear_unfinished(self) -> None:
        for folder in self._folder.glob("*" + _TEMPORARY):
            shutil.rmtree(folder)


def _load(path: Path) -> Any:
    try:
        return torch.load(path, weights_only=True)
    except Exception as error:  # damaged files raise many types of errors
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise RunFolderError(f"{path} can't be read: {reason}; remove this checkpoint") from None


@contextlib.contextmanager
def explaining_damage(checkpoint: Path) -> Iterator[None]:
    """Raise RunFolderError where a part of the training state is missing or has another type or shape."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise RunFolderError(
            f"{checkpoint / _STATE} can't be understood ({reason}): it was altered; remove this checkpoint"
        ) from None


def _sync(folder: Path) -> None:
    """Flush to disk before the rename, so that a power cut never leaves a checkpoint with empty files."""
    for path in (*folder.rglob("*"), folder):
        _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
