"""A busy machine and a signal from outside: neither becomes a verdict about a program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness.core.errors import SandboxError
from harness.core.types import Call, Execution, Limits, Program
from harness.graders.code.judge import Allowance, ScriptTest, judge_script
from harness.sandbox import Level, Pool, calls, compiler, strongest, worker
from harness.sandbox.inside import lockdown, run_queue, zygote

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is for Linux")

LEVELS = [level for level in Level if level >= Level.SEALED]
BY_LEVEL = pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.title)
ROOM = 256 << 20
USES_A_CORE = """
import time
def f(seconds):
    begun = time.process_time()
    while time.process_time() - begun < seconds: pass
    return 'done'
"""


@pytest.fixture
def pool(level):
    if level > strongest()[0]:
        pytest.skip(f"this machine has no {level.title}")
    made = Pool(level, 1)
    yield made
    made.close()


@pytest.fixture
def busy_core():
    """Pin this process, and so the workers that it starts, to a core on which three others are busy."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    yield
    for other in others:
        other.kill()
        other.wait()
    os.sched_setaffinity(0, before)


@pytest.mark.parametrize("level", sorted({Level.SEALED, strongest()[0]}), ids=lambda level: level.title)
@pytest.mark.usefixtures("busy_core")
def test_program_on_a_busy_core_has_its_cpu_time(pool):
    """With a quarter of a core, 0.7 s take 2.8 s; the wall limit is 0.9 s."""
    ended = pool.run(Program(f"{USES_A_CORE}\nprint(f(0.7))"), b"", Limits(1.0, 0.9, ROOM))
    assert (ended.status, ended.stdout) == ("exited", b"done\n")
    assert ended.wall_s > 0.9 > ended.wall_s - ended.waited_s


@pytest.mark.parametrize("level", [strongest()[0]], ids=lambda level: level.title)
@pytest.mark.usefixtures("busy_core")
def test_call_on_a_busy_core_has_its_cpu_time(pool):
    ended = pool.call(Program(USES_A_CORE), "f", [Call([0.9], 1.0, 100)], Limits(2.0, 1.2, ROOM))
    assert [answer.body for answer in ended.answers] == [b'"done"']
    assert ended.wall_s > 1.2 > ended.wall_s - ended.waited_s


@pytest.mark.parametrize(("clocks", "cause"), [((0.1, 3.9), None), ((0.1, 0.0), "wall"), ((0.6, 3.9), "cpu")])
def test_wall_limit_of_a_call_leaves_out_the_time_of_waiting_for_a_core(clocks, cause):
    """A call of 0.5 s CPU, and so of 2.5 s, began 4 s ago."""
    with calls.AnswerWatch([Call([], 0.5, 100)]) as watch:
        watch._restart_clock()
        watch._has_loaded, watch._asked_for = True, 0
        watch._began -= 4.0
        watch._note_clock(*clocks)
        assert watch.cause == cause


@BY_LEVEL
@pytest.mark.usefixtures("busy_core")
def test_sleeper_is_stopped_on_a_busy_core_too(pool):
    ended = pool.run(Program("import time; time.sleep(60)"), b"", Limits(1.0, 0.5, ROOM))
    assert ended.status == "wall_limit"
    assert ended.wall_s < 3.0


@pytest.mark.usefixtures("busy_core")
def test_waiting_for_a_core_is_that_of_the_thread_that_waits_longest():
    source = "import threading, time\nthreading.Thread(target=time.sleep, args=(9,)).start()\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", source]) as program:
        handle, proc = os.pidfd_open(program.pid), run_queue.open_proc()
        waiting = run_queue.Waiting(proc, handle, time.monotonic())
        time.sleep(1.0)
        waiting.look()
        user_s = time.clock_gettime(((~program.pid) << 3) | 2)
        program.kill()
    waiting.look()  # the process is gone
    waiting.close()
    assert 0.8 < waiting.total_s + user_s < 1.2
    assert waiting.total_s > 0.3
    nowhere = run_queue.Waiting(None, handle, time.monotonic())
    nowhere.look()
    assert nowhere.total_s == 0.0
    os.close(handle)
    os.close(proc)


def test_machine_without_time_for_a_program_gives_no_verdict():
    request = lockdown.Request(1.0, 2.0, ROOM, 1 << 20)
    assert zygote._limit_reached(request, 0.2, 1.9, 19.9, 0) is None
    assert zygote._limit_reached(request, 0.2, 1.9, 20.1, 0) == "starve"
    ended = {"killed_for": "starve", "waited_s": 18.2, "wall_s": 20.1, "cpu_s": 0.2, "memory_bytes": 0}
    with pytest.raises(SandboxError, match=r"waited for a processor for 18\.2 of 20\.1 s"):
        worker._raise_if_interrupted(ended, -9, Limits(1.0, 2.0, ROOM))


