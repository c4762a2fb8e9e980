"""The folder that programs write in: empty for each, bounded, and gone in the end, however that end came about."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from harness.core.errors import SandboxError
from harness.core.types import Limits, Program
from harness.sandbox import Level, Pool, strongest
from harness.sandbox.inside import tmpdir

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is for Linux")

LIMITS = Limits(cpu_s=2.0, wall_s=5.0, memory_bytes=256 << 20)
NOTE = Program("open('note', 'w').write('x' * 5000)\nprint(open('note').read().count('x'))")
LIST = Program("import os\nprint(sorted(os.listdir('.')))")
KEEP = Program("import time\nopen('note', 'w').write('x')\ntime.sleep(60)")
WRITING = [level for level in Level if level != Level.SEALED]
ON_DISK = [Level.LIMITS, Level.LANDLOCK]


@pytest.fixture(params=WRITING, ids=lambda level: level.title)
def pool(request, own_temporary_folder):
    yield from opened(request.param)


@pytest.fixture(params=ON_DISK, ids=lambda level: level.title)
def pool_on_disk(request, own_temporary_folder):
    yield from opened(request.param)


def opened(level):
    if level > strongest()[0]:
        pytest.skip(f"this machine has no {level.title}")
    made = Pool(level, 1)
    yield made
    made.close()


@pytest.fixture
def own_temporary_folder(monkeypatch):
    """Where a worker that gave up root can write too."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o1777)
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)


def test_files_of_a_program_can_be_read_by_it_alone(pool):
    for _ in range(2):
        assert pool.run(NOTE, b"", LIMITS).stdout == b"5000\n"
        assert pool.run(LIST, b"", LIMITS).stdout == b"[]\n"


def test_files_of_a_killed_program_are_removed(pool):
    ended = pool.run(KEEP, b"", Limits(cpu_s=1.0, wall_s=0.4, memory_bytes=256 << 20))
    assert ended.status == "wall_limit"
    assert pool.run(LIST, b"", LIMITS).stdout == b"[]\n"


@pytest.mark.parametrize(
    "source",
    [
        "for n in range(10**6): open(f'f{n}', 'w').close()",
        "for n in range(10**6): open(f'f{n}', 'wb').write(b'x' * 10**6)",
        "import os\nfor n in range(10**6): os.mkdir('d'); os.chdir('d')",
    ],
    ids=["many files", "large files", "deep folders"],
)
def test_folder_of_a_program_is_bounded(pool, source):
    """Up to 16 MiB and 1024 files: either the kernel refuses more, or the program is ended."""
    ended = pool.run(Program(source), b"", LIMITS)
    refused = ended.status == "exited" and ended.exit_code == 1 and b"OSError" in ended.stderr
    assert refused or ended.status == "output_limit"
    assert pool.run(LIST, b"", LIMITS).stdout == b"[]\n"


def test_sandbox_leaves_no_files_after_closing(pool, own_temporary_folder):
    pool.run(NOTE, b"", LIMITS)
    pool.close()
    assert list(own_temporary_folder.iterdir()) == []


def test_killed_worker_leaves_no_folder(pool_on_disk, own_temporary_folder):
    pool_on_disk.run(NOTE, b"", LIMITS)
    (worker,) = pool_on_disk._idle
    os.kill(worker.pid, signal.SIGKILL)
    assert pool_on_disk.run(NOTE, b"", LIMITS).stdout == b"5000\n"
    assert len(list(own_temporary_folder.iterdir())) == 1
    pool_on_disk.close()
    assert list(own_temporary_folder.iterdir()) == []


def start_judge(level, folder):
    """Another process, with a program that is writing."""
    source = (
        "import sys\nfrom harness.sandbox import Level, Pool\nfrom harness.core.types import Limits, Program\n"
        f"made = Pool(Level.{level.name}, 1)\nmade.run(Program(''), b'', Limits(1, 1, 1 << 28))\n"
        f"print(made._idle[0].pid, flush=True)\nmade.run(Program({KEEP.source!r}), b'', Limits(60, 60, 1 << 28))\n"
    )
    root = Path(__file__).parents[2]
    judge = subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, cwd=root, env={**os.environ, "TMPDIR": str(folder)}
    )
    worker = int(judge.stdout.readline())
    wait_for(lambda: any(folder.glob("*/note")))
    return judge, worker


