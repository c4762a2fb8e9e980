"""Judges a function of HumanEval+ or MBPP+ by what the reference solution gives on the same inputs.

The reference solution runs in the sandbox as well, once a problem, in a process of its own.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from harness.core.errors import DataError
from harness.core.types import Answer, Call, Limits, Program
from harness.graders._evalplus_rules import FOUND_OR_NOT, is_right
from harness.graders._judging import Allowance, FunctionTest, Report, judge_function, shown
from harness.graders._plain_values import accepted, answer_room, decode, encode
from harness.graders._program_reference import EvalPlusReference
from harness.sandbox import Pool

_REFERENCE_LIMITS = Limits(cpu_s=300.0, wall_s=600.0, memory_bytes=8 << 30)
_MOST_REFERENCE_BYTES = 256 << 20


class _Asked:
    """One reference solution and its inputs, equal where the problem and the solution are."""

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
) -> tuple[Report, int, dict[str, str]]:
    """What the tests showed, how many of them are the original ones, and the failing one for a person."""
    answers = _expected(pool, _Asked(problem_id, reference))
    inputs = [*reference.base_inputs, *(reference.plus_inputs if has_plus else ())]
    tests = [
        _test(reference, arguments, answer, max(allowed.cpu_s, reference_factor * answer.wall_s))
        for arguments, answer in zip(inputs, answers, strict=False)
    ]
    report = judge_function(pool, Program(_whole(reference, source)), reference.entry_point, tests, allowed)
    place = report.first_failure
    failing: dict[str, str] = {}
    if place is not None:
        failing = {"input": shown(encode(list(inputs[place]))), "expected": shown(answers[place].body)}
    return report, len(reference.base_inputs), failing


def _whole(reference: EvalPlusReference, source: str) -> str:
    """A reply that only continues the prompt is a program together with it."""
    return source if f"def {reference.entry_point}" in source else reference.prompt + source


def _test(reference: EvalPlusReference, arguments: Sequence[object], answer: Answer, cpu_s: float) -> FunctionTest:
    def is_right_value(got: Any) -> bool:
        ours, expected = decode(encode(list(arguments))), decode(answer.body)
        return is_right(reference.dataset, reference.entry_point, ours, expected, got, reference.absolute_tolerance)

    def accepts(body: bytes) -> bool:
        return accepted(body, answer.body, is_right_value)

    # What is no plain data, such as a match, was found.
    accepts_opaque = reference.entry_point in FOUND_OR_NOT and answer.body != b"null"
    return FunctionTest(arguments, cpu_s, answer_room(answer.body), accepts, accepts_opaque)


@functools.lru_cache(maxsize=1024)
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
        told = f"{bad.kind} {shown(bad.body)}" if bad is not None else shown(execution.stderr[-300:])
        raise DataError(
            f"the reference solution of {asked.problem_id} gave {len(answers)} answers to {len(calls)} inputs: "
            f"{execution.status}, {told}"
        )
    return tuple(answers)


def _found(answer: Answer, reference: EvalPlusReference) -> Answer:
    is_found = answer.kind == "opaque" and reference.entry_point in FOUND_OR_NOT
    return replace(answer, kind="value", body=b"true") if is_found else answer
