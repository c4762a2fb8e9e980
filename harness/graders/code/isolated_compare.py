"""Compare outputs of programs with the expected ones; large ones in a separate process, so that no program can make
this process grow.

That process is sandboxed as well: it runs our rules on data that an untrusted program made.
"""

from __future__ import annotations

import functools
import marshal
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from harness.core.errors import SandboxError
from harness.core.types import Answer, Limits, Program
from harness.graders.code import equality, evalplus_rules, output_match, values
from harness.graders.code.equality import AnswerRule, ExpectedAnswer, is_right, is_right_packed, start_of_packed
from harness.graders.code.output_match import Comparison, ToleranceKind, first_difference, is_expected, is_same
from harness.sandbox import Pool, strongest
from harness.sandbox.inside import codec

_LARGE_BYTES = 1 << 20
_LIMITS = Limits(cpu_s=20.0, wall_s=120.0, memory_bytes=2 << 30)
_LEAST_CPU_S, _CPU_S_PER_MIB = 3.0, 2.0
_MODULES = (codec, values, output_match, evalplus_rules, equality)  # in order of their imports
_of_thread = threading.local()
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
    """Return whether an answer equals the expected one byte for byte, or is correct as a value."""
    body = answer.body
    if answer.kind == "packed":
        if body == expected.packed:
            return True
        return len(body) >= codec.LEAST_PACKED and _apart(is_right_packed, rule, expected.text, body) == "True"
    if body == expected.text:
        return True
    if len(body) + len(expected.text) <= _LARGE_BYTES:
        return is_right(rule, expected.text, body)
    return _apart(is_right, rule, expected.text, body) == "True"


def start_of(answer: Answer) -> bytes:
    """Return the beginning of an answer, for a person."""
    if answer.kind != "packed":
        return answer.body
    return _apart(start_of_packed, answer.body).encode() if len(answer.body) >= codec.LEAST_PACKED else b""


def is_right_output(
    comparison: Comparison, tolerance: float, kind: ToleranceKind, expected: bytes, output: bytes
) -> bool:
    if is_same(output, expected):
        return True
    if len(output) + len(expected) <= _LARGE_BYTES:
        return is_expected(comparison, output, expected, tolerance, kind)
    return _apart(is_expected, comparison, output, expected, tolerance, kind) == "True"


def difference(output: bytes, expected: bytes) -> str:
    """Describe the first difference, for a person."""
    if len(output) + len(expected) <= _LARGE_BYTES:
        return first_difference(output, expected)
    return _apart(first_difference, output, expected)


def spent_s() -> float:
    """Return the CPU time that comparisons in separate processes have taken for this thread."""
    spent: float = getattr(_of_thread, "cpu_s", 0.0)
    return spent


def _apart(function: Callable[..., object], *arguments: object) -> str:
    """Return the result of a function of `_MODULES` as text; empty if it exceeds its limits or crashes the interpreter.

    Raises SandboxError if our own side or the machine failed: that must not become a verdict.
    """
    question = marshal.dumps((function.__module__, function.__name__, arguments), 2)  # type: ignore[arg-type]
    cpu_s = min(_LEAST_CPU_S + _CPU_S_PER_MIB * len(question) / (1 << 20), _LIMITS.cpu_s)
    ended = _comparers(os.getpid()).run(Program(_QUESTION, _prelude()), question, replace(_LIMITS, cpu_s=cpu_s))
    _of_thread.cpu_s = spent_s() + ended.cpu_s
    if ended.status in ("signalled", "cpu_limit", "memory_limit"):
        return ""
    if ended.status != "exited" or ended.exit_code != 0:
        text = ended.stderr.decode(errors="replace").rstrip().rpartition("\n")[2]
        raise SandboxError(f"comparing {len(question)} bytes failed: {ended.status}, {text}")
    return ended.stdout.decode("utf-8", "replace").removesuffix("\n")


@functools.cache
def _prelude() -> str:
    sources = [(module.__name__, Path(str(module.__file__)).read_text("utf-8")) for module in _MODULES]
    return _LOADER + "".join(f"_load({name!r}, {source!r})\n" for name, source in sources)


@functools.cache
def _comparers(_process: int) -> Pool:
    """Return a separate pool: all workers that run programs may be waiting for a comparison."""
    return Pool(strongest()[0], max(1, len(os.sched_getaffinity(0))))
