"""Turn a freshly forked process into the sealed one that runs a program, irreversibly."""

from __future__ import annotations

import contextlib
import importlib.machinery
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, NoReturn

from . import programs, seccomp, syscalls

Kind = Literal["python", "binary", "compiler"]

MACHINE_STACK_BYTES = 1 << 30
# Room for thread stacks and untouched mappings. Executables are small, and their threads have 2 MiB each.
_ADDRESS_ROOM_BYTES: Mapping[Kind, int] = {"python": 512 << 20, "binary": 128 << 20, "compiler": 512 << 20}
_OPEN_FILES, _OPEN_FILES_OF_COMPILERS = 32, 256
MOST_THREADS = 1000
"""Resources of which all processes of the machine share a fixed number."""
READY = b"ready"
_exit = os._exit  # kept here, since the program may replace the one in os
_N_OF_FUNCTIONS = 6
_HIGH_FD = 300
LANDLOCK_FD, _HIGHEST_FD = 350, 360
"""Higher than any descriptor that a program's own ones may replace."""


class Walls(NamedTuple):
    """The isolation that a worker prepared once for all its programs."""

    filters: Mapping[Kind, bytes]
    """Without a filter, system calls are not restricted."""
    landlock: int | None
    owns_namespace: bool
    """Whether each program is process 1 of its own namespace."""


class Request(NamedTuple):
    """One program to run: its limits and start method. The rest comes with the descriptors."""

    cpu_s: float
    wall_s: float
    memory_bytes: int
    output_bytes: int
    prelude: str = ""
    """Preloaded code: the same for many programs and without secrets, since the worker keeps it."""
    kind: Kind = "python"
    arguments: Sequence[str] = ()
    """Command of a compiler."""
    product: str = ""
    """File in a compiler's folder that is written to stdout at the end."""


def become_program(
    walls: Walls, request: Request, main: programs.Main, descriptors: Sequence[int], ready: int
) -> NoReturn:
    """Become the program's process. `descriptors` are the payload, stdin, stdout, stderr and, for functions, the
    channels of answers and questions.

    `READY` on the pipe `ready` reports that isolation is complete, and is the last message on it. Anything else is our
    failure, never the program's.
    """
    try:
        payload = _read_all(descriptors[0]) if request.kind == "python" else b""
        _seal(walls, request, descriptors, ready)
    except BaseException as error:
        os.write(ready, str(error).encode()[:500])
        _exit(255)
    try:
        if request.kind == "binary":
            os.execve(seccomp.BINARY_FD, ["main"], {})
        if request.kind == "compiler":
            os.execve(request.arguments[0], list(request.arguments), {"PATH": "/usr/bin:/bin", "TMPDIR": os.getcwd()})
        programs.run(payload, main)
    finally:
        _exit(255)


def _seal(walls: Walls, request: Request, descriptors: Sequence[int], ready: int) -> None:
    os.setsid()
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 9)
    if len(descriptors) == _N_OF_FUNCTIONS:
        with contextlib.suppress(OSError):  # not permitted: only slower
            os.sched_setaffinity(0, {syscalls.current_core()})
    # Move them out of the way first, then to 0, 1, 2 ...
    moved = [os.dup2(fd, _HIGH_FD + place) for place, fd in enumerate([*descriptors[1:], ready])]
    for place, fd in enumerate(moved[:-1]):
        os.dup2(fd, place)
    if request.kind == "binary":
        os.dup2(descriptors[0], seccomp.BINARY_FD, inheritable=False)
    _limit(request)
    if walls.owns_namespace and syscalls.COUNTS_TASKS_BY_NAMESPACE:
        resource.setrlimit(resource.RLIMIT_NPROC, _both(MOST_THREADS))
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    if walls.landlock is not None:
        syscalls.landlock_restrict(walls.landlock)
    syscalls.drop_capabilities()
    os.closerange(len(moved) - 1, seccomp.BINARY_FD)
    os.closerange(seccomp.BINARY_FD + (request.kind == "binary"), moved[-1])
    if walls.filters and walls.landlock is None:  # no file can be opened: what is not loaded does not exist
        sys.meta_path.remove(importlib.machinery.PathFinder)
    if walls.filters:
        code = walls.filters[request.kind]
        syscalls.load_filter(code if walls.owns_namespace else seccomp.with_pid(code, os.getpid()))
    os.write(moved[-1], READY)
    os.closerange(moved[-1], _HIGHEST_FD)


def _read_all(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def limit_worker() -> None:
    """Set the limits that are the same for all programs and don't affect the worker."""
    for kind in (resource.RLIMIT_CORE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE):
        resource.setrlimit(kind, (0, 0))


def _limit(request: Request) -> None:
    set_limit = resource.setrlimit
    cpu_s = int(request.cpu_s) + 2  # the worker watches the clock; this is the second line of defence
    set_limit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    set_limit(resource.RLIMIT_AS, _both(request.memory_bytes + _ADDRESS_ROOM_BYTES[request.kind]))
    set_limit(resource.RLIMIT_FSIZE, _both(request.output_bytes))
    set_limit(resource.RLIMIT_NOFILE, _both(_OPEN_FILES if request.kind != "compiler" else _OPEN_FILES_OF_COMPILERS))
    if request.kind != "python":
        # Without a limit threads get the usual 2 MiB, and the main thread all memory.
        set_limit(resource.RLIMIT_STACK, _both(resource.getrlimit(resource.RLIMIT_STACK)[1]))


def _both(value: int) -> tuple[int, int]:
    return value, value
