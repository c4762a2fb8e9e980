"""Make the verdict from what the kernel reports about a process and from the bytes it wrote."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.core.types import Answer, Call, Execution, Limits, Program
from harness.graders.code.isolated_compare import difference, spent_s, start_of
from harness.graders.code.output_match import room_for
from harness.sandbox import Pool

Code = Literal["AC", "WA", "TLE", "MLE", "OLE", "RE", "CE"]

SHOWN_CHARACTERS = 300
_PIECE_BYTES = 1 << 16
_OUTPUT_BYTES = 16 << 20
_LATE = ("cpu_limit", "wall_limit")
_TOO_LARGE = "too_large"
_OUT_OF_MEMORY = (b"MemoryError", b"_ArrayMemoryError")
_MOST_COMPARING_S = 60.0
"""CPU time of all comparisons for one program that are made in separate processes."""
_GRACE = 2.0  # on a loaded machine, a program may take this much longer before TLE is final
_STATUS_CODES: dict[str, tuple[Code, str]] = {
    "cpu_limit": ("TLE", "cpu"),
    "wall_limit": ("TLE", "wall"),
    "memory_limit": ("MLE", ""),
    "output_limit": ("OLE", ""),
}


@dataclass(frozen=True, slots=True)
class TestOutcome:
    """The outcome of one test."""

    code: Code
    cause: str = ""
    got: str = ""
    difference: str = ""
    """Where the output differs from the expected one."""
    output: str = ""
    """Digest of a wrong output, up to white space."""


_RIGHT = TestOutcome("AC")


@dataclass(frozen=True, slots=True)
class JudgeResult:
    """The outcomes of the tests in order, as far as they were run."""

    outcomes: tuple[TestOutcome, ...]
    n_tests: int
    cpu_s: float
    wall_s: float
    memory_bytes: int
    n_retried: int
    compare_s: float = 0.0
    """CPU time of comparing its large answers."""

    @property
    def n_passed(self) -> int:
        return sum(outcome.code == "AC" for outcome in self.outcomes)

    @property
    def first_failure(self) -> int | None:
        return next((place for place, outcome in enumerate(self.outcomes) if outcome.code != "AC"), None)

    @property
    def behaviour(self) -> str:
        """Return a digest that wrong programs share if they do the same on all tests that were run.

        A message of an exception does not count, since it may show an address.
        """
        done = [(outcome.code, outcome.cause.partition(":")[0], outcome.output) for outcome in self.outcomes]
        return hashlib.sha256(repr(done).encode("utf-8", "surrogatepass")).hexdigest()[:16]

    def used(self) -> dict[str, Any]:
        numbers = {"cpu_s": round(self.cpu_s, 4), "wall_s": round(self.wall_s, 4)}
        retried = {"n_retried": self.n_retried} if self.n_retried else {}
        compared = {"compare_s": round(self.compare_s, 4)} if self.compare_s else {}
        return {**numbers, "memory_bytes": self.memory_bytes, **retried, **compared}


@dataclass(frozen=True, slots=True)
class Allowance:
    """Limits of one test, the number of retries, and when the judge stops."""

    cpu_s: float
    memory_bytes: int
    total_cpu_s: float | None = None
    runs_all_tests: bool = False
    retries_timeouts: bool = True

    def is_spent(self, total: _Total) -> bool:
        """Return whether all tests together took too long; sleeping counts at half the rate."""
        if total.compare_s >= _MOST_COMPARING_S:
            return True
        limit_s = self.total_cpu_s
        return limit_s is not None and (total.cpu_s >= limit_s or total.own_wall_s >= wall_s(limit_s))

    def limits(self, cpu_s: float, wall_s: float, keep_bytes: int = 0) -> Limits:
        return Limits(cpu_s, wall_s, self.memory_bytes, max(_OUTPUT_BYTES, keep_bytes), keep_bytes)


class _Total:
    """Totals over the runs of one program."""

    def __init__(self) -> None:
        self.outcomes: list[TestOutcome] = []
        self.cpu_s = self.wall_s = self.own_wall_s = 0.0
        self.memory_bytes = self.n_retried = 0
        self._spent_before_s = spent_s()

    @property
    def compare_s(self) -> float:
        return spent_s() - self._spent_before_s

    def add(self, execution: Execution) -> None:
        self.cpu_s += execution.cpu_s
        self.wall_s += execution.wall_s
        self.own_wall_s += execution.wall_s - execution.waited_s
        self.memory_bytes = max(self.memory_bytes, execution.memory_bytes)

    def result(self, n_tests: int) -> JudgeResult:
        used = (self.cpu_s, self.wall_s, self.memory_bytes, self.n_retried, self.compare_s)
        return JudgeResult(tuple(self.outcomes), n_tests, *used)


def wall_s(cpu_s: float) -> float:
    """Return the limit of wall time without that of waiting for a core."""
    return max(2 * cpu_s, cpu_s + 2)


# --- programs that read stdin -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ScriptTest:
    """The input of a program, and whether its output is correct."""

    stdin: bytes
    expected: bytes
    accepts: Callable[[bytes], bool]
    more_room_bytes: int = 0
    """How much longer a correct output may be than the expected one."""


def judge_script(pool: Pool, program: Program, tests: Sequence[ScriptTest], allowed: Allowance) -> JudgeResult:
    """Run each test in its own process."""
    total = _Total()
    for test in tests:
        execution = _run(pool, program, test, allowed, total)
        outcome = failure(execution)
        if outcome is None:
            outcome = _of_output(execution.stdout, test)
        if outcome.code == "AC" and allowed.is_spent(total):
            outcome = TestOutcome("TLE", "total")
        total.outcomes.append(outcome)
        if (outcome.code != "AC" and not allowed.runs_all_tests) or allowed.is_spent(total):
            break
    return total.result(len(tests))


def _of_output(output: bytes, test: ScriptTest) -> TestOutcome:
    if test.accepts(output):
        return _RIGHT
    found = difference(output, test.expected)
    return TestOutcome("WA", got=shown(output), difference=found, output=_digest_of_words(output))


def _run(pool: Pool, program: Program, test: ScriptTest, allowed: Allowance, total: _Total) -> Execution:
    """Run once. On a loaded machine the process may exceed its limit; if it then ends, it is run again, alone."""
    keep_bytes = room_for(test.expected) + test.more_room_bytes
    own = allowed.limits(allowed.cpu_s, wall_s(allowed.cpu_s), keep_bytes)
    is_crowded = allowed.retries_timeouts and pool.is_crowded
    more_s = _GRACE * allowed.cpu_s
    given = allowed.limits(more_s, wall_s(more_s), keep_bytes) if is_crowded else own
    execution = pool.run(program, test.stdin, given)
    is_far_over = execution.status == "cpu_limit" and is_crowded
    own_wall_s = execution.wall_s - execution.waited_s
    is_late = execution.status in _LATE or execution.cpu_s > allowed.cpu_s or own_wall_s > own.wall_s
    if is_late and not is_far_over and (is_crowded or (allowed.retries_timeouts and pool.is_crowded)):
        total.n_retried += 1
        execution = pool.run_alone(program, test.stdin, own)
    total.add(execution)
    return execution


# --- functions --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FunctionTest(Call):
    """A call, and whether its return value is correct."""

    accepts: Callable[[Answer], bool]
    accepts_opaque: bool = False
    """Whether a value that is not plain data is correct."""


def judge_function(
    pool: Pool, program: Program, name: str, tests: Sequence[FunctionTest], allowed: Allowance
) -> JudgeResult:
    """Run all calls in one process, as their authors intended. If every test must run, start another after a crash."""
    total = _Total()
    while len(total.outcomes) < len(tests):
        rest = tests[len(total.outcomes) :]
        cpu_s = sum(test.cpu_s for test in rest) + allowed.cpu_s
        if allowed.total_cpu_s is not None:
            cpu_s = min(cpu_s, allowed.total_cpu_s - total.cpu_s)
        limits = allowed.limits(max(cpu_s, 0.01), wall_s(max(cpu_s, 0.01)))
        heard = _Heard(rest, total, allowed.runs_all_tests)
        execution = pool.call(program, name, rest, limits, heard.look)
        if _deserves_a_retry(execution, pool, allowed):
            total.n_retried += 1
            heard.outcomes.clear()
            execution = pool.call_alone(program, name, rest, limits, heard.look)
        total.add(execution)
        total.outcomes += _of_calls(execution, heard, total, allowed)
        if not allowed.runs_all_tests:
            break
    return total.result(len(tests))


class _Heard:
    """Checks the answers of one process as they arrive: none is stored, and none is awaited after a failure."""

    def __init__(self, tests: Sequence[FunctionTest], total: _Total, runs_all_tests: bool) -> None:
        self._tests, self._total, self._runs_all_tests = tests, total, runs_all_tests
        self.outcomes: list[TestOutcome] = []

    @property
    def n_unheard(self) -> int:
        return len(self._tests) - len(self.outcomes)

    @property
    def is_enough(self) -> bool:
        """Return whether the judge stopped the process itself, so that its exit status means nothing."""
        if not self.outcomes:
            return False
        last = self.outcomes[-1]
        return last.cause == _TOO_LARGE or self._is_spent or not (self._runs_all_tests or last.code == "AC")

    @property
    def _is_spent(self) -> bool:
        return self._total.compare_s >= _MOST_COMPARING_S

    def look(self, place: int, answer: Answer) -> bool:
        del self.outcomes[place:]
        outcome = _of_answer(answer, self._tests[place])
        self.outcomes.append(TestOutcome("TLE", "comparing") if outcome.code == "AC" and self._is_spent else outcome)
        return not self.is_enough


def _of_answer(answer: Answer, test: FunctionTest) -> TestOutcome:
    if answer.kind in ("value", "packed"):
        if test.accepts(answer):
            return _RIGHT
        return TestOutcome("WA", got=shown(start_of(answer)), output=_digest(answer.body))
    if answer.kind == "raised":
        is_of_memory = answer.body in _OUT_OF_MEMORY
        return TestOutcome("MLE") if is_of_memory else TestOutcome("RE", shown(answer.body))
    if answer.kind == "opaque" and test.accepts_opaque:
        return _RIGHT
    return TestOutcome("WA", answer.kind, shown(answer.body), output=_digest(answer.body))


def _of_calls(execution: Execution, heard: _Heard, total: _Total, allowed: Allowance) -> list[TestOutcome]:
    """Return the outcomes of the calls that were answered, and of the call that ended the process."""
    found, n_unheard = heard.outcomes, heard.n_unheard
    if not n_unheard and not heard.is_enough and execution.status == "memory_limit":
        return [TestOutcome("MLE")] * len(found)
    if heard.is_enough and found[-1].code in ("RE", "WA") and execution.status == "memory_limit":
        found[-1] = TestOutcome("MLE")
    if n_unheard and not heard.is_enough:
        ended = failure(execution)
        found.append(ended if ended is not None else TestOutcome("RE", "it ended before it answered"))
    if heard.n_unheard and allowed.runs_all_tests and allowed.is_spent(total):
        found += [TestOutcome("TLE", "total")] * heard.n_unheard
    return found


# --- endings ----------------------------------------------------------------------------------------------------


def failure(execution: Execution) -> TestOutcome | None:
    """Return the failure that a process shows, or None if it ended well."""
    if execution.status in _STATUS_CODES:
        return TestOutcome(*_STATUS_CODES[execution.status])
    if execution.status == "not_compiled":
        return TestOutcome("CE", _last_line(execution.stderr))
    if execution.status == "signalled":
        return TestOutcome("RE", _signal_name(execution.exit_code))
    if execution.exit_code != 0:
        line = _last_line(execution.stderr)
        return TestOutcome("RE", line if line else f"exit code {execution.exit_code}")
    return None


def _deserves_a_retry(execution: Execution, pool: Pool, allowed: Allowance) -> bool:
    """Return whether a time limit was exceeded on a loaded machine, which may be the cause."""
    return execution.status in _LATE and allowed.retries_timeouts and pool.is_crowded


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(stderr: bytes) -> str:
    return shown(stderr.rstrip().rpartition(b"\n")[2])


def _digest(output: bytes) -> str:
    return hashlib.sha256(output).hexdigest()[:16]


def _digest_of_words(output: bytes) -> str:
    """Return the digest of the output with its words one space apart, computed piece by piece in little memory."""
    found, has_begun, is_apart = hashlib.sha256(), False, False
    for start in range(0, len(output), _PIECE_BYTES):
        piece = output[start : start + _PIECE_BYTES]
        words = piece.split()
        if words:
            if has_begun and (is_apart or piece[:1].isspace()):
                found.update(b" ")
            found.update(b" ".join(words))
            has_begun = True
        is_apart = piece[-1:].isspace()
    return found.hexdigest()[:16]


def shown(data: bytes) -> str:
    """Return a bounded piece of the bytes, for a person."""
    text = data[: 4 * SHOWN_CHARACTERS].decode("utf-8", "replace")
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + " ..."
