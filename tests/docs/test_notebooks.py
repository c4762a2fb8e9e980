"""The notebooks of the documentation: their code runs in order, and they are stored without outputs.

`tox -e notebook` executes them in Jupyter.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from doc_pages import ROOT, offline_environment

import harness

NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))
PAGE = ROOT / "docs" / "reference" / "python-api.md"


def code_of(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_code_of_a_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code_of(notebook))],
        cwd=tmp_path,
        env={**offline_environment(tmp_path), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(notebook: Path) -> None:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if "outputs" in cell)


def test_the_notebook_and_the_page_use_every_function_of_the_api() -> None:
    functions = {name for name in harness.__all__ if name.islower()}
    code = "\n".join(line for notebook in NOTEBOOKS for line in code_of(notebook))
    assert set(re.findall(r"harness\.(\w+)\(", code)) == functions
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in harness.__all__ if f"`{name}`" not in page] == []


def test_the_page_lists_the_columns_of_the_frames(tmp_path: Path) -> None:
    engine = {"id": "scripted", "replies": ["no"]}
    run = harness.evaluate("countdown-tiny", "countdown", engine=engine, n=1, limit=1, out=tmp_path / "a", quiet=True)
    page = PAGE.read_text(encoding="utf-8")
    for method in ("completions", "verdicts", "estimates"):
        columns = re.search(rf"^\| `{method}\(\)` \|.*\| (.*) \|$", page, re.MULTILINE)
        assert columns is not None
        assert re.findall(r"`(\w+)`", columns[1]) == list(getattr(run, method)().columns)
