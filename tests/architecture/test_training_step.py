"""The length of a training step for its reader: a step is traced, and modules and functions entered are counted."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from training import recipe, run

from harness.trainers import loop, step_metrics

MOST_MODULES = 9
MOST_LINES = 1000
ROOT = Path(loop.__file__).resolve().parent


@pytest.mark.parametrize("name", ["countdown-grpo", "countdown-flowrl"])
def test_a_training_step_is_read_in_few_modules_and_lines(name: str, tmp_path: Path) -> None:
    lines = lines_by_module(functions_of_a_step(name, tmp_path))
    assert "loop.py" in lines and "policy/model.py" in lines
    assert len(lines) <= MOST_MODULES, (
        f"a reader of one step opens {sorted(lines)}: keep together what a step reads together, and leave to other "
        "modules what it does not enter (docs/decisions/010-modules-of-a-step.md)"
    )
    assert sum(lines.values()) <= MOST_LINES


def functions_of_a_step(name: str, folder: Path) -> set[CodeType]:
    """Return every function of trainers/ that two steps enter, from the draw of problems to the record."""
    entered: set[CodeType] = set()

    def note(frame: Any, event: str, _: Any) -> None:
        if event == "call":
            entered.add(frame.f_code)

    def traced(method: Any) -> Any:
        def call(*arguments: Any) -> Any:
            sys.setprofile(note)
            try:
                return method(*arguments)
            finally:
                sys.setprofile(None)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, method in ((loop.Trainer, "_step"), (step_metrics.StepRecorder, "record")):
            patch.setattr(owner, method, traced(getattr(owner, method)))
        run(recipe(name, loop={"steps": 2}), folder / "run")
    return entered


def lines_by_module(functions: set[CodeType]) -> dict[str, int]:
    lines: dict[str, int] = {}
    for module, code in in_trainers(functions):
        lines[module] = lines.get(module, 0) + len(inspect.getsourcelines(code)[0])
    return lines


def in_trainers(functions: set[CodeType]) -> Iterator[tuple[str, CodeType]]:
    """Yield (module, function); lambdas and comprehensions are lines of the function around them."""
    for code in functions:
        file = Path(code.co_filename).resolve()
        if ROOT in file.parents and file.name != "__init__.py" and not code.co_name.startswith("<"):
            yield file.relative_to(ROOT).as_posix(), code
