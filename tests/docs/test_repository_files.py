"""The files that contributors and hosting services expect: CITATION.cff, the CI workflow, the README."""

from __future__ import annotations

import configparser
import re
import subprocess
from pathlib import Path

import pytest
from doc_pages import ROOT, offline_environment

pytest.importorskip("mkdocs", reason="the documentation is tested by `tox -e docs`")

import yaml

import harness

WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == harness.__version__
    assert citation.keys() >= {"message", "title", "authors"}


def test_the_workflow_runs_the_default_environments_of_tox() -> None:
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    default = {name.strip() for name in tox["tox"]["env_list"].replace("\n", ",").split(",") if name.strip()}
    assert environments("tox") == default


def test_the_workflow_runs_every_environment_of_tox() -> None:
    text = (ROOT / "tox.ini").read_text(encoding="utf-8")
    names = set(re.findall(r"^\[testenv:([\w-]+)\]", text, re.MULTILINE))
    assert names | {"py311", "py312", "py313"} == environments("tox") | environments("heavy")


def environments(job: str) -> set[str]:
    return set(WORKFLOW["jobs"][job]["strategy"]["matrix"]["environment"])


def test_the_smoke_job_runs(tmp_path: Path) -> None:
    commands = [step["run"] for step in WORKFLOW["jobs"]["smoke"]["steps"] if "harness" in step.get("run", "")]
    script = "\n".join(command for command in commands if "pip install" not in command)
    assert script
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=offline_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    kept = WORKFLOW["jobs"]["smoke"]["steps"][-1]["with"]["path"].split()
    assert all((tmp_path / path).exists() for path in kept)


def test_the_readme_fits_on_a_page() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 110
