"""The sandbox: what it reports of an ending, what it leaves behind, whom it serves; its filter against the headers."""

from __future__ import annotations

import concurrent.futures
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import SandboxError, UsageError
from harness.core.types import Call, Limits, Program
from harness.sandbox import Level, Pool, isolation, open_pool, pool, probe, strongest
from harness.sandbox.inside import codec, seccomp

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is for Linux")

LIMITS = Limits(cpu_s=1.0, wall_s=3.0, memory_bytes=256 << 20)
ECHO = Program("print(input())")


@pytest.fixture(scope="module")
def sandbox():
    made = Pool(strongest()[0], 2)
    yield made
    made.close()


def run(sandbox, source, stdin=b"", **limits):
    values = {"cpu_s": 1.0, "wall_s": 3.0, "memory_bytes": 256 << 20, **limits}
    return sandbox.run(Program(source), stdin, Limits(**values))


@pytest.mark.parametrize(
    ("source", "status", "code"),
    [
        ("pass", "exited", 0),
        ("import sys; sys.exit(7)", "exited", 7),
        ("import sys; sys.exit('words')", "exited", 1),
        ("1 / 0", "exited", 1),
        ("import os; os._exit(300)", "exited", 44),
        ("import ctypes; ctypes.string_at(0)", "signalled", signal.SIGSEGV),
        ("def", "not_compiled", 120),
        ("x = bytearray(1 << 30)", "memory_limit", 1),
        ("while True: pass", "cpu_limit", signal.SIGKILL),
        ("import time; time.sleep(9)", "wall_limit", signal.SIGKILL),
    ],
)
def test_program_ending_is_reported(sandbox, source, status, code):
    ended = run(sandbox, source, cpu_s=0.2, wall_s=3.0)
    assert (ended.status, ended.exit_code) == (status, code)


def test_output_over_the_limit_is_kept_up_to_it(sandbox):
    ended = run(sandbox, "while True: print('x' * 99999)", output_bytes=1 << 20, keep_bytes=1000)
    assert ended.status == "output_limit"
    assert len(ended.stdout) == 1001


def test_time_and_memory_are_those_of_the_process(sandbox):
    ended = run(sandbox, "x = bytearray(100 << 20)\nfor _ in range(2 * 10**6): pass\nimport time; time.sleep(0.3)")
    assert 100 << 20 <= ended.memory_bytes < 140 << 20
    assert 0.01 < ended.cpu_s < ended.wall_s - 0.25


def test_time_limit_is_enforced_within_a_tick(sandbox):
    ended = run(sandbox, "while True: pass", cpu_s=0.25)
    assert 0.25 <= ended.cpu_s < 0.35


def test_each_call_has_its_own_limit(sandbox):
    source = "def f(n):\n    while n: pass\n    return 'done'"
    calls = [Call([0], 0.2, 1000), Call([0], 0.2, 1000), Call([1], 0.2, 1000), Call([0], 0.2, 1000)]
    ended = sandbox.call(Program(source), "f", calls, Limits(30.0, 60.0, 256 << 20))
    assert [answer.body for answer in ended.answers] == [b'"done"'] * 2
    assert ended.status == "cpu_limit"
    assert 0.2 <= ended.cpu_s < 0.6


def test_a_call_that_sleeps_meets_the_wall_limit(sandbox):
    source = "import time\ndef f(n): time.sleep(n)"
    ended = sandbox.call(Program(source), "f", [Call([60], 0.01, 1000)], Limits(30.0, 60.0, 256 << 20))
    assert (ended.status, ended.answers) == ("wall_limit", ())
    assert ended.wall_s < 3.0


def test_an_answer_that_is_too_large_ends_the_run(sandbox):
    source = "def f(n): return 'x' * n"
    ended = sandbox.call(Program(source), "f", [Call([n], 1.0, 1000) for n in (10, 2000, 10)], LIMITS)
    assert [answer.kind for answer in ended.answers] == ["value", "too_large"]


