"""Run folders that another version, or a kill, left in another state, with checksums that fit."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.cli import main
from harness.runs import schema
from harness.runs.folder import RunReader

SCRIPTED = """
tasks = ["countdown"]
n = 3
limit = 4
[model]
path = "countdown-tiny"
[engine]
id = "scripted"
replies = {replies}
"""
REPLIES = ["4*9=36;36+2=38", "nonsense", "Answer: 5"]


def scripted_run(folder: Path, replies: Sequence[str] = REPLIES) -> Path:
    """Evaluate countdown with an engine that repeats three replies, and return the run folder."""
    (folder / "c.toml").write_text(SCRIPTED.format(replies=json.dumps(replies)))
    assert main(["eval", "--config", str(folder / "c.toml"), "--out", str(folder / "run"), "--quiet"]) == 0
    return folder / "run"


def change_record(folder: Path, **changes: Any) -> None:
    """Change fields of run.json."""
    record = dataclasses.replace(RunReader.read(folder).record, **changes)
    (folder / "run.json").write_text(schema.record_to_json(record))


def replace_text(folder: Path, name: str, text: str) -> None:
    """Replace a file whose digest run.json keeps."""
    (folder / name).write_text(text)
    change_record(folder, files={**RunReader.read(folder).record.files, name: [schema.digest(text)]})