# --- signals ------------------------------------------------------------------------------------------------------


@BY_LEVEL
@pytest.mark.parametrize("how", ["script", "function"])
def test_program_killed_from_outside_gives_no_verdict(pool, how):
    with pytest.raises(SandboxError, match="killed by the machine"):
        _run_and_signal(pool, how, signal.SIGKILL)
    assert pool.run(Program("print(1)"), b"", Limits(1.0, 3.0, ROOM)).stdout == b"1\n"


@BY_LEVEL
def test_signals_sent_to_all_processes_of_a_job_change_no_verdict(pool):
    ended = _run_and_signal(pool, "script", *zygote._SENT_TO_ALL)
    assert (ended.status, ended.exit_code, ended.stdout) == ("exited", 0, b"done\n")


def test_signals_are_handled_the_same_however_harness_was_started():
    """A shell starts a program in the background with SIGINT ignored, and `nohup` with SIGHUP ignored."""
    source = (
        "import signal\n"
        "print([signal.getsignal(n) for n in (signal.SIGINT, signal.SIGALRM, signal.SIGTERM, signal.SIGHUP)])"
    )
    script = (
        "import signal\nfrom harness.core.types import Limits, Program\nfrom harness.sandbox import Pool, strongest\n"
        f"for n in (2, 14, 1): signal.signal(n, signal.{{}})\npool = Pool(strongest()[0], 1)\n"
        f"print(pool.run(Program({source!r}), b'', Limits(1, 3, 1 << 28)).stdout.decode())\npool.close()"
    )
    found = [
        subprocess.run([sys.executable, "-c", script.format(how)], capture_output=True, text=True, timeout=60).stdout
        for how in ("SIG_DFL", "SIG_IGN")
    ]
    assert found[0] == found[1]
    assert "default_int_handler" in found[0]


@BY_LEVEL
@pytest.mark.parametrize("way", ["os.kill(os.getpid(), 9)", "signal.pthread_kill(threading.get_ident(), 9)"])
def test_program_that_kills_itself_is_a_runtime_error(pool, way):
    outcome = _outcome(pool, f"import os, signal, threading\n{way}", 0.3)
    assert (outcome.code, outcome.cause) == ("RE", "SIGSYS")


@pytest.mark.parametrize("level", [strongest()[0]], ids=lambda level: level.title)
def test_program_can_not_let_the_kernel_kill_it_at_a_limit_of_its_own(pool):
    limits = "import ctypes\nctypes.CDLL(None).setrlimit(0, (ctypes.c_ulong * 2)(1, 1))"
    outcome = _outcome(pool, f"{limits}\nwhile True: pass", 1.3)
    assert (outcome.code, outcome.cause) == ("TLE", "cpu")


def test_compiler_that_is_killed_gives_no_verdict():
    message = b"g++: fatal error: Killed signal terminated program cc1plus\ncompilation terminated.\n"
    builder = compiler.Builder(lambda job, limits: Execution("exited", 1, b"", message, 0.1, 0.1, 1 << 20))
    with pytest.raises(SandboxError, match="compiler was killed"):
        builder.build("int main() {}")


def _outcome(pool, source, cpu_s):
    test = ScriptTest(b"", b"", lambda output: True)
    return judge_script(pool, Program(source), [test], Allowance(cpu_s, ROOM, retries_timeouts=False)).outcomes[0]


def _run_and_signal(pool, how, *numbers):
    """Run a program of half a second, and send it signals in the middle."""
    pool.run(Program(""), b"", Limits(1.0, 3.0, ROOM))
    (used,) = pool._idle
    family = _family(used.pid)
    source = "import time\ndef f():\n    time.sleep(0.5)\n    return 'done'\n"
    sending = threading.Thread(target=_send_to_the_newest, args=(used.pid, family, numbers))
    sending.start()
    try:
        if how == "script":
            return pool.run(Program(f"{source}print(f())"), b"", Limits(1.0, 3.0, ROOM))
        return pool.call(Program(source), "f", [Call([], 1.0, 100)], Limits(1.0, 3.0, ROOM))
    finally:
        sending.join()


def _send_to_the_newest(pid, known, numbers):
    until = time.monotonic() + 5
    while not (new := _family(pid) - known) and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.2)
    for program in new:
        for number in numbers:
            os.kill(program, number)


def _family(pid):
    """Return a process and its descendants."""
    found, waiting = {pid}, [pid]
    while waiting:
        for task in Path(f"/proc/{waiting.pop()}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found.add(child)
                waiting.append(child)
    return found
