"""What a program is judged by: its tests, read when they are needed, and its limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from harness.graders.code.output_match import Comparison

Origin = Literal["sample", "private", "official", "generated"]


@dataclass(frozen=True, slots=True)
class ProgramTest:
    """One test. For a program: its stdin and the expected stdout. For a function: one JSON value a line, each one
    positional argument, and the expected value as JSON."""

    input: str
    output: str
    origin: Origin


class TestSource(Protocol):
    """Where the tests of one problem are. Reading may be slow and large, so nobody keeps what it returns."""

    def read(self) -> Sequence[ProgramTest]:
        """All tests of the problem, samples first. Raises DataError when they can't be read."""
        ...


@dataclass(frozen=True, slots=True)
class HeldTests:
    """Tests that are small enough to be held."""

    tests: tuple[ProgramTest, ...]

    def read(self) -> Sequence[ProgramTest]:
        return self.tests


@dataclass(frozen=True, slots=True)
class ProgramReference:
    """A program that reads stdin, or, with `function_name`, a function (a method of `Solution` in LeetCode's way)."""

    tests: TestSource
    coverage: str
    """Which tests these are, for the reader of a report: samples, official, official and generated."""
    function_name: str | None = None
    starter_code: str = ""
    time_limit_s: float | None = None
    memory_limit_bytes: int | None = None
    comparison: Comparison = "lines"
    tolerance: float = 0.0
    """For floats."""
    checker: str | None = None
    """The source of a Python checker, where the data has one."""
    excluded_because: str | None = None
    """Why the tests can't decide this problem (interactive, several answers), if they can't."""


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
