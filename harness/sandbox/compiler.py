"""Compile C++: once per source, in a separate worker with its own limits."""

from __future__ import annotations

import collections
import glob
import shutil
import threading
from collections.abc import Callable

from harness.core.errors import SandboxError, UsageError
from harness.core.types import Execution, Limits
from harness.sandbox.inside.syscalls import MACHINE
from harness.sandbox.isolation import Level
from harness.sandbox.worker import Job

_COMPILERS = ("g++", "clang++")
_FLAGS = ("-x", "c++", "-std=c++17", "-O2", "-static", "-s", "-pipe", "-w", "-fmax-errors=5", "-o", "main", "-")
_LIMITS = Limits(cpu_s=20.0, wall_s=40.0, memory_bytes=1 << 30, output_bytes=64 << 20, keep_bytes=64 << 20)
_MESSAGE_BYTES = 4 << 10
_KILLED = b"Killed signal terminated program"
_KEPT = 16
# Folders that compilers consist of and read. They contain nothing of a user's and no Python packages.
_PATHS = (
    *("/bin", "/usr/bin", "/usr/include", "/usr/local/include", "/usr/lib/gcc", "/usr/libexec/gcc", "/usr/lib/llvm*"),
    *(f"/lib/{MACHINE}-linux-gnu", f"/usr/lib/{MACHINE}-linux-gnu", "/lib/ld-linux-*", "/lib64", "/usr/lib64"),
    *("/etc/alternatives", "/etc/ld.so.cache", "/dev/null"),
)
HELLO = "#include <iostream>\nint main() { int n; std::cin >> n; std::cout << n + 1; }"

Built = bytes | Execution
"""An executable, or how the compiler ended without one."""


def compiler() -> str:
    """Return the path of the machine's compiler. Raises UsageError if there is none."""
    found = next(filter(None, map(_in_usr_bin, _COMPILERS)), None)
    if found is None:
        raise UsageError(f"C++ needs one of {', '.join(_COMPILERS)} in /usr/bin; install it (Debian: apt install g++)")
    return found


def _in_usr_bin(name: str) -> str | None:
    return shutil.which(name, path="/usr/bin")


def executable_paths() -> list[str]:
    return [path for pattern in _PATHS for path in sorted(glob.glob(pattern))]


def refuse_weak_level(strongest: Level) -> None:
    """Raise UsageError where a compiler can't be contained: it reads whatever file a source includes."""
    if strongest < Level.LANDLOCK:
        raise UsageError(
            f"C++ is compiled at the sandbox level 'landlock' or better, and this machine has '{strongest.title}' "
            f"(`harness doctor` explains why); choose programs in Python"
        )


class Builder:
    """Keeps the executables of the last few sources. `run` runs a job in a worker for compilers."""

    def __init__(self, run: Callable[[Job, Limits], Execution]) -> None:
        self._run = run
        self._built: collections.OrderedDict[str, Built] = collections.OrderedDict()
        self._lock = threading.Lock()

    def build(self, source: str) -> Built:
        with self._lock:
            known = self._built.get(source)
        built = known if known is not None else self._compiled(source)
        with self._lock:
            self._built[source] = built
            self._built.move_to_end(source)
            while len(self._built) > _KEPT:
                self._built.popitem(last=False)
        return built

    def _compiled(self, source: str) -> Built:
        text = source.encode("utf-8", "surrogatepass")
        job = Job(b"", text, kind="compiler", arguments=(compiler(), *_FLAGS), product="main")
        ended = self._run(job, _LIMITS)
        if ended.status == "exited" and ended.exit_code == 0 and ended.stdout:
            return ended.stdout
        if _KILLED in ended.stderr:
            raise SandboxError("a part of the compiler was killed by the machine; use fewer workers, or grade again")
        return _not_compiled(ended)


def _not_compiled(ended: Execution) -> Execution:
    """Return the compiler's message with the most important line last, as in Python."""
    message = ended.stderr[:_MESSAGE_BYTES].replace(b"<stdin>", b"main.cpp")
    if ended.status != "exited":
        last = f"the compiler was stopped: {ended.status}".encode()
    else:
        last = next((line for line in message.split(b"\n") if b"error:" in line), b"the compiler gave no program")
    return Execution(
        status="not_compiled",
        exit_code=ended.exit_code,
        stdout=b"",
        stderr=message + b"\n" + last,
        cpu_s=ended.cpu_s,
        wall_s=ended.wall_s,
        memory_bytes=ended.memory_bytes,
    )
