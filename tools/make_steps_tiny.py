"""Make the bundled model `steps-tiny`: two phases of supervised training, then a folder with the model's files.

    python tools/make_steps_tiny.py --out DIR    # about 12 minutes of one core; DIR/steps-tiny is the model

The first phase is the recipe `steps-base`, from random weights. The second continues it at a lower learning rate with
fewer demonstrations that do not aim at the target. Repeating the command resumes.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from harness.cli import main
from harness.commands import DONE
from harness.models.loading import newest_checkpoint

SECOND = (
    "model.weights=pretrained",
    "task.sloppiness=0.1",
    "loop.steps=400",
    "optimizer.lr=1.5e-3",
    "optimizer.warmup_steps=20",
    "optimizer.decay_steps=400",
    "seed=1",
)
OF_TRAINING = ("training_state.pt", "digests.json")


def train(out: Path, *settings: str) -> None:
    code = main(["train", "steps-base", *(word for s in settings for word in ("--set", s)), "--out", str(out)])
    if code != DONE:
        sys.exit(code)  # it has printed the reason


def make(out: Path) -> None:
    train(out / "first")
    train(out / "second", f"model.path={out / 'first'}", *SECOND)
    ignored = shutil.ignore_patterns(*OF_TRAINING)
    shutil.copytree(newest_checkpoint(out / "second"), out / "steps-tiny", ignore=ignored, dirs_exist_ok=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    make(parser.parse_args().out)
