"""Programs judged by running them: HumanEval+, MBPP+, LiveCodeBench, CodeForces. The verdict is made outside the
sandbox.
"""

from __future__ import annotations

import concurrent.futures
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from harness.core.errors import DataError, SandboxError
from harness.core.protocols import Grader
from harness.core.types import Completion, Execution, Language, Limits, Problem, Program, Verdict
from harness.graders.code.equality import ExpectedAnswer
from harness.graders.code.evalplus_judge import judge_evalplus
from harness.graders.code.extraction import program_in
from harness.graders.code.isolated_compare import is_right_answer, is_right_output
from harness.graders.code.judge import (
    Allowance,
    FunctionTest,
    JudgeResult,
    ScriptTest,
    judge_function,
    judge_script,
    shown,
)
from harness.graders.code.output_match import Comparison, room_for
from harness.graders.code.prelude import PRELUDE, with_files
from harness.graders.code.reference import EvalPlusReference, ProgramReference, ProgramTest
from harness.graders.code.values import encode
from harness.sandbox import Level, Pool, open_pool

T = TypeVar("T")

_MOST_SOURCE_BYTES = 256 << 10
_CHECKED_BYTES = 4 << 20
_CHECKER_LIMITS = Limits(cpu_s=10.0, wall_s=20.0, memory_bytes=1 << 30, keep_bytes=1 << 10)