def wait_for(condition):
    until = time.monotonic() + 20
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
    assert condition()


@pytest.mark.parametrize("level", ON_DISK, ids=lambda level: level.title)
def test_killed_judge_leaves_no_folder(level, own_temporary_folder):
    if level > strongest()[0]:
        pytest.skip(f"this machine has no {level.title}")
    judge, _ = start_judge(level, own_temporary_folder)
    judge.kill()
    judge.communicate()
    wait_for(lambda: list(own_temporary_folder.iterdir()) == [])


def test_folder_left_by_killed_judge_and_worker_is_removed_by_the_next(own_temporary_folder, monkeypatch):
    judge, worker = start_judge(Level.LIMITS, own_temporary_folder)
    inside = int(Path(f"/proc/{worker}/task/{worker}/children").read_text())
    os.kill(inside, signal.SIGSTOP)  # so that it can't clean up
    judge.kill()
    judge.communicate()
    os.kill(inside, signal.SIGKILL)
    (left,) = own_temporary_folder.iterdir()
    wait_for(lambda: not is_locked(left))
    (own_temporary_folder / "another").mkdir()
    monkeypatch.setattr(tmpdir, "_OLD_S", 0.0)
    monkeypatch.chdir("/")
    mine = tmpdir.FolderScratch(str(own_temporary_folder))
    assert {path.name for path in own_temporary_folder.iterdir()} == {"another", Path(mine.path).name}
    theirs = tmpdir.FolderScratch(str(own_temporary_folder))  # one that is in use stays
    assert Path(mine.path).exists()
    for each in (mine, theirs):
        each.remove()
    assert [path.name for path in own_temporary_folder.iterdir()] == ["another"]


def is_locked(path):
    try:
        os.close(tmpdir._locked(str(path)))
    except OSError:
        return True
    return False


def test_only_folders_of_workers_are_removed(tmp_path):
    with pytest.raises(ValueError, match="not a folder of a worker"):
        tmpdir.remove_if_left(str(tmp_path))
    assert tmp_path.exists()


def test_folder_tree_of_any_depth_is_removed(tmp_path):
    here = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(3000):
            os.mkdir("d", 0o700)
            os.chdir("d")
            Path("file").write_text("x")
    finally:
        os.chdir(here)
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked" / "inner").mkdir(mode=0)
    (tmp_path / "locked").chmod(0)
    (tmp_path / "link").symlink_to("/")
    tmpdir.empty(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_missing_space_for_the_folder_is_reported_without_a_verdict(own_temporary_folder, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(own_temporary_folder / "missing"))
    made = Pool(Level.LIMITS, 1)
    with pytest.raises(SandboxError, match=r"No such file.*missing"):
        made.run(NOTE, b"", LIMITS)
    made.close()


@pytest.mark.parametrize("level", ON_DISK, ids=lambda level: level.title)
def test_a_full_disk_is_the_program_s_error_and_leaves_nothing(level, own_temporary_folder):
    if level > strongest()[0]:
        pytest.skip(f"this machine has no {level.title}")
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=1777", "none", str(own_temporary_folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a small disk can be mounted by root alone")
    try:
        made = Pool(level, 1)
        for _ in range(2):
            ended = made.run(Program("open('f', 'w').write('x' * 10**6)"), b"", LIMITS)
            assert (ended.status, ended.exit_code) == ("exited", 1)
            assert b"No space left" in ended.stderr
            assert made.run(NOTE, b"", LIMITS).stdout == b"5000\n"
        made.close()
        assert list(own_temporary_folder.iterdir()) == []
    finally:
        subprocess.run(["umount", str(own_temporary_folder)], check=True)
