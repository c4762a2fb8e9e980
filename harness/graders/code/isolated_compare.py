"""Compares what programs gave with what was expected: what is large in a process of its own, so that no program can
make this one grow.

That process is a sandboxed one as well. It runs our own rules, but on data that a program made up.
"""

from __future__ import annotations

import functools
import marshal
import os
import signal
from collections.abc import Callable
from pathlib import Path

from harness.core.errors import SandboxError
from harness.core.types import Answer, Limits, Program
from harness.graders.code import equality, evalplus_rules, output_match, values
from harness.graders.code.equality import AnswerRule, ExpectedAnswer, is_right, is_right_packed, start_of_packed
from harness.graders.code.output_match import Comparison, first_difference, is_expected, is_same
from harness.sandbox import Pool, strongest
from harness.sandbox.inside import codec

_LARGE_BYTES = 1 << 20
_LIMITS = Limits(cpu_s=20.0, wall_s=120.0, memory_bytes=2 << 30)
_MODULES = (codec, values, output_match, evalplus_rules, equality)  # each after those it imports
_LOADER = """
import sys, types
def _load(name, source):
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
    room, _, own = name.rpartition(".")
    setattr(sys.modules.setdefault(room, types.ModuleType(room)), own, module)
"""
_QUESTION = """
import marshal, sys
module, function, arguments = marshal.load(sys.stdin.buffer)
print(getattr(sys.modules[module], function)(*arguments))
"""


def is_right_answer(rule: AnswerRule, expected: ExpectedAnswer, answer: Answer) -> bool:
    """Whether it is the expected one, byte for byte, or is right as a value."""
    body = answer.body
    if answer.kind == "packed":
        return body == expected.packed or _apart(is_right_packed, rule, expected.text, body) == "True"
    if body == expected.text:
        return True
    if len(body) + len(expected.text) <= _LARGE_BYTES:
        return is_right(rule, expected.text, body)
    return _apart(is_right, rule, expected.text, body) == "True"


def start_of(answer: Answer) -> bytes:
    """For a person."""
    return answer.body if answer.kind != "packed" else _apart(start_of_packed, answer.body).encode()


def is_right_output(comparison: Comparison, tolerance: float, expected: bytes, output: bytes) -> bool:
    if is_same(output, expected):
        return True
    if len(output) + len(expected) <= _LARGE_BYTES:
        return is_expected(comparison, output, expected, tolerance)
    return _apart(is_expected, comparison, output, expected, tolerance) == "True"


def difference(output: bytes, expected: bytes) -> str:
    """Where they part, for a person."""
    if len(output) + len(expected) <= _LARGE_BYTES:
        return first_difference(output, expected)
    return _apart(first_difference, output, expected)


def _apart(function: Callable[..., object], *arguments: object) -> str:
    """What a function of `_MODULES` gives, as text; nothing where that takes more than it may, or breaks the
    interpreter.

    Raises SandboxError where our own side is at fault, or the machine: that is no verdict.
    """
    question = marshal.dumps((function.__module__, function.__name__, arguments), 2)  # type: ignore[arg-type]
    ended = _comparers(os.getpid()).run(Program(_QUESTION, _prelude()), question, _LIMITS)
    is_broken = ended.status == "signalled" and ended.exit_code != signal.SIGKILL  # which is the machine's alone
    if is_broken or ended.status in ("cpu_limit", "memory_limit"):
        return ""
    if ended.status != "exited" or ended.exit_code != 0:
        told = ended.stderr.decode(errors="replace").rstrip().rpartition("\n")[2]
        raise SandboxError(f"comparing {len(question)} bytes failed: {ended.status}, {told}")
    return ended.stdout.decode("utf-8", "replace").removesuffix("\n")


@functools.cache
def _prelude() -> str:
    sources = [(module.__name__, Path(str(module.__file__)).read_text("utf-8")) for module in _MODULES]
    return _LOADER + "".join(f"_load({name!r}, {source!r})\n" for name, source in sources)


@functools.cache
def _comparers(_process: int) -> Pool:
    """Workers of their own: those that run programs may all be waiting for a comparison."""
    return Pool(strongest()[0], max(1, len(os.sched_getaffinity(0))))