def test_pool_leaves_no_processes(sandbox):
    for source in ("pass", "while True: pass", "x = bytearray(1 << 30)", "def", "print('x' * 10**6)"):
        run(sandbox, source, cpu_s=0.1)
    before = _open_files(), _workers_files(sandbox)
    for _ in range(200):
        sandbox.run(ECHO, b"3\n", LIMITS)
        sandbox.call(Program("def f(x): return x"), "f", [Call([1], 1.0, 100)], LIMITS)
    assert (_open_files(), _workers_files(sandbox)) == before


def test_closing_a_pool_ends_its_processes():
    before = _processes()
    made = Pool(strongest()[0], 1)
    made.run(ECHO, b"1\n", LIMITS)
    assert _processes() > before
    made.close()
    time.sleep(0.2)
    assert _processes() <= before


def test_workers_and_programs_die_with_the_judge(tmp_path):
    """Killed without a chance to clean up."""
    source = (
        "import os, sys\nfrom harness.sandbox import Pool, strongest\nfrom harness.core.types import Limits, Program\n"
        "made = Pool(strongest()[0], 1)\nmade.run(Program(''), b'', Limits(1, 1, 1 << 28))\n"
        "print(made._idle[0].pid, flush=True)\n"
        "made.run(Program('while True: pass'), b'', Limits(60, 60, 1 << 28))\n"
    )
    judge = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    worker = int(judge.stdout.readline())
    time.sleep(0.3)
    family = _descendants(worker)
    assert len(family) >= 2
    judge.kill()
    judge.communicate()
    until = time.monotonic() + 20
    while any(map(_is_alive, family)) and time.monotonic() < until:
        time.sleep(0.05)
    assert [pid for pid in family if _is_alive(pid)] == []


def test_a_worker_that_dies_is_replaced(sandbox):
    sandbox.run(ECHO, b"1\n", LIMITS)
    for worker in sandbox._idle:
        os.kill(worker.pid, signal.SIGKILL)
    time.sleep(0.1)
    assert sandbox.run(ECHO, b"1\n", LIMITS).stdout == b"1\n"


def test_many_threads_get_their_own_answers(sandbox):
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        ran = list(threads.map(lambda n: sandbox.run(ECHO, b"%d\n" % n, LIMITS).stdout, range(100)))
    assert ran == [b"%d\n" % n for n in range(100)]


def test_program_can_run_alone_while_others_are_running(sandbox):
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        others = [threads.submit(run, sandbox, "import time; time.sleep(0.1)") for _ in range(6)]
        time.sleep(0.02)
        ended = threads.submit(sandbox.run_alone, ECHO, b"1\n", LIMITS)
        assert ended.result().stdout == b"1\n"
        assert all(other.result().status == "exited" for other in others)


def test_a_pool_is_not_carried_over_a_fork(sandbox, monkeypatch):
    monkeypatch.setattr(sandbox, "_owner", os.getpid() + 1)
    with pytest.raises(SandboxError, match="fork"):
        sandbox.run(ECHO, b"", LIMITS)


def test_process_that_cannot_be_sealed_runs_no_program(sandbox):
    """Here a limit that the kernel does not take; that is never a verdict on the program."""
    with pytest.raises(SandboxError, match="could not isolate"):
        sandbox.run(ECHO, b"1\n", Limits(1.0, 1.0, memory_bytes=1 << 70))
    assert sandbox.run(ECHO, b"1\n", LIMITS).stdout == b"1\n"


def test_too_weak_sandbox_level_is_refused(monkeypatch):
    monkeypatch.setattr(pool, "strongest", lambda: (Level.LIMITS, ((Level.SEALED, "no seccomp"),)))
    with pytest.raises(UsageError, match=r"'sealed' or better.*no seccomp.*least_level"):
        open_pool()
    assert open_pool(Level.LIMITS).level is Level.LIMITS


def test_operating_systems_other_than_linux_are_refused(monkeypatch):
    monkeypatch.setattr(isolation.sys, "platform", "darwin")
    with pytest.raises(UsageError, match="Linux"):
        isolation.refuse_other_systems()


def test_probe_finds_every_protection_active():
    facts = probe.sandbox_facts()
    assert facts["level"].startswith(strongest()[0].title)
    assert {name: fact for name, fact in facts.items() if "NOT" in fact or "WRONG" in fact} == {}
    assert sum(fact == "held" for fact in facts.values()) == 8


