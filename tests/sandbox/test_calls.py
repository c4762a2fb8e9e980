"""How a function is called: one call at a time, so that its program holds nothing of the calls to come."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from harness.core.errors import SandboxError
from harness.core.types import Call, Limits, Program
from harness.sandbox import Level, Pool, strongest
from harness.sandbox.calls import AnswerWatch
from harness.sandbox.inside import caller, zygote

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is for Linux")

LIMITS = Limits(cpu_s=10.0, wall_s=20.0, memory_bytes=512 << 20)
LEVELS = [level for level in Level if sys.platform == "linux" and level <= strongest()[0]]


@pytest.fixture(params=LEVELS, ids=lambda level: level.title)
def pool(request):
    made = Pool(request.param, 1)
    yield made
    made.close()


def answers(pool, source, *arguments, limits=LIMITS, cpu_s=2.0):
    ended = pool.call(Program(source), "f", [Call(each, cpu_s, 64 << 20) for each in arguments], limits)
    return ended.status, [json.loads(answer.body) for answer in ended.answers]


PEEKING = """
import ctypes, gc, os, sys

def seen():
    os.set_blocking(4, False)
    try: yield os.read(4, 1 << 20)
    except BlockingIOError: pass
    os.set_blocking(4, True)
    frame = sys._getframe()
    while frame:
        yield repr((frame.f_locals, frame.f_globals)).encode()
        frame = frame.f_back
    for thing in gc.get_objects():
        if type(thing) in (list, tuple, dict):
            yield repr(thing).encode()
    for fd in range(40):
        try: yield os.pread(fd, 1 << 20, 0)
        except OSError: pass
    libc, (r, w) = ctypes.CDLL(None), os.pipe()
    start = id(object()) & ~0xFFFFF
    for page in range(start - (8 << 20), start + (8 << 20), 4096):
        if libc.write(w, ctypes.c_void_p(page), 4096) == 4096:
            yield os.read(r, 4096)

def f(word):
    found, mark = set(), b"-".join((b"secret", b""))
    for data in seen():
        for rest in data.split(mark)[1:]:
            found.update(end for end in ("one", "two", "three") if rest.startswith(end.encode()))
    return sorted(found)
"""


def test_a_program_holds_no_arguments_of_later_calls(pool):
    """In what it inherits, in its frames and objects, in its files and in the pages around its objects."""
    status, found = answers(pool, PEEKING, ["secret-one"], ["secret-two"], ["secret-three"])
    assert status == "exited"
    assert "one" in found[0]
    assert set(found[0]) <= {"one"}
    assert "two" in found[1]
    assert set(found[1]) <= {"one", "two"}


def test_program_holds_no_arguments_before_its_call(pool):
    source = PEEKING + "\nbefore = f('')\ndef f(word): return before"
    assert answers(pool, source, ["secret-one"], ["secret-two"]) == ("exited", [[], []])


def test_call_arguments_are_separate_objects(pool):
    row = [0, 0]
    source = "def f(rows, *more):\n    rows[0][0] += 1\n    return [rows, more]"
    status, found = answers(pool, source, [[row, row]], [[row, row], 10**30, 1e300, "\ud83d\ude00", None, True])
    assert status == "exited"
    assert found[0] == [[[1, 0], [0, 0]], {"tuple": []}]
    assert found[1][1] == {"tuple": [10**30, 1e300, "\U0001f600", None, True]}


@pytest.mark.parametrize("n_bytes", [0, 100, 65_530, 65_531, 65_536, 5_000_000])
def test_arguments_and_answers_of_any_size_are_transferred(n_bytes):
    pool = Pool(strongest()[0], 1)
    text = "ab" * (n_bytes // 2)
    status, found = answers(pool, "def f(text): return text[::-1]", [text], ["x"], [text])
    pool.close()
    assert status == "exited"
    assert found == [text[::-1], "x", text[::-1]]


def test_a_thousand_calls_are_answered_in_order(pool):
    status, found = answers(
        pool, "total = 0\ndef f(n):\n    global total\n    total += n\n    return total", *[[1]] * 1000
    )
    assert (status, found) == ("exited", list(range(1, 1001)))


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("import os\nos.write(3, b'loaded' + bytes([4, 0, 0, 0]) * 2)\nwhile True: pass", "cpu_limit"),
        ("import time\ndef f(text):\n    time.sleep(60)", "wall_limit"),
        ("import os\nos.close(3)\nos.close(4)\nwhile True: pass", "cpu_limit"),
        ("import os\nos.write(3, b'value_')\nwhile True: pass", "cpu_limit"),
        ("import os, time\nwhile True: os.write(3, b'l'); time.sleep(0.001)", "exited"),  # no word of its own
    ],
    ids=["does not listen", "sleeps", "closes its channels", "begins to answer", "a letter at a time"],
)
def test_call_without_an_answer_ends_at_its_limit(source, status):
    """With arguments that don't fit into the channel."""
    pool = Pool(strongest()[0], 1)
    ended = pool.call(Program(source), "f", [Call(["x" * 300_000], 0.3, 1000)], LIMITS)
    assert (ended.status, ended.answers) == (status, ())
    assert ended.cpu_s < 0.6
    assert answers(pool, "def f(n): return n", [3]) == ("exited", [3])  # and the worker is as good as before
    pool.close()


