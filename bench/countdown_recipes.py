"""Train every countdown recipe for some steps, and compare with its initial model on the same held-out problems.

    python bench/countdown_recipes.py --steps 24 --folder runs/recipes

Each is trained, evaluated and compared by the command line: 96 problems of the validation split, 16 samples each,
paired, with an interval over problems. `countdown-base` starts from random weights, so it gets `SUPERVISED` steps.
Repeating the command resumes; `--recipes` selects some.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from harness.cli import main
from harness.commands import DONE
from harness.core import config as configs
from harness.core.recipes import recipes
from harness.runs.folder import RunReader

SUPERVISED = 320
ASKED = ("--tasks", "countdown", "--split", "validation", "--limit", "96", "--n", "16", "--quiet")


def harness(*words: str) -> str:
    """Run the command and return its output."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = main([*words])
    if code != DONE:
        sys.exit(code)  # it has printed the reason
    return printed.getvalue()


def trained(recipe: str, steps: int, folder: Path) -> None:
    settings = [f"loop.steps={steps}", f"checkpoint.every_steps={steps}"]
    if configs.read_toml(recipes()[recipe]).get("optimizer", {}).get("decay_steps") is not None:
        settings.append(f"optimizer.decay_steps={steps}")
    harness("train", recipe, *(word for s in settings for word in ("--set", s)), "--quiet", "--out", str(folder))


def compared(recipe: str, steps: int, folder: Path) -> dict[str, Any]:
    """Return the row of `harness compare`, trained less base, with the step metrics added."""
    base = "random" if recipe == "countdown-base" else "pretrained"
    run, base_eval, run_eval = folder / recipe, folder / f"{base}-eval", folder / f"{recipe}-eval"
    trained(recipe, SUPERVISED if base == "random" else steps, run)
    harness("eval", "countdown-tiny", *ASKED, "--set", f"model.weights={base}", "--out", str(base_eval))
    harness("eval", str(run), *ASKED, "--out", str(run_eval))
    words = ("compare", str(base_eval), str(run_eval), "--metric", "avg@16", "--anyway", "--json")
    row: dict[str, Any] = json.loads(harness(*words))[0]["rows"][0]
    solved = [step["solve_rate"] for step in RunReader.read(run).steps()]
    return {**row, "steps": len(solved), "begin": statistics.fmean(solved[:5]), "end": statistics.fmean(solved[-5:])}


def table() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--recipes", nargs="+", default=[name for name in recipes() if name.startswith("countdown-")])
    asked = parser.parse_args()
    print("| recipe | steps | solve rate of the first and last five | held out: before | after | difference |")
    print("|---|---|---|---|---|---|")
    for recipe in asked.recipes:
        row = compared(recipe, asked.steps, asked.folder)
        rise = row["difference"]
        print(
            f"| `{recipe}` | {row['steps']} | {row['begin']:.2f}, {row['end']:.2f} | {row['first']:.3f} "
            f"| {row['second']:.3f} | {rise['value']:+.3f} [{rise['low']:+.3f}, {rise['high']:+.3f}] |",
            flush=True,
        )


if __name__ == "__main__":
    table()