HEADERS = {"x86_64": "x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "asm-generic/unistd.h"}


@pytest.mark.parametrize("machine", HEADERS)
def test_system_call_numbers_equal_those_of_the_headers(machine):
    header = Path("/usr/include") / HEADERS[machine]
    if not header.exists():
        pytest.skip("the kernel's headers are not installed")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text())
    official = {name: int(number) for name, number in found}
    aliases = {"fstat": "fstat", "newfstatat": "fstatat"} if machine == "aarch64" else {}
    optional = (seccomp._OF_FOLDERS, seccomp._OF_EXECUTABLES, seccomp._OF_COMPILERS)
    for table in (seccomp._ALLOWED, seccomp._CONDITIONAL, seccomp._NOT_IMPLEMENTED, *optional):
        for name, number in seccomp.numbers(table, machine).items():
            assert official.get(name, official.get(aliases.get(name, ""))) == number, name


@pytest.mark.parametrize("machine", HEADERS)
def test_system_call_filter_follows_its_table(machine):
    """Every number is looked up by an interpreter of the instructions, with harmless and with bad arguments."""
    code = seccomp.with_pid(seccomp.compile_filter(machine, may_open=True), 4242)
    tables = (seccomp._ALLOWED, seccomp._OF_FOLDERS)
    allowed = {number for table in tables for number in seccomp.numbers(table, machine).values()}
    conditional = seccomp.numbers(seccomp._CONDITIONAL, machine)
    for number in set(range(600)) - set(conditional.values()):
        told = interpret(code, machine, number, [0] * 6)
        missing = (
            number > seccomp._NEWEST_NUMBER or number in seccomp.numbers(seccomp._NOT_IMPLEMENTED, machine).values()
        )
        assert told == (seccomp._ALLOW if number in allowed else seccomp._ENOSYS if missing else seccomp._EPERM), number
    cases = [
        ("openat", [0, 0, 0o2000000], True),
        ("openat", [0, 0, 0o101], True),
        ("execveat", [seccomp.BINARY_FD, 0, 0, 0, 0x1000], False),
        ("clone", [0x3D0F00], True),
        ("clone", [17], False),
        ("kill", [4242, 15], True),
        ("kill", [4242, 9], False),
        ("setrlimit", [3], True),
        ("setrlimit", [0], False),
        ("kill", [1], False),
        ("kill", [0xFFFFFFFF], False),
        ("tgkill", [4242, 1], True),
        ("tgkill", [4242, 1, 9], False),
        ("tgkill", [1, 1], False),
        ("prlimit64", [0], True),
        ("prlimit64", [7], False),
        ("prlimit64", [0, 3, 1], True),
        ("prlimit64", [0, 0, 0], True),
        ("prlimit64", [0, 0, 1], False),
        ("prlimit64", [0, 0, 1 << 32], False),
        ("prctl", [15], True),
        ("prctl", [4], False),
        ("ioctl", [0, 0x5401], True),
        ("ioctl", [0, 0x5412], False),
        ("fcntl", [0, 3], True),
        ("fcntl", [0, 8], False),
        ("readlinkat", [0], True),
        ("socketpair", [1, 1 | 0o2000000], True),
        ("socketpair", [1, 2], False),
        ("socketpair", [2, 1], False),
    ]
    for name, arguments, is_allowed in cases:
        told = interpret(code, machine, conditional[name], [*arguments, *[0] * 6][:6])
        assert (told == seccomp._ALLOW) == is_allowed, (name, arguments)


