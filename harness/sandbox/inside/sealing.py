"""Turns a freshly forked process into the sealed one that a program runs in. Nothing here can be undone by it."""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from . import kernel, policy, programs

MACHINE_STACK_BYTES = 1 << 30
_ADDRESS_ROOM_BYTES = 512 << 20  # thread stacks and mappings that are never touched
_OPEN_FILES = 32
READY = b"ready"
_exit = os._exit  # the program may replace the one in os
_HIGH_FD = 200
LANDLOCK_FD, _HIGHEST_FD = 250, 260
"""Above all that a program's own descriptors may take the place of."""


@dataclass(frozen=True, slots=True)
class Walls:
    """What a worker prepared once for all its programs."""

    filter_code: bytes | None
    landlock: int | None
    owns_namespace: bool
    """Each program is process 1 of a namespace of its own."""


@dataclass(frozen=True, slots=True)
class Request:
    """One program to run: limits, and what else came with the descriptors."""

    cpu_s: float
    wall_s: float
    memory_bytes: int
    output_bytes: int


def become_program(walls: Walls, request: Request, descriptors: Sequence[int], ready: int) -> NoReturn:
    """`descriptors` are the payload, stdin, stdout, stderr and, for functions, where answers go.

    `READY` on the pipe `ready` says that every wall stands, and is the last that is ever written there. Anything else
    is our failure, never the program's.
    """
    try:
        payload = _read_all(descriptors[0])
        _seal(walls, request, descriptors[1:], ready)
    except BaseException as error:
        os.write(ready, str(error).encode()[:500])
        _exit(255)
    try:
        programs.run(payload)
    finally:
        _exit(255)


def _seal(walls: Walls, request: Request, descriptors: Sequence[int], ready: int) -> None:
    os.setsid()
    kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)
    # First out of the way of one another, then to 0, 1, 2 ...
    moved = [os.dup2(fd, _HIGH_FD + place) for place, fd in enumerate([*descriptors, ready])]
    for place, fd in enumerate(moved[:-1]):
        os.dup2(fd, place)
    _limit(request)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    if walls.landlock is not None:
        kernel.landlock_restrict(walls.landlock)
    kernel.drop_capabilities()
    os.closerange(len(descriptors), moved[-1])
    if walls.filter_code is not None:
        kernel.load_filter(policy.with_pid(walls.filter_code, os.getpid()))
    os.write(moved[-1], READY)
    os.closerange(moved[-1], _HIGHEST_FD)


def _read_all(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def _limit(request: Request) -> None:
    cpu_s = int(request.cpu_s) + 2  # the worker watches the clock; this is the second line
    limits = {
        resource.RLIMIT_CPU: (cpu_s, cpu_s + 1),
        resource.RLIMIT_AS: _both(request.memory_bytes + _ADDRESS_ROOM_BYTES),
        resource.RLIMIT_FSIZE: _both(request.output_bytes),
        resource.RLIMIT_NOFILE: _both(_OPEN_FILES),
        resource.RLIMIT_CORE: _both(0),
        resource.RLIMIT_MEMLOCK: _both(0),
        resource.RLIMIT_MSGQUEUE: _both(0),
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, limit)


def _both(value: int) -> tuple[int, int]:
    return value, value
