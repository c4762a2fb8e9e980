"""The reference of a programming problem: its tests, read on demand, and its limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from harness.graders.code.output_match import Comparison, ToleranceKind

Origin = Literal["sample", "private", "official", "generated"]


@dataclass(frozen=True, slots=True)
class ProgramTest:
    """One test. For a program: its stdin and the expected stdout. For a function: one JSON value per line, each one
    positional argument, and the expected value as JSON.
    """

    input: str
    output: str
    origin: Origin


class TestSource(Protocol):
    """Where the tests of one problem are. Reading may be slow and the result large, so it is not cached."""

    def read(self) -> Sequence[ProgramTest]:
        """Return all tests of the problem, samples first. Raises DataError if they can't be read."""
        ...


@dataclass(frozen=True, slots=True)
class HeldTests:
    """Tests small enough to keep in memory."""

    tests: tuple[ProgramTest, ...]

    def read(self) -> Sequence[ProgramTest]:
        return self.tests


@dataclass(frozen=True, slots=True)
class ProgramReference:
    """A program that reads stdin or, with `function_name`, a function (a method of `Solution` on LeetCode)."""

    tests: TestSource
    coverage: str
    """The tests used, for the report: samples, official, official and generated."""
    function_name: str | None = None
    starter_code: str = ""
    time_limit_s: float | None = None
    memory_limit_bytes: int | None = None
    comparison: Comparison = "lines"
    tolerance: float = 0.0
    """Tolerance of the comparisons `floats` and `close_lines`, and of the floats that a function returns."""
    tolerance_kind: ToleranceKind = "either"
    """Which errors the statement tolerates."""
    checker: str | None = None
    """The source of a Python checker, if the data has one."""
    excluded_because: str | None = None
    """Why the tests can't decide this problem (interactive, several correct outputs), or None."""


@dataclass(frozen=True, slots=True)
class EvalPlusReference:
    """A problem of HumanEval+ or MBPP+: a solution whose outputs on the inputs are the expected ones."""

    entry_point: str
    prompt: str
    canonical_solution: str
    base_inputs: Sequence[Sequence[object]]
    plus_inputs: Sequence[Sequence[object]]
    absolute_tolerance: float
    dataset: Literal["humaneval", "mbpp"]
