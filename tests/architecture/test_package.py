"""The wheel and the sdist contain the whole package under its one name."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SHIPPED = (
    "harness/tasks/countdown.py",
    "harness/trainers/loop.py",
    "harness/trainers/objectives/flowrl.py",
    "harness/trainers/recipes/countdown-flowrl.toml",
    "harness/reports/tables/__init__.py",
    "harness/models/countdown-tiny/config.json",
    "harness/models/countdown-tiny/model.safetensors",
    "harness/models/countdown-tiny/tokenizer.json",
    "harness/models/steps-tiny/model.safetensors",
)


def _build(source: Path, out: Path, *options: str) -> Path:
    command = [sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", str(out), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    """The wheel as a release makes it: from the sdist."""
    for package in ("build", "hatchling"):
        pytest.importorskip(package, reason=f"{package} is not installed; `tox -e package` runs this")
    return _build(checkout, tmp_path_factory.mktemp("release"))


def _names(wheel):
    return set(zipfile.ZipFile(wheel).namelist())


def test_wheel_installs_no_generic_package_names(wheel):
    tops = {name.partition("/")[0] for name in _names(wheel)}
    assert tops == {"harness", f"{wheel.name.removesuffix('-py3-none-any.whl')}.dist-info"}


def test_the_whole_package_is_shipped(wheel, checkout):
    shipped = {name for name in _names(wheel) if name.startswith("harness/")}
    # os.walk, since it can follow the links
    folders = os.walk(checkout / "harness", followlinks=True)
    files = {(Path(folder) / name).relative_to(checkout).as_posix() for folder, _, names in folders for name in names}
    assert shipped == {name for name in files if "__pycache__" not in name}
    assert shipped >= set(SHIPPED)


def test_the_sdist_makes_the_wheel_of_the_checkout(wheel, checkout, tmp_path):
    direct = _build(checkout, tmp_path, "--wheel")
    assert direct.name == wheel.name
    from_sdist, from_checkout = zipfile.ZipFile(wheel), zipfile.ZipFile(direct)
    assert {name: from_sdist.read(name) for name in from_sdist.namelist()} == {
        name: from_checkout.read(name) for name in from_checkout.namelist()
    }


def test_the_wheel_has_the_command_and_the_licence(wheel):
    archive = zipfile.ZipFile(wheel)
    (points,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
    assert "harness = harness.cli:main" in archive.read(points).decode()
    (licence,) = (name for name in archive.namelist() if name.endswith("/LICENSE"))
    assert b"Apache License" in archive.read(licence)
