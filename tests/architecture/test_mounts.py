"""The folders tasks, trainers and reports are part of the package, under one name each."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import harness

MOUNTED = ("tasks", "trainers", "reports")


@pytest.mark.parametrize("folder", MOUNTED)
def test_a_mount_is_a_relative_link(checkout, folder):
    assert (checkout / "harness" / folder).readlink() == Path("..") / folder


@pytest.mark.parametrize("folder", MOUNTED)
def test_a_mounted_folder_refuses_its_own_name(checkout, python, folder):
    refused = python("-c", f"import {folder}", cwd=checkout)
    assert refused.returncode == 1
    assert refused.stderr.endswith(f"mounted into the package: import harness.{folder}\n")


def test_no_file_is_loaded_under_two_names(checkout, python):
    # Not vacuous: three mounted packages and a module of each of two are asked for, and must be there.
    wanted = ["harness.tasks.countdown", "harness.trainers.config", "harness.reports", "harness.reports.tables"]
    code = (
        f"import {', '.join(wanted)}\n"
        "import json, os, sys\n"
        "files = {n: os.path.realpath(m.__file__) for n, m in sys.modules.items() if getattr(m, '__file__', None)}\n"
        "print(json.dumps(files))"
    )
    loaded = json.loads(python("-c", code, cwd=checkout).stdout)
    folders = [(checkout / folder).resolve() for folder in ("harness", *MOUNTED)]
    ours = {name: file for name, file in loaded.items() if any(Path(file).is_relative_to(f) for f in folders)}
    assert set(wanted) <= set(ours)
    assert all(name.partition(".")[0] == "harness" for name in ours)
    assert len(set(ours.values())) == len(ours)


@pytest.mark.parametrize("left", ["nothing", "a text file"])
@pytest.mark.parametrize(
    ("folder", "kind"),
    [("tasks", "tasks"), ("trainers", "objectives"), ("trainers", "advantages"), ("reports", "tables")],
)
def test_lost_link_error_explains_the_remedy(copied_checkout, python, folder, kind, left):
    link = copied_checkout / "harness" / folder
    link.unlink()
    if left == "a text file":  # what git leaves where it may not make links
        link.write_text(f"../{folder}")
    listing = python("-m", "harness", "list", kind, cwd=copied_checkout.parent, on_path=copied_checkout)
    assert listing.returncode == 2
    assert listing.stdout == ""
    assert str(link) in listing.stderr
    assert "symbolic links" in listing.stderr
    assert "Traceback" not in listing.stderr


def test_tox_tests_the_shipped_package(checkout):
    """The tests see the installed wheel, not the sources next to them."""
    if not os.environ.get("TOX_ENV_NAME", "").startswith("py3"):
        pytest.skip("only tox's environments py3* install the wheel")
    file = Path(harness.__file__)
    assert file.is_relative_to(os.environ["TOX_ENV_DIR"])
    assert not file.is_relative_to(checkout / "harness")
