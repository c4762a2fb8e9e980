"""Check the active isolation level with small programs that try to escape, for `harness doctor`."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

from harness.core.errors import SandboxError, UsageError
from harness.core.types import Execution, Limits, Program
from harness.sandbox.isolation import MEANING
from harness.sandbox.pool import Pool, shared, strongest

_LIMITS = Limits(cpu_s=0.3, wall_s=3.0, memory_bytes=256 << 20, output_bytes=1 << 20)
_ESCAPED = b"escaped"


@dataclass(frozen=True, slots=True)
class Attempt:
    """A program that prints `escaped` if it could do what it must not."""

    name: str
    source: str


def attempts(secret_path: str, port: int) -> tuple[Attempt, ...]:
    """Return the attempts. They are harmless even if they succeed."""

    def attempt(name: str, action: str) -> Attempt:
        source = f"import os, sys, socket\ntry:\n    {action}\n    print('escaped')\nexcept Exception: pass\n"
        return Attempt(name, source)

    return (
        attempt("read a file of this user", f"open({secret_path!r}).read()"),
        attempt("write a file", f"open({secret_path + '.written'!r}, 'w')"),
        attempt("see the environment of its parent", "open(f'/proc/{os.getppid()}/environ').read()"),
        attempt("start a process", "assert os.fork() or os._exit(0) is None"),
        attempt("signal its parent", "os.kill(os.getppid(), 0)"),
        attempt("connect to a socket", f"socket.create_connection(('127.0.0.1', {port}), 1)"),
        attempt("make a socket", "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)"),
        attempt("keep shared memory", "os.memfd_create('x')"),
    )


_ENDINGS: Mapping[str, tuple[str, str]] = {
    "an endless loop": ("while True: pass", "cpu_limit"),
    "sleeping": ("import time; time.sleep(60)", "wall_limit"),
    "a gigabyte": ("x = bytearray(1 << 30)", "memory_limit"),
    "a flood": ("while True: print('x' * 10000)", "output_limit"),
    "an honest program": ("print(input()[::-1])", "exited"),
}


def sandbox_facts() -> dict[str, str]:
    """Return facts for a person: the level, why no stronger one, and one line per attempt."""
    try:
        level, failures = strongest()
    except UsageError as error:
        return {"level": f"none: {error}"}
    facts = {"level": f"{level.title}: {MEANING[level]}"}
    facts.update({f"not {failed.title}": why for failed, why in failures})
    try:
        return {**facts, **_probed(shared(level, 1, os.getpid()))}
    except SandboxError as error:
        return {**facts, "broken": str(error)}


def _probed(pool: Pool) -> dict[str, str]:
    facts = {}
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        secret = os.path.join(folder, "secret")
        with open(secret, "w") as file:
            file.write("a secret")
        for attempt in attempts(secret, server.getsockname()[1]):
            ended = pool.run(Program(attempt.source), b"", _LIMITS)
            facts[f"to {attempt.name}"] = "NOT HELD" if ended.stdout.strip() == _ESCAPED else "held"
    for name, (source, expected) in _ENDINGS.items():
        ended = pool.run(Program(source), b"abc\n", _LIMITS)
        facts[name] = _told(ended) if ended.status == expected else f"WRONG: {_told(ended)}, not {expected}"
    return facts


def _told(ended: Execution) -> str:
    return f"{ended.status} after {ended.cpu_s:.2f} s CPU, {ended.wall_s:.2f} s"