def test_answers_are_reported_while_the_program_runs():
    pool, heard = Pool(strongest()[0], 1), []
    source = "import time\ndef f(n):\n    time.sleep(n)\n    return n"
    began = time.monotonic()

    def look(place, answer):
        heard.append(time.monotonic() - began)
        return place < 1

    pool.call(Program(source), "f", [Call([s], 2.0, 100) for s in (0.01, 0.01, 1.5)], LIMITS, look)
    pool.close()
    assert len(heard) == 2
    assert time.monotonic() - began < 1.0


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.title)
def test_repeatedly_killed_worker_is_a_sandbox_error_and_not_a_verdict(level):
    """The calls are repeated each time; then an error is raised."""
    pool = Pool(level, 1)
    before = _children()

    def look(place, answer):
        for pid in _children() - before:
            os.kill(pid, signal.SIGKILL)
        return True

    source = "import time\ndef f(n):\n    time.sleep(0.05)\n    return n"
    with pytest.raises(SandboxError, match="a worker"):
        pool.call(Program(source), "f", [Call([n], 2.0, 100) for n in range(9)], LIMITS, look)
    assert answers(pool, source, [1]) == ("exited", [1])
    pool.close()


def _children():
    tasks = Path("/proc/self/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}


@pytest.mark.parametrize(
    "reported", [b"", caller.REPORT_HEAD.pack(caller.VALUE, 1, 0.1) + b"7"], ids=["nothing", "one answer"]
)
def test_program_end_without_a_report_loses_the_calls(reported):
    """The caller process is gone, so the program may have ended because of that."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        for is_reported in (False, True):
            theirs.send(zygote._ENDED.pack(b"E", b"", 1 << 8, 0.1, 1 << 20, 0.1, 0.0))
            with AnswerWatch([Call([n], 1.0, 100) for n in range(3)]) as watch:
                end = caller.REPORT_HEAD.pack(caller.ENDED, 0, 0.0) if is_reported else b""
                os.write(watch.for_asker[0], caller.REPORT_HEAD.pack(caller.LOADED, 0, 0.1) + reported + end)
                watch.close_their_ends()
                lost = pytest.raises(ConnectionResetError, match="some answers")
                with contextlib.nullcontext() if is_reported else lost:
                    assert watch.collect(ours)["status"] == 1 << 8


def test_failure_to_create_pipes_leaks_none(monkeypatch):
    made, make = [], os.pipe

    def pipe():
        if len(made) == 2:
            raise OSError(24, "too many open files")
        made.append(make())
        return made[-1]

    monkeypatch.setattr(os, "pipe", pipe)
    with pytest.raises(OSError, match="too many"):
        AnswerWatch([Call([1], 1.0, 100)])
    for fd in (end for pair in made for end in pair):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_threads_keep_their_processor_affinity():
    before = os.sched_getaffinity(0)
    pool = Pool(strongest()[0], 2)
    threads = [threading.Thread(target=answers, args=(pool, "def f(n): return n", *[[1]] * 50)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pool.close()
    assert os.sched_getaffinity(0) == before
