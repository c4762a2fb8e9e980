"""The verdict, made from what the kernel says of a process and the bytes it wrote; the program has no part in it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.core.types import Answer, Call, Execution, Limits, Program
from harness.graders.code.isolated_compare import difference, start_of
from harness.graders.code.output_match import room_for
from harness.sandbox import Pool

Code = Literal["AC", "WA", "TLE", "MLE", "OLE", "RE", "CE"]

SHOWN_CHARACTERS = 300
_OUTPUT_BYTES = 16 << 20
_LATE = ("cpu_limit", "wall_limit")
_TOO_LARGE = "too_large"
_GRACE = 2.0  # on a loaded machine a program may take so much longer, without that being its verdict yet
_STATUS_CODES: dict[str, tuple[Code, str]] = {
    "cpu_limit": ("TLE", "cpu"),
    "wall_limit": ("TLE", "wall"),
    "memory_limit": ("MLE", ""),
    "output_limit": ("OLE", ""),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one test showed."""

    code: Code
    cause: str = ""
    got: str = ""
    difference: str = ""
    """Where an output and the expected one part."""


_RIGHT = Finding("AC")


@dataclass(frozen=True, slots=True)
class Report:
    """What all tests showed: findings in the order of the tests, as far as they were run."""

    findings: tuple[Finding, ...]
    n_tests: int
    cpu_s: float
    wall_s: float
    memory_bytes: int
    n_retried: int

    @property
    def n_passed(self) -> int:
        return sum(finding.code == "AC" for finding in self.findings)

    @property
    def first_failure(self) -> int | None:
        return next((place for place, finding in enumerate(self.findings) if finding.code != "AC"), None)

    def used(self) -> dict[str, Any]:
        numbers = {"cpu_s": round(self.cpu_s, 4), "wall_s": round(self.wall_s, 4)}
        retried = {"n_retried": self.n_retried} if self.n_retried else {}
        return {**numbers, "memory_bytes": self.memory_bytes, **retried}


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a program may use on one test, how often it is given a second chance, and when the judge stops."""

    cpu_s: float
    memory_bytes: int
    total_cpu_s: float | None = None
    runs_all_tests: bool = False
    retries_timeouts: bool = True

    def is_spent(self, total: _Total) -> bool:
        """Whether all tests together have taken too long; sleeping counts too, at half the rate."""
        limit_s = self.total_cpu_s
        return limit_s is not None and (total.cpu_s >= limit_s or total.wall_s >= wall_s(limit_s))

    def limits(self, cpu_s: float, wall_s: float, keep_bytes: int = 0) -> Limits:
        return Limits(cpu_s, wall_s, self.memory_bytes, max(_OUTPUT_BYTES, keep_bytes), keep_bytes)


class _Total:
    """Sums over the runs of one program."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.cpu_s = self.wall_s = 0.0
        self.memory_bytes = self.n_retried = 0

    def add(self, execution: Execution) -> None:
        self.cpu_s += execution.cpu_s
        self.wall_s += execution.wall_s
        self.memory_bytes = max(self.memory_bytes, execution.memory_bytes)

    def report(self, n_tests: int) -> Report:
        used = (self.cpu_s, self.wall_s, self.memory_bytes, self.n_retried)
        return Report(tuple(self.findings), n_tests, *used)


def wall_s(cpu_s: float) -> float:
    return max(2 * cpu_s, cpu_s + 2)


# --- programs that read stdin -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ScriptTest:
    """What a program is given, and whether what it wrote is right."""

    stdin: bytes
    expected: bytes
    accepts: Callable[[bytes], bool]
    more_room_bytes: int = 0
    """How much longer a right output may be than one as long as the expected one."""


def judge_script(pool: Pool, program: Program, tests: Sequence[ScriptTest], allowed: Allowance) -> Report:
    """Each test in a process of its own."""
    total = _Total()
    for test in tests:
        execution = _run(pool, program, test, allowed, total)
        finding = failure(execution)
        if finding is None:
            finding = _of_output(execution.stdout, test)
        if finding.code == "AC" and allowed.is_spent(total):
            finding = Finding("TLE", "total")
        total.findings.append(finding)
        if (finding.code != "AC" and not allowed.runs_all_tests) or allowed.is_spent(total):
            break
    return total.report(len(tests))


def _of_output(output: bytes, test: ScriptTest) -> Finding:
    if test.accepts(output):
        return _RIGHT
    return Finding("WA", got=shown(output), difference=difference(output, test.expected))


def _run(pool: Pool, program: Program, test: ScriptTest, allowed: Allowance, total: _Total) -> Execution:
    """One run. On a loaded machine it may go on for a while after its time; if it ends then, it is run again, alone."""
    keep_bytes = room_for(test.expected) + test.more_room_bytes
    own = allowed.limits(allowed.cpu_s, wall_s(allowed.cpu_s), keep_bytes)
    is_crowded = allowed.retries_timeouts and pool.is_crowded
    more_s = _GRACE * allowed.cpu_s
    given = allowed.limits(more_s, wall_s(more_s), keep_bytes) if is_crowded else own
    execution = pool.run(program, test.stdin, given)
    is_far_over = execution.status == "cpu_limit" and is_crowded
    is_late = execution.status in _LATE or execution.cpu_s > allowed.cpu_s or execution.wall_s > own.wall_s
    if is_late and not is_far_over and (is_crowded or (allowed.retries_timeouts and pool.is_crowded)):
        total.n_retried += 1
        execution = pool.run_alone(program, test.stdin, own)
    total.add(execution)
    return execution


