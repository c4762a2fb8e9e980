"""docs/training.md names every setting, and none that there is not."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from harness.core import config as configs
from harness.trainers.settings import TrainConfig

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


def keys(schema: Any, where: str = "", *, is_incidental: bool = False) -> dict[str, bool]:
    """Every key, and whether a run may change it on resuming."""
    found = {}
    types = configs._types_of(schema)
    for field in dataclasses.fields(schema):
        is_free = is_incidental or field.metadata.get("incidental", False)
        if dataclasses.is_dataclass(types[field.name]) and "plugin" not in field.metadata:
            found |= keys(types[field.name], f"{where}{field.name}.", is_incidental=is_free)
        elif where or "plugin" not in field.metadata:
            found[where + field.name] = is_free
    return found


def named(first: str, last: str) -> list[tuple[str, bool]]:
    """Names in the first column of the tables between two headings, and whether they carry a star."""
    lines = PAGE[PAGE.index(f"## {first}") : PAGE.index(f"## {last}")].splitlines()
    cells = [line.split("|")[1] for line in lines if line.startswith("| `")]
    return [(name, bool(star)) for cell in cells for name, star in re.findall(r"`([a-z_.0-9]+)`( \*)?", cell)]


def test_every_setting_is_there_and_says_whether_it_may_change() -> None:
    told = dict(named("Settings", "The record"))
    thresholds = set(re.findall(r"`(warnings\.[a-z_]+)`", PAGE[PAGE.index("## Warnings") :]))
    expected = {key: is_free for key, is_free in keys(TrainConfig).items() if key not in thresholds or key in told}
    assert told == expected
