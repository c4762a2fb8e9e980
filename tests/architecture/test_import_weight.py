"""Importing is free: questions about the harness load nothing that computes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

KINDS = ("tasks", "engines", "graders", "metrics", "advantages", "objectives", "backends", "tables")
# Made of torch, and imported only when chosen.
TENSOR_MODULES = {
    f"harness.engines.hf.{name}" for name in ("attention", "batch", "cache", "decode", "sampling", "scoring")
} | {
    # They train, so they need the configs of trainers. A report reads a study through the others.
    f"harness.study.{name}"
    for name in ("cells", "exact_target", "fairness", "pricing", "report", "resources", "study", "tuning")
}

CALL_THEN_TELL = """
import json, sys
before = set(sys.modules)
{call}
loaded = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(json.dumps(sorted(loaded - set(sys.stdlib_module_names))), file=sys.stderr)
"""


def _loaded_by(python, call, cwd):
    """Top-level modules outside the standard library that `call` loads into a fresh interpreter."""
    done = python("-c", CALL_THEN_TELL.format(call=call), cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done, set(json.loads(done.stderr.splitlines()[-1]))


def _command(*arguments):
    return f"""
import harness.cli
try:
    status = harness.cli.main({list(arguments)!r})
except SystemExit as leaving:
    status = leaving.code
assert status == 0, status
"""


def test_importing_the_package_loads_only_itself(tmp_path, python):
    assert _loaded_by(python, "import harness", tmp_path)[1] == {"harness"}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"]])
def test_help_loads_nothing_installed(tmp_path, python, arguments):
    done, loaded = _loaded_by(python, _command(*arguments), tmp_path)
    assert "harness" in done.stdout
    assert loaded == {"harness"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_listing_loads_nothing_installed(tmp_path, python, kind):
    done, loaded = _loaded_by(python, _command("list", kind), tmp_path)
    assert done.stdout.strip()
    assert loaded == {"harness"}


@pytest.mark.parametrize("task", ["aime24", "minerva", "gpqa", "simpleqa", "hle"])
def test_showing_a_task_does_not_load_its_reader(tmp_path, python, task):
    """No tensors, no `datasets`, not even the reader of parquet files; of the hub's client, where its cache is."""
    done, loaded = _loaded_by(python, _command("show", task), tmp_path)
    assert "fingerprint" in done.stdout or task == "hle"
    assert loaded <= {"harness", "huggingface_hub"}


def test_rows_are_read_without_tensors_or_datasets(tmp_path, python, monkeypatch):
    from official_shapes import wiki, write

    monkeypatch.setenv("HARNESS_DATA_DIR", str(tmp_path))
    rows = [{"problem": "p", "answer": "1", "url": wiki(2024, "AIME_I", 1)}]
    write(tmp_path / "HuggingFaceH4/aime_2024/data/train-00000-of-00001.parquet", rows)
    loaded = _loaded_by(python, _command("show", "aime24", "--problem", "0"), tmp_path)[1]
    assert "pyarrow" in loaded
    assert not loaded & {"torch", "transformers", "datasets", "pandas", "sympy", "math_verify", "httpx", "httpx2"}


def test_only_training_and_its_engine_load_tensors(checkout, tmp_path, python):
    """Lazily, that is: a module may import torch inside a function. A report needs no GPU stack, ever."""
    modules = [name for name in _modules(checkout / "harness", "harness") if name not in TENSOR_MODULES]
    assert {"harness.evaluation.loop", "harness.models.loading", "harness.engines.scripted", "harness.reports"} <= set(
        modules
    )
    loaded = _loaded_by(python, "\n".join(f"import {name}" for name in modules), tmp_path)[1]
    assert not loaded & {"torch", "transformers", "pandas"}


def _modules(folder: Path, package: str):
    """Every module below a folder but the trainers' and the entry point."""
    for path in sorted(folder.iterdir()):
        name = f"{package}.{path.stem}"
        if name in ("harness.trainers", "harness.__main__") or path.name == "__pycache__":
            continue
        if (path / "__init__.py").exists():
            yield name
            yield from _modules(path, name)
        elif path.suffix == ".py" and path.stem != "__init__":
            yield name
