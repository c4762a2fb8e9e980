"""LiveCodeBench's own verdicts, including its known rejections of correct programs, to reproduce published numbers."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from harness.core.errors import DataError, SandboxError
from harness.core.protocols import Grader
from harness.core.types import Completion, Problem, Program, Verdict
from harness.graders.code.equality import ExpectedAnswer
from harness.graders.code.extraction import official_program_in
from harness.graders.code.isolated_compare import is_right_answer
from harness.graders.code.judge import Allowance, FunctionTest, JudgeResult, TestOutcome, judge_function, shown
from harness.graders.code.output_match import room_for
from harness.graders.code.reference import ProgramReference, ProgramTest
from harness.graders.code.values import encode
from harness.graders.published.lcb_mock import driver
from harness.sandbox import Level, Pool, open_pool

_FAILURES: Mapping[str, Literal["TLE", "RE"]] = {"timeout": "TLE", "error": "RE"}


class LcbOfficialGrader(Grader[ProgramReference]):
    """Grades as lcb_runner's checker: its extraction, its mock of stdin, its comparison, its alarm.

    Programs run in our sandbox, and the comparison outside of it, so programs that forge a verdict there cannot do so
    here. Problems that the tests can't decide are graded all the same, as there.
    """

    @dataclass(frozen=True, slots=True)
    class Config:
        timeout_s: int = 6
        memory_bytes: int = 4 << 30
        n_workers: int | None = None
        least_level: Literal["limits", "sealed", "landlock", "namespaces"] = "sealed"

        def __post_init__(self) -> None:
            if self.timeout_s < 1:
                raise ValueError("timeout_s must be at least 1")

    config: Config

    @functools.cached_property
    def _pool(self) -> Pool:
        return open_pool(Level[self.config.least_level.upper()], self.config.n_workers)

    @property
    def n_at_once(self) -> int:  # type: ignore[override]  # the pool is opened on first use
        """The number of programs judged at the same time."""
        return self._pool.n_workers

    def facts(self) -> Mapping[str, str]:
        """Return the isolation of programs. Raises UsageError if it is less than `least_level`."""
        return {"sandbox": self._pool.level.title}

    def grade(self, problem: Problem[ProgramReference], completion: Completion) -> Verdict:
        source, reference = official_program_in(completion.text), problem.reference
        if not source:
            return Verdict("incorrect", 0.0, reason="no program between two fences")
        try:
            tests = reference.tests.read()
            if not tests:
                return Verdict("ungraded", None, source, "the problem has no tests")
            return self._judge(reference, source, tests)
        except (SandboxError, DataError) as error:
            return Verdict("ungraded", None, source, str(error))

    def _judge(self, reference: ProgramReference, source: str, tests: Sequence[ProgramTest]) -> Verdict:
        config = self.config
        total_s = float((config.timeout_s + 1) * len(tests) + 5)
        allowed = Allowance(total_s, config.memory_bytes, total_cpu_s=total_s, retries_timeouts=False)
        name = reference.function_name
        program = Program(driver(source, name, config.timeout_s))
        make_test = _script_test if name is None else _function_test
        function_tests = [make_test(test, total_s) for test in tests]
        result = judge_function(self._pool, program, "_run" if name is None else "_call", function_tests, allowed)
        return self._verdict(source, result, reference.coverage)

    def _verdict(self, source: str, result: JudgeResult, coverage: str) -> Verdict:
        counts = {"n_passed": result.n_passed, "n_tests": result.n_tests, "coverage": coverage}
        details = {**counts, "sandbox": self._pool.level.title, **result.used()}
        place = result.first_failure
        if place is None:
            return Verdict("correct", 1.0, source, details={"verdict": "AC", **details})
        outcome = _recode(result.outcomes[place])
        failure = {"verdict": outcome.code, "test": place, "cause": outcome.cause, "got": outcome.got}
        failure["behaviour"] = result.behaviour
        return Verdict("incorrect", 0.0, source, f"{outcome.code} on test {place + 1}", {**failure, **details})


def _recode(outcome: TestOutcome) -> TestOutcome:
    """Turn an answer that reports a failure into its verdict code. The mock catches exceptions and returns them."""
    for kind, code in _FAILURES.items():
        if outcome.code == "WA" and outcome.got.startswith(f'["{kind}",'):
            return replace(outcome, code=code, cause=outcome.got, got="")
    return outcome


def _script_test(test: ProgramTest, limit_s: float) -> FunctionTest:
    return _make_test((test.input,), "output", test.output, limit_s)


def _function_test(test: ProgramTest, limit_s: float) -> FunctionTest:
    try:
        arguments = [json.loads(line) for line in test.input.split("\n")]
        return _make_test((arguments,), "value", json.loads(test.output), limit_s)
    except (ValueError, RecursionError) as error:
        raise DataError(f"a test has a value that is not JSON: {error}; {shown(test.input.encode())}") from None


def _make_test(arguments: Sequence[object], kind: str, expected: object, limit_s: float) -> FunctionTest:
    answer = ExpectedAnswer(encode([kind, expected]))
    accepts = functools.partial(is_right_answer, (f"official_{kind}",), answer)
    return FunctionTest(arguments, limit_s, max(room_for(answer.text), answer.room_bytes), accepts)


GRADER = LcbOfficialGrader
