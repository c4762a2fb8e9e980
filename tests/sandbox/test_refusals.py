"""Bad input and machines that lack what the sandbox is made of: a verdict or a clear error."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import harness.sandbox
from harness.core.errors import SandboxError, UsageError
from harness.core.types import Limits, Program
from harness.sandbox import Level, isolation, open_pool, pool, strongest
from harness.sandbox.inside import landlock, syscalls
from harness.sandbox.worker import Worker

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is for Linux")

LIMITS = Limits(cpu_s=2.0, wall_s=10.0, memory_bytes=512 << 20)


@pytest.fixture(autouse=True)
def _fresh_probe():
    strongest.cache_clear()
    yield
    strongest.cache_clear()


class Machine:
    """Starts workers up to a level alone, as a kernel without the rest would."""

    def __init__(self, has):
        self.has = has

    def __call__(self, level):
        if level > self.has:
            raise SandboxError(f"the kernel has no {level.title}")
        return self

    def close(self):
        pass


@pytest.mark.parametrize("has", list(Level), ids=lambda level: level.title)
def test_strongest_working_level_is_chosen_and_the_others_explained(monkeypatch, has):
    monkeypatch.setattr(pool, "Worker", Machine(has))
    level, failures = strongest()
    assert level == has
    assert failures == tuple(
        (more, f"the kernel has no {more.title}") for more in sorted(Level, reverse=True) if more > has
    )


def test_a_machine_without_seccomp_is_refused_unless_asked(monkeypatch):
    monkeypatch.setattr(pool, "Worker", Machine(Level.LIMITS))
    with pytest.raises(UsageError, match=r"(?s)the kernel has no sealed.*least_level"):
        open_pool()
    assert open_pool(Level.LIMITS).level is Level.LIMITS


def test_machine_without_any_working_level_is_refused(monkeypatch):
    monkeypatch.setattr(pool, "Worker", Machine(-1))
    with pytest.raises(UsageError, match=r"not even with resource limits alone: the kernel has no limits"):
        strongest()


def test_kernel_with_no_or_old_landlock_is_detected(monkeypatch):
    monkeypatch.setattr(syscalls, "landlock_version", lambda: 0)
    with pytest.raises(OSError, match="no Landlock"):
        landlock.ruleset([], None, [])
    for version, can in ((0, False), (2, False), (3, True), (7, True)):
        monkeypatch.setattr(syscalls, "landlock_version", lambda version=version: version)
        assert landlock.can_hold_writing() is can


def n_descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_a_worker_that_cant_be_started_is_a_failure_of_the_sandbox(monkeypatch):
    monkeypatch.setattr(isolation, "interpreter", lambda: "/nowhere/python")
    n_before = n_descriptors()
    with pytest.raises(SandboxError, match=r"can't be started.*/nowhere/python"):
        Worker(Level.LIMITS)
    assert n_descriptors() == n_before


def test_exhausted_process_resource_is_a_sandbox_failure():
    code = """
import os, resource
from harness.core.errors import SandboxError
from harness.core.types import Limits, Program
from harness.sandbox import Level, Pool
made, program, limits = Pool(Level.SEALED, 1), Program("print(7)"), Limits(2.0, 10.0, 1 << 29)
made.run(program, b"", limits)
n_before, limit = len(os.listdir("/proc/self/fd")), resource.getrlimit(resource.RLIMIT_NOFILE)
for n_more in range(6):
    resource.setrlimit(resource.RLIMIT_NOFILE, (n_before - 1 + n_more, limit[1]))
    try:
        made.run(program, b"", limits)
    except SandboxError:
        pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
assert made.run(program, b"", limits).stdout == b"7\\n"
assert len(os.listdir("/proc/self/fd")) == n_before
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


SOURCES = {
    "empty": ("", "exited"),
    "not unicode": ("x = '\udcff\ud800'", "not_compiled"),
    "a null byte": ("x = 1\0", "not_compiled"),
    "megabytes of comment": ("#" * (8 << 20), "exited"),
    "one long line": ("x = [" + "1," * (1 << 17) + "]", "exited"),
    "too deep for the parser": ("lambda:" * 30_000 + "1", "not_compiled"),
    "another encoding": ("# -*- coding: no-such -*-\nx = 1", "exited"),  # it is text already
}


def seen_in_a_jail(*folders):
    """Return the files in the first of these folders, which are all that is mounted."""
    look = (
        "from inside import namespaces; import os, socket; "
        "ours, asked = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET); "
        "namespaces.enter({0!r}, asked.detach()); print(os.listdir(({0!r} or ['/'])[0]), flush=True)"
    )
    start = f"import sys; sys.path.insert(0, {str(Path(harness.sandbox.__file__).parent)!r}); {look.format(folders)}"
    return subprocess.run([sys.executable, "-I", "-c", start], capture_output=True, text=True, timeout=60)


def test_a_folder_below_the_one_that_becomes_the_root_is_mounted_as_a_folder():
    if seen_in_a_jail().returncode != 0:
        pytest.skip("this machine has no namespaces")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        (Path(folder) / "note").touch()
        seen = seen_in_a_jail(folder)
    assert seen.stdout == "['note']\n", seen.stderr


@pytest.mark.parametrize(("source", "status"), SOURCES.values(), ids=SOURCES)
def test_malformed_sources_end_with_the_expected_status(source, status):
    ended = open_pool().run(Program(source), b"", LIMITS)
    assert ended.status == status


def test_long_prelude_and_long_stdin_are_transferred_completely():
    prelude = f"X = {'x' * 40_000!r}"
    ended = open_pool().run(
        Program("import sys\nprint(len(X), len(sys.stdin.read()))", prelude), b"y" * (4 << 20), LIMITS
    )
    assert ended.stdout == b"40000 4194304\n"


def test_prelude_state_is_not_shared_between_programs():
    """A program's changes to the names of its prelude are invisible to the next program."""
    change = Program("f = None\nimport math\nmath.pi = 3\nsys.setrecursionlimit(77)", "import sys\nf = len")
    look = Program("import math\nprint(f('ab'), math.pi > 3.1, sys.getrecursionlimit() > 900)", "import sys\nf = len")
    for program in (change, change):
        assert open_pool(n_workers=1).run(program, b"", LIMITS).status == "exited"
    assert open_pool(n_workers=1).run(look, b"", LIMITS).stdout == b"2 True True\n"


def test_recursion_limit_is_set_by_the_prelude_alone():
    ask = "import sys\nprint(sys.getrecursionlimit())"
    sandbox = open_pool(n_workers=1)
    raised = Program(ask, "import sys\nsys.setrecursionlimit(50000)")
    assert sandbox.run(raised, b"", LIMITS).stdout == b"50000\n"
    for prelude in ("", "import re  # another"):
        assert sandbox.run(Program(ask, prelude), b"", LIMITS).stdout == b"1000\n"
