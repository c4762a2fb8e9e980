"""Judge a function of HumanEval+ or MBPP+ by the reference solution's outputs on the same inputs.

The reference solution runs in the sandbox as well, once per problem, in its own process.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.core.errors import DataError
from harness.core.types import Answer, Call, Limits, Program
from harness.graders.code.equality import ExpectedAnswer
from harness.graders.code.evalplus_rules import FOUND_OR_NOT
from harness.graders.code.isolated_compare import is_right_answer
from harness.graders.code.judge import Allowance, FunctionTest, JudgeResult, judge_function, shown
from harness.graders.code.reference import EvalPlusReference
from harness.graders.code.values import encode
from harness.sandbox import Pool

_REFERENCE_LIMITS = Limits(cpu_s=300.0, wall_s=600.0, memory_bytes=8 << 30)
_MOST_REFERENCE_BYTES = 256 << 20


class _Asked:
    """One reference solution with its inputs; equal for equal problem and solution."""

    def __init__(self, problem_id: str, reference: EvalPlusReference) -> None:
        self.problem_id, self.reference = problem_id, reference
        self._identity = (
            *(problem_id, reference.entry_point, reference.prompt, reference.canonical_solution),
            *(len(reference.base_inputs), len(reference.plus_inputs)),
        )

    def __hash__(self) -> int:
        return hash(self._identity)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Asked) and self._identity == other._identity


def judge_evalplus(
    pool: Pool,
    problem_id: str,
    reference: EvalPlusReference,
    source: str,
    allowed: Allowance,
    reference_factor: float,
    has_plus: bool,
) -> tuple[JudgeResult, int, dict[str, str]]:
    """Return the test results, the number of original tests, and a description of the failing one."""
    n_base = len(reference.base_inputs)
    tests = _tests(pool, _Asked(problem_id, reference), allowed.cpu_s, reference_factor)
    chosen = tests if has_plus else tests[:n_base]
    result = judge_function(pool, Program(_whole(reference, source)), reference.entry_point, chosen, allowed)
    if result.first_failure is None:
        return result, n_base, {}
    failing = tests[result.first_failure]
    return result, n_base, {"input": shown(encode(list(failing.arguments))), "expected": shown(failing.expected)}


def _whole(reference: EvalPlusReference, source: str) -> str:
    """Join the prompt with a reply that only continues it."""
    return source if f"def {reference.entry_point}" in source else reference.prompt + source


@functools.lru_cache(maxsize=1024)
def _tests(pool: Pool, asked: _Asked, least_cpu_s: float, reference_factor: float) -> tuple[_Test, ...]:
    reference = asked.reference
    inputs = [*reference.base_inputs, *reference.plus_inputs]
    return tuple(
        _test(reference, arguments, answer, max(least_cpu_s, reference_factor * answer.wall_s))
        for arguments, answer in zip(inputs, _expected(pool, asked), strict=True)
    )


@dataclass(frozen=True, slots=True)
class _Test(FunctionTest):
    expected: bytes = b""


def _test(reference: EvalPlusReference, arguments: Sequence[object], answer: Answer, cpu_s: float) -> _Test:
    rule = ("evalplus", reference.dataset, reference.entry_point, arguments, reference.absolute_tolerance)
    expected = ExpectedAnswer(answer.body)
    return _Test(
        arguments,
        cpu_s,
        expected.room_bytes,
        functools.partial(is_right_answer, rule, expected),
        # A value that is not plain data, such as a regex match, counts as found.
        accepts_opaque=reference.entry_point in FOUND_OR_NOT and answer.body != b"null",
        expected=answer.body,
    )


def _expected(pool: Pool, asked: _Asked) -> tuple[Answer, ...]:
    reference = asked.reference
    calls = [
        Call(arguments, _REFERENCE_LIMITS.cpu_s, _MOST_REFERENCE_BYTES)
        for arguments in (*reference.base_inputs, *reference.plus_inputs)
    ]
    if not calls:
        raise DataError(f"{asked.problem_id} has no inputs")
    program = Program(reference.prompt + reference.canonical_solution)
    execution = pool.call(program, reference.entry_point, calls, _REFERENCE_LIMITS)
    answers = [_found(answer, reference) for answer in execution.answers]
    if len(answers) < len(calls) or any(answer.kind != "value" for answer in answers):
        bad = next((answer for answer in answers if answer.kind != "value"), None)
        text = f"{bad.kind} {shown(bad.body)}" if bad is not None else shown(execution.stderr[-300:])
        raise DataError(
            f"the reference solution of {asked.problem_id} gave {len(answers)} answers to {len(calls)} inputs: "
            f"{execution.status}, {text}"
        )
    return tuple(answers)


def _found(answer: Answer, reference: EvalPlusReference) -> Answer:
    is_found = answer.kind == "opaque" and reference.entry_point in FOUND_OR_NOT
    return replace(answer, kind="value", body=b"true") if is_found else answer