# --- functions --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FunctionTest(Call):
    """A call, and whether the value that it gave is right."""

    accepts: Callable[[Answer], bool]
    accepts_opaque: bool = False
    """Whether a value that is no plain data is right."""


def judge_function(
    pool: Pool, program: Program, name: str, tests: Sequence[FunctionTest], allowed: Allowance
) -> Report:
    """All calls in one process, as their authors meant them. If all are to run, another one after a call ended it."""
    total = _Total()
    while len(total.findings) < len(tests):
        rest = tests[len(total.findings) :]
        cpu_s = sum(test.cpu_s for test in rest) + allowed.cpu_s
        if allowed.total_cpu_s is not None:
            cpu_s = min(cpu_s, allowed.total_cpu_s - total.cpu_s)
        limits = allowed.limits(max(cpu_s, 0.01), wall_s(max(cpu_s, 0.01)))
        heard = _Heard(rest, allowed.runs_all_tests)
        execution = pool.call(program, name, rest, limits, heard.look)
        if _deserves_a_retry(execution, pool, allowed):
            total.n_retried += 1
            heard.findings.clear()
            execution = pool.call_alone(program, name, rest, limits, heard.look)
        total.add(execution)
        total.findings += _of_calls(execution, heard, total, allowed)
        if not allowed.runs_all_tests:
            break
    return total.report(len(tests))


class _Heard:
    """What the answers of one process show, found as they come: none is kept, nor any waited for after a failure."""

    def __init__(self, tests: Sequence[FunctionTest], runs_all_tests: bool) -> None:
        self._tests, self._runs_all_tests = tests, runs_all_tests
        self.findings: list[Finding] = []

    @property
    def n_unheard(self) -> int:
        return len(self._tests) - len(self.findings)

    @property
    def is_enough(self) -> bool:
        """Whether it was the judge that heard no further, and the program's end says nothing."""
        if not self.findings:
            return False
        last = self.findings[-1]
        return last.cause == _TOO_LARGE or not (self._runs_all_tests or last.code == "AC")

    def look(self, place: int, answer: Answer) -> bool:
        del self.findings[place:]
        self.findings.append(_of_answer(answer, self._tests[place]))
        return not self.is_enough


def _of_answer(answer: Answer, test: FunctionTest) -> Finding:
    if answer.kind in ("value", "packed"):
        return _RIGHT if test.accepts(answer) else Finding("WA", got=shown(start_of(answer)))
    if answer.kind == "raised":
        return Finding("RE", shown(answer.body))
    if answer.kind == "opaque" and test.accepts_opaque:
        return _RIGHT
    return Finding("WA", answer.kind, shown(answer.body))


def _of_calls(execution: Execution, heard: _Heard, total: _Total, allowed: Allowance) -> list[Finding]:
    """Findings for what was answered, and for the call that ended the process; none for what was not reached."""
    found, n_unheard = heard.findings, heard.n_unheard
    if not n_unheard and not heard.is_enough and execution.status == "memory_limit":
        return [Finding("MLE")] * len(found)
    if n_unheard and not heard.is_enough:
        ended = failure(execution)
        found.append(ended if ended is not None else Finding("RE", "it ended before it answered"))
    if heard.n_unheard and allowed.runs_all_tests and allowed.is_spent(total):
        found += [Finding("TLE", "total")] * heard.n_unheard
    return found


# --- endings ----------------------------------------------------------------------------------------------------


def failure(execution: Execution) -> Finding | None:
    """What a process that did not end well shows, None of one that did."""
    if execution.status in _STATUS_CODES:
        return Finding(*_STATUS_CODES[execution.status])
    if execution.status == "not_compiled":
        return Finding("CE", _last_line(execution.stderr))
    if execution.status == "signalled":
        return Finding("RE", _signal_name(execution.exit_code))
    if execution.exit_code != 0:
        line = _last_line(execution.stderr)
        return Finding("RE", line if line else f"exit code {execution.exit_code}")
    return None


def _deserves_a_retry(execution: Execution, pool: Pool, allowed: Allowance) -> bool:
    """Over the time limit on a loaded machine: that may be the machine's doing."""
    return execution.status in _LATE and allowed.retries_timeouts and pool.is_crowded


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(stderr: bytes) -> str:
    return shown(stderr.rstrip().rpartition(b"\n")[2])


def shown(data: bytes) -> str:
    """A bounded piece of it, for a person."""
    text = data[: 4 * SHOWN_CHARACTERS].decode("utf-8", "replace")
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + " ..."
