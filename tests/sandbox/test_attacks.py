"""Hostile programs get nothing and break nothing; honest ones are accepted. As this user and as nobody, at every level.

Left out by default, because they take their time limits: what hangs or floods at the weaker levels and as nobody.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import attacks
import pytest

import harness
from harness.core.errors import UsageError
from harness.sandbox import Level, open_pool, strongest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is for Linux")

QUICK, LASTING = ("peek", "act", "forge"), ("hang", "flood", "functions")
LEVELS = [level for level in Level if level >= Level.SEALED]
NOBODY = 65534


def here(level):
    if level > strongest()[0]:
        pytest.skip(f"this machine has no {level.title}")
    return level


def test_attack_suites_have_the_documented_size():
    assert sum(len(attacks.attacks()[group]) for group in QUICK + LASTING) >= 60
    assert sum(map(len, attacks.benign().values())) >= 40


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.title)
def test_attacks_read_no_secrets_and_reach_nothing_outside(level):
    assert attacks.failures_of_attacks(here(level), QUICK) == {}


def test_attacks_that_hang_or_flood_are_stopped():
    assert attacks.failures_of_attacks(strongest()[0], LASTING) == {}


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.title)
def test_honest_programs_are_accepted(level):
    assert attacks.failures_of_benign(here(level)) == {}


def test_honest_programs_are_accepted_without_protections():
    assert attacks.failures_of_benign(Level.LIMITS) == {}


def test_attack_suite_detects_missing_protections():
    """With limits alone the attacks succeed, so they do try what they say."""
    failures = attacks.failures_of_attacks(Level.LIMITS, ("peek",))
    assert {"peek.file", "peek.file_through_libc", "peek.file_through_import", "peek.passwords"} <= set(failures)


@pytest.fixture(scope="module")
def _a_compiler():
    try:
        open_pool(n_workers=1).check("cpp")
    except UsageError as error:
        pytest.skip(str(error))


NATIVE_LEVELS = CHAOS_LEVELS = [
    pytest.param(level, id=level.title, marks=[] if level == Level.NAMESPACES else pytest.mark.slow) for level in LEVELS
]


@pytest.mark.parametrize("level", NATIVE_LEVELS)
@pytest.mark.usefixtures("_a_compiler")
def test_cpp_attacks_fail_and_honest_cpp_programs_are_accepted(level):
    assert attacks.failures_of_native(here(level)) == {}


@pytest.mark.usefixtures("_a_compiler")
def test_compiler_reveals_no_files():
    assert attacks.failures_of_compiling() == {}


@pytest.mark.slow
@pytest.mark.usefixtures("_a_compiler")
def test_cpp_attacks_succeed_without_protections():
    assert set(attacks.failures_of_native(Level.LIMITS)) == {"read_a_file"}


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.title)
def test_long_running_attacks_are_stopped_at_every_level(level):
    assert attacks.failures_of_attacks(here(level), LASTING) == {}


@pytest.mark.parametrize("level", CHAOS_LEVELS)
def test_signals_from_outside_change_no_verdict(level):
    assert attacks.failures_of_chaos(here(level)) == []


@pytest.mark.parametrize(
    "groups",
    [QUICK, pytest.param(LASTING, marks=pytest.mark.slow), pytest.param(("chaos",), marks=pytest.mark.slow)],
    ids=["quick", "lasting", "chaos"],
)
@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.title)
def test_attacks_fail_for_an_unprivileged_user_too(level, groups, readable_python):
    here(level)
    python, copies = readable_python
    command = [python, str(copies / "support/attacks.py"), level.name, *groups]
    environment = {"PYTHONPATH": str(copies), "PATH": "/usr/bin:/bin", "HOME": "/"}
    done = subprocess.run(command, **as_nobody(), env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert not json.loads(done.stdout)


def as_nobody():
    return {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": "/"}


@pytest.fixture(scope="module")
def readable_copies():
    """The package and these programs where every user may read them; the checkout and its environments need not be."""
    with tempfile.TemporaryDirectory() as name:
        copies = Path(name)
        shutil.copytree(
            Path(harness.__file__).parent, copies / "harness", ignore=shutil.ignore_patterns("countdown-tiny")
        )
        for folder in ("support", "sandbox/programs"):
            shutil.copytree(Path(attacks.__file__).parents[1] / folder, copies / folder)
        for path in (copies, *copies.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield copies


@pytest.fixture(scope="module")
def readable_python(readable_copies):
    """An interpreter that nobody can start, and import this package with; and the copy of the package."""
    if os.geteuid() != 0:
        pytest.skip("not root, so every other test runs as an ordinary user already")
    test = "import sys, harness.sandbox; assert sys.version_info >= (3, 11)"
    environment = {"PYTHONPATH": str(readable_copies)}
    for path in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        try:
            tried = subprocess.run([path, "-c", test], **as_nobody(), env=environment, capture_output=True)
        except OSError:
            continue
        if tried.returncode == 0:
            return path, readable_copies
    pytest.skip("no interpreter of this machine can be used by another user together with this package")
    return None