class CodeGrader(Grader[ProgramReference | EvalPlusReference]):
    """Sets `details["verdict"]` to AC, WA, TLE, MLE, OLE, RE or CE, with the first failing test.

    Wrong programs that do the same on all tests that were run have the same `details["behaviour"]`.

    A program never has access to an expected output. A sandbox failure, or a problem that the tests can't decide, is
    `ungraded`.
    """

    @dataclass(frozen=True, slots=True)
    class Config:
        cpu_s: float = 6.0
        """Time limit for each test of a problem without a limit of its own. For HumanEval+ and MBPP+ it is the larger
        of `least_cpu_s` and `reference_factor` times the time of the reference solution.
        """
        least_cpu_s: float = 4.0
        reference_factor: float = 4.0
        time_factor: float = 1.0
        """Factor on every time limit, for a slower machine than the one that the limits were made for."""
        memory_bytes: int | None = None
        """Memory limit of problems without one. Default: 1 GiB, and 4 GiB for HumanEval+ and MBPP+, as in evalplus."""
        total_cpu_s: float | None = None
        """Time limit for all tests of one program together. Default: 60 for HumanEval+ and MBPP+."""
        comparison: Comparison | None = None
        """Overrides each problem's comparison. `lines`: LiveCodeBench's; `tokens`: the usual one of CodeForces;
        `words`: the same in any case; `floats`: with `tolerance`; `close_lines`: `lines` with `tolerance`.
        """
        tolerance: float = 0.0
        """Tolerance of `floats`, for return values as well."""
        prelude: bool = True
        """Whether programs may use names of the standard library without importing them, as accepted solutions do."""
        language: Language = "python"
        """Language of programs that read stdin. C++ is compiled by the machine's compiler, with -O2 -std=c++17."""
        inputs: Literal["base", "plus"] = "plus"
        """HumanEval+ and MBPP+: the original tests only, or the original and the added tests."""
        tests: Literal["all", "longest"] = "all"
        """`longest`: only the `n_tests` tests with the longest inputs."""
        n_tests: int = 15
        reward: Literal["all", "fraction"] = "all"
        """1 if all tests pass, or the share of tests passed; the latter runs every test."""
        retries_timeouts: bool = True
        """On a loaded machine, a program over its time limit is run once more, alone, before the verdict is TLE."""
        n_workers: int | None = None
        least_level: Literal["limits", "sealed", "landlock", "namespaces"] = "sealed"
        """Weakest sandbox level in which programs may run here, see `harness doctor`."""

        def __post_init__(self) -> None:
            if min(self.cpu_s, self.least_cpu_s, self.reference_factor, self.time_factor) <= 0:
                raise ValueError("time limits and factors must be above 0")
            if self.n_tests < 1 or (self.n_workers is not None and self.n_workers < 1):
                raise ValueError("n_tests and n_workers must be at least 1")
            if self.comparison in ("floats", "close_lines") and self.tolerance <= 0:
                raise ValueError(f"comparison = {self.comparison!r} needs a tolerance above 0, such as 1e-6")

    config: Config

    @functools.cached_property
    def _pool(self) -> Pool:
        return open_pool(Level[self.config.least_level.upper()], self.config.n_workers)

    @property
    def n_at_once(self) -> int:  # type: ignore[override]  # the pool is opened on first use
        """Number of programs judged at the same time."""
        return self._pool.n_workers

    def facts(self) -> Mapping[str, str]:
        """Return the conditions that verdicts depend on. Raises UsageError if programs must not run."""
        self._pool.check(self.config.language)
        return {"sandbox": self._pool.level.title}

    def grade(self, problem: Problem[ProgramReference | EvalPlusReference], completion: Completion) -> Verdict:
        program = program_in(completion.text, self.config.language)
        if program is None:
            cut = completion.finish_reason == "length"
            return Verdict("incorrect", 0.0, reason="truncated" if cut else "no program in the reply")
        reference = problem.reference
        if isinstance(reference, ProgramReference) and reference.excluded_because is not None:
            return Verdict("ungraded", None, program, f"excluded: {reference.excluded_because}")
        if len(program.encode("utf-8", "replace")) > _MOST_SOURCE_BYTES:
            return Verdict("incorrect", 0.0, reason="CE: more than 256 KiB of source", details={"verdict": "CE"})
        try:
            if isinstance(reference, EvalPlusReference):
                if self.config.language != "python":
                    return Verdict("ungraded", None, program, "HumanEval+ and MBPP+ are judged in Python only")
                return self._evalplus(problem.id, reference, program)
            return self._program(reference, program)
        except (SandboxError, DataError) as error:
            return Verdict("ungraded", None, program, str(error))

    def grade_many(
        self, items: Iterable[tuple[Problem[ProgramReference | EvalPlusReference], Completion]]
    ) -> Iterator[Verdict]:
        """Return verdicts in the order of the items; as many are judged at a time as there are workers."""
        with concurrent.futures.ThreadPoolExecutor(self._pool.n_workers) as threads:
            yield from threads.map(lambda item: self.grade(*item), items)

    # --- stdin and functions ------------------------------------------------------------------------------------

    def _program(self, reference: ProgramReference, source: str) -> Verdict:
        tests = self._chosen(reference.tests.read())
        if not tests:
            return Verdict("ungraded", None, source, "the problem has no tests")
        language = self.config.language
        if language != "python" and reference.function_name is not None:
            return Verdict("ungraded", None, source, "functions are judged in Python only")
        program = Program(source, PRELUDE if self.config.prelude and language == "python" else "", language)
        allowed = self._allowance(reference.time_limit_s, reference.memory_limit_bytes, 1 << 30, None)
        by_tolerance: set[str] = set()
        if reference.function_name is None:
            scripts = [self._script_test(reference, test, by_tolerance) for test in tests]
            result = judge_script(self._pool, program, scripts, allowed)
        else:
            functions = [self._function_test(reference, test, allowed.cpu_s, by_tolerance) for test in tests]
            result = judge_function(self._pool, program, reference.function_name, functions, allowed)
        place = result.first_failure
        details: dict[str, Any] = {} if place is None else _failing(tests[place])
        if by_tolerance:
            details["n_within_tolerance"] = len(by_tolerance)
            if place is None:
                details["verdict_without_tolerance"] = "WA"
        return self._verdict(source, result, {**details, "coverage": reference.coverage})

    def _script_test(self, reference: ProgramReference, test: ProgramTest, by_tolerance: set[str]) -> ScriptTest:
        stdin, expected = (text.encode("utf-8", "surrogateescape") for text in (test.input, test.output))

        if reference.checker is not None and self.config.comparison is None:
            checker = reference.checker
            return ScriptTest(stdin, expected, lambda output: self._checked(checker, test, output), _CHECKED_BYTES)
        rule, tolerance, kind = reference.comparison, reference.tolerance, reference.tolerance_kind
        if self.config.comparison is not None:
            rule, tolerance, kind = self.config.comparison, self.config.tolerance, "either"
        accepts = functools.partial(is_right_output, rule, tolerance, kind, expected)
        if rule == "close_lines":
            exactly = functools.partial(is_right_output, "lines", 0.0, kind, expected)
            accepts = functools.partial(_accept, exactly, accepts, test.input, by_tolerance)
        return ScriptTest(stdin, expected, accepts)

    def _checked(self, checker: str, test: ProgramTest, output: bytes) -> bool:
        """Return the checker's outcome. If it fails on the expected output as well, the checker is broken."""
        if len(output) > room_for(test.output.encode("utf-8", "surrogateescape")) + _CHECKED_BYTES:
            return False
        execution = self._run_checker(checker, test, output.decode("utf-8", "replace"))
        if _has_ended(execution):
            return execution.stdout.strip() in (b"1", b"1.0", b"True")
        on_expected = self._run_checker(checker, test, test.output)
        if not _has_ended(on_expected):
            text = shown(on_expected.stderr[-300:])
            raise SandboxError(f"the problem's checker failed: {on_expected.status}, {text}")
        return False

    def _run_checker(self, checker: str, test: ProgramTest, output: str) -> Execution:
        """Run the checker in a sandbox in its own process: it is trusted, but reads untrusted output."""
        return self._pool.run(Program(with_files(checker, test.input, test.output, output)), b"", _CHECKER_LIMITS)

    def _function_test(
        self, reference: ProgramReference, test: ProgramTest, cpu_s: float, by_tolerance: set[str]
    ) -> FunctionTest:
        try:
            arguments = [json.loads(line) for line in test.input.split("\n") if line.strip()]
            answer = ExpectedAnswer(encode(json.loads(test.output)))
        except (ValueError, RecursionError) as error:
            raise DataError(f"a test has a value that is not JSON: {error}") from None
        is_overridden = self.config.tolerance > 0 or self.config.comparison is not None
        accepts = functools.partial(is_right_answer, ("plain", self.config.tolerance), answer)
        if reference.tolerance and not is_overridden:
            absolute, relative = (
                reference.tolerance if reference.tolerance_kind in ("either", one) else 0.0
                for one in ("absolute", "relative")
            )
            close = functools.partial(is_right_answer, ("plain", absolute, relative), answer)
            accepts = functools.partial(_accept, accepts, close, test.input, by_tolerance)
        return FunctionTest(arguments, cpu_s, answer.room_bytes, accepts)

    def _chosen(self, tests: Sequence[ProgramTest]) -> Sequence[ProgramTest]:
        if self.config.tests == "all":
            return tests
        by_length = sorted(range(len(tests)), key=lambda place: (-len(tests[place].input), place))
        return [tests[place] for place in sorted(by_length[: self.config.n_tests])]

    # --- HumanEval+ and MBPP+ -----------------------------------------------------------------------------------

    def _evalplus(self, problem_id: str, reference: EvalPlusReference, source: str) -> Verdict:
        config = self.config
        allowed = self._allowance(config.least_cpu_s, None, 4 << 30, 60.0)
        result, n_base, failing = judge_evalplus(
            self._pool, problem_id, reference, source, allowed, config.reference_factor, config.inputs == "plus"
        )
        base = result.n_passed if result.first_failure is None else result.first_failure
        sets = {"base": "passed" if base >= n_base else "failed"}
        return self._verdict(source, result, {**failing, **sets})

    # --- both ---------------------------------------------------------------------------------------------------

    def _allowance(
        self, cpu_s: float | None, memory_bytes: int | None, usual_memory: int, usual_total: float | None
    ) -> Allowance:
        config = self.config
        memory = next(m for m in (memory_bytes, config.memory_bytes, usual_memory) if m is not None)
        total = config.total_cpu_s if config.total_cpu_s is not None else usual_total
        return Allowance(
            cpu_s=(cpu_s if cpu_s is not None else config.cpu_s) * config.time_factor,
            memory_bytes=memory,
            total_cpu_s=total,
            runs_all_tests=config.reward == "fraction",
            retries_timeouts=config.retries_timeouts,
        )

    def _verdict(self, source: str, result: JudgeResult, more: Mapping[str, Any]) -> Verdict:
        place = result.first_failure
        share = result.n_passed / result.n_tests
        counts = {"n_passed": result.n_passed, "n_tests": result.n_tests, "sandbox": self._pool.level.title}
        details = {**more, **counts, **result.used()}
        if place is None:
            return Verdict("correct", 1.0, source, details={"verdict": "AC", **details})
        outcome = result.outcomes[place]
        cause = f" ({outcome.cause})" if outcome.cause else ""
        reward = share if self.config.reward == "fraction" else 0.0
        details_of_test = {"verdict": outcome.code, "test": place, "cause": outcome.cause, "got": outcome.got}
        details_of_test["behaviour"] = result.behaviour
        if outcome.difference:
            details_of_test["difference"] = outcome.difference
        return Verdict(
            "incorrect", reward, source, f"{outcome.code} on test {place + 1}{cause}", {**details_of_test, **details}
        )


def _accept(exactly: Callable[[T], bool], closely: Callable[[T], bool], test: str, noted: set[str], output: T) -> bool:
    """Return whether an output is correct, and note the test if only the tolerance of the statement makes it so."""
    if exactly(output):
        return True
    if not closely(output):
        return False
    noted.add(test)
    return True


def _has_ended(execution: Execution) -> bool:
    return execution.status == "exited" and execution.exit_code == 0


def _failing(test: ProgramTest) -> dict[str, str]:
    return {
        "origin": test.origin,
        "input": shown(test.input.encode("utf-8", "replace")),
        "expected": shown(test.output.encode("utf-8", "replace")),
    }


GRADER = CodeGrader
