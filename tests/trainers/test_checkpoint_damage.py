"""Damaged checkpoints: a changed byte is noticed when the checkpoint is evaluated, trained further or converted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from training import recipe

from harness.cli import main
from harness.core.errors import ModelError, RunFolderError
from harness.core.progress import Progress
from harness.core.protocols import ModelSource
from harness.models.digests import FILE, check_digests
from harness.models.loading import load_module
from harness.trainers.train import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(recipe("countdown-grpo", loop={"steps": 1}), folder, Progress(quiet=True))
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def checkpoint_of(run: Path) -> Path:
    return run / "checkpoints" / "step-000001"


def flip(path: Path, place: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0.3, 0.5, 0.999])
def test_a_flipped_bit_in_the_weights_is_noticed(place: float, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_module(ModelSource(str(checkpoint_of(run))))
    flip(checkpoint_of(run) / "model.safetensors", place)
    evaluation = ["eval", str(run), "--tasks", "countdown", "--n", "1", "--limit", "1", "--quiet"]
    assert main([*evaluation, "--out", str(run.parent / "eval")]) == 2
    assert "model.safetensors does not have the digest in digests.json" in capsys.readouterr().err
    assert not (run.parent / "eval").exists()
    with pytest.raises(ModelError, match="does not have the digest"):
        train(recipe("countdown-grpo", loop={"steps": 2}), run, Progress(quiet=True))


@pytest.mark.parametrize("name", ["training_state.pt", "config.json", "tokenizer.json"])
def test_a_flipped_bit_in_another_file_is_noticed_when_training_goes_on(name: str, run: Path) -> None:
    flip(checkpoint_of(run) / name, 0.5)
    with pytest.raises((ModelError, RunFolderError), match=name.replace(".", r"\.")):
        train(recipe("countdown-grpo", loop={"steps": 2}), run, Progress(quiet=True))


STATES: dict[str, Any] = {
    "empty": b"",
    "text": b"not a pickle",
    "zeros": bytes(5000),
    "pickle": b"cos\nsystem\n(S'touch /tmp/ran'\ntR.",
    "null": None,
    "list": [1, 2],
    "no keys": {},
    "step of text": {"step": "x", "n_problems_drawn": 0},
    "nothing but the position": {"step": 1, "n_problems_drawn": 8},
}


@pytest.mark.parametrize("name", STATES)
def test_an_altered_training_state_without_digests_is_one_clear_error(name: str, run: Path) -> None:
    """As an earlier version wrote it, or as one who removed the digests left it."""
    (checkpoint_of(run) / FILE).unlink()
    path = checkpoint_of(run) / "training_state.pt"
    if isinstance(STATES[name], bytes):
        path.write_bytes(STATES[name])
    else:
        torch.save(STATES[name], path)
    with pytest.raises(RunFolderError, match=r"training_state\.pt can't be (read|understood).*remove this checkpoint"):
        train(recipe("countdown-grpo", loop={"steps": 2}), run, Progress(quiet=True))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', "[" * 99_999])
def test_unreadable_digests_are_one_clear_error(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ModelError, match=r"digests\.json can't be read"):
        check_digests(tmp_path)


def test_a_file_that_was_removed_is_not_missed(run: Path) -> None:
    (checkpoint_of(run) / "training_state.pt").unlink()
    load_module(ModelSource(str(checkpoint_of(run))))