@pytest.mark.parametrize("machine", HEADERS)
def test_an_executable_is_started_once_and_a_compiler_has_no_network(machine):
    def told(kind, name, *arguments, table=seccomp._CONDITIONAL, may_open=True):
        code = seccomp.with_pid(seccomp.compile_filter(machine, may_open=may_open, kind=kind), 4242)
        return interpret(code, machine, seccomp.numbers(table, machine)[name], [*arguments, *[0] * 6][:6])

    started = [seccomp.BINARY_FD, 0, 0, 0, 0x1000]
    assert told("binary", "execveat", *started) == seccomp._ALLOW
    assert told("binary", "execveat", 3, *started[1:]) == seccomp._EPERM
    assert told("binary", "execveat", *started[:4], 0) == seccomp._EPERM
    assert told("binary", "execve", table=seccomp._OF_COMPILERS) == seccomp._EPERM
    assert told("binary", "clone", 17) == told("binary", "kill", 1) == seccomp._EPERM
    assert told("binary", "openat", 0, 0, 0, may_open=False) == seccomp._ENOENT
    assert told("binary", "unlinkat", table=seccomp._OF_FOLDERS, may_open=False) == seccomp._EPERM
    assert told("compiler", "execve", table=seccomp._OF_COMPILERS) == told("compiler", "clone", 17) == seccomp._ALLOW
    for number in {"x86_64": (41, 42, 49, 53, 101, 272), "aarch64": (198, 203, 200, 199, 117, 97)}[machine]:
        code = seccomp.compile_filter(machine, may_open=True, kind="compiler")
        assert interpret(code, machine, number, [0] * 6) == seccomp._EPERM


def test_system_call_filter_kills_other_architectures():
    code = seccomp.compile_filter("x86_64", may_open=True)
    assert interpret(code, "aarch64", 39, [0] * 6) == seccomp._KILL
    assert interpret(code, "x86_64", 0x40000000 + 39, [0] * 6) == seccomp._KILL
    sealed = seccomp.compile_filter("x86_64", may_open=False)
    for opening_or_reading_a_link in (2, 257, 89, 267):
        assert interpret(sealed, "x86_64", opening_or_reading_a_link, [0] * 6) == seccomp._ENOENT


def interpret(code, machine, number, arguments):
    """Return the result of a filter by the rules of classic BPF."""
    import struct

    data = struct.pack("=IIQ6Q", number, seccomp._ARCHITECTURE[machine], 0, *arguments)
    at, value = 0, 0
    while True:
        kind, if_so, if_not, k = struct.unpack_from("=HBBI", code, 8 * at)
        at += 1
        if kind == 0x06:
            return k
        if kind == 0x20:
            (value,) = struct.unpack_from("=I", data, k)
        elif kind == 0x54:
            value &= k
        elif kind == 0x05:
            at += k
        else:
            is_so = {0x15: value == k, 0x35: value >= k, 0x45: value & k}[kind]
            at += if_so if is_so else if_not


# --- plain data ---------------------------------------------------------------------------------------------------

atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
)
hashable = st.recursive(atoms, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=6)
values = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(hashable, inner, max_size=3)
        | st.sets(hashable, max_size=3)
    ),
    max_leaves=20,
)


BUILT = {"tuple": tuple, "set": set, "frozenset": frozenset, "dict": dict}


def built(tag, content):
    return BUILT[tag](content) if tag in BUILT else codec.number(tag, content)


@given(values)
def test_codec_round_trips_plain_data(value):
    back = codec.decode(codec.encode(value), built)
    assert back == value
    assert repr(type(back)) == repr(type(value))


@pytest.mark.parametrize("value", [object(), [object()], {1: print}, range(3), iter(()), {"a": [lambda: 0]}])
def test_codec_refuses_objects_that_are_not_plain_data(value):
    with pytest.raises(codec.NotPlainError):
        codec.encode(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "nul",
        "NaN",
        "{}",
        '{"a":1}',
        '{"tuple":1,"dict":2}',
        "[" * 100_000,
        "1" * 5000,
        '{"int":"zz"}',
        b"\xff",
    ],
)
def test_codec_refuses_malformed_text(text):
    with pytest.raises(codec.NotPlainError):
        codec.decode(text, codec.number)


def test_codec_transfers_long_integers():
    number = 7**20_000
    assert codec.decode(codec.encode([number, -number]), built) == [number, -number]


def _workers_files(sandbox):
    """Process of a worker -> how many descriptors it has; the same processes all the time."""
    pids = {pid for worker in sandbox._idle for pid in _descendants(worker.pid)}
    return {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in pids}


def _open_files():
    return len(os.listdir("/proc/self/fd"))


def _processes():
    return len(_descendants(os.getpid()))


def _descendants(pid):
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found and child not in found}:
        found |= more
    return found


def _is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
