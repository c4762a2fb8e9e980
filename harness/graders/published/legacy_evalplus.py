"""The judge of evalplus for HumanEval+ and MBPP+, for comparison: verdicts can be forged, and some are wrong."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.extras import require
from harness.core.protocols import Grader
from harness.core.types import Completion, Problem, Verdict
from harness.graders.code.evalplus_rules import FOUND_OR_NOT
from harness.graders.code.extraction import program_in
from harness.graders.code.reference import EvalPlusReference
from harness.sandbox import Level


class LegacyEvalPlusGrader(Grader[EvalPlusReference]):
    """`evalplus.eval.untrusted_check` on the base and the plus inputs, in a fork of this process.

    Not a sandbox: programs run with this user's rights, in a process that holds the expected outputs. Release 0.3.1
    fails every solution of HumanEval/32.
    """

    @dataclass(frozen=True, slots=True)
    class Config:
        runs_untrusted_programs: bool = False
        """Must be set to true: nothing here isolates the programs of a model."""
        least_s: float = 1.0
        reference_factor: float = 4.0

    config: Config

    def facts(self) -> Mapping[str, str]:
        """Return the isolation of programs: none, and reports warn about it."""
        return {"sandbox": Level.LIMITS.title}

    def grade(self, problem: Problem[EvalPlusReference], completion: Completion) -> Verdict:
        if not self.config.runs_untrusted_programs:
            reason = "evalplus' judge does not isolate programs; set the grader's runs_untrusted_programs to allow it"
            return Verdict("ungraded", None, reason=reason)
        require("code", "the grader legacy_evalplus")
        source, reference = program_in(completion.text), problem.reference
        if source is None:
            return Verdict("incorrect", 0.0, reason="no program in the reply")
        whole = source if f"def {reference.entry_point}" in source else reference.prompt + source
        try:
            found = {name: self._check(reference, whole, inputs) for name, inputs in _sets(reference)}
        except Exception as error:  # a program can make evalplus raise
            return Verdict("ungraded", None, source, f"evalplus raised {type(error).__name__}: {error}")
        if all(status == "pass" for status in found.values()):
            return Verdict("correct", 1.0, source, details=found)
        return Verdict("incorrect", 0.0, source, ", ".join(f"{n}: {s}" for n, s in found.items()), details=found)

    def _check(self, reference: EvalPlusReference, source: str, inputs: Sequence[Sequence[object]]) -> str:
        from evalplus.eval import untrusted_check

        expected, seconds = _expected(_Solution(reference, inputs))
        status, _ = untrusted_check(
            reference.dataset,
            source,
            list(inputs),
            reference.entry_point,
            expected,
            reference.absolute_tolerance,
            seconds,
            fast_check=True,
            min_time_limit=self.config.least_s,
            gt_time_limit_factor=self.config.reference_factor,
        )
        return str(status)


class _Solution:
    """A reference solution with inputs, as a key of the cache."""

    def __init__(self, reference: EvalPlusReference, inputs: Sequence[Sequence[object]]) -> None:
        self.reference, self.inputs = reference, inputs
        first = repr(inputs[0])[:1000]
        self._key = (reference.entry_point, reference.prompt, reference.canonical_solution, len(inputs), first)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Solution) and self._key == other._key


@functools.lru_cache(maxsize=1024)
def _expected(solution: _Solution) -> tuple[Any, Any]:
    from evalplus.gen.util import trusted_exec

    reference = solution.reference
    found: tuple[Any, Any] = trusted_exec(
        reference.prompt + reference.canonical_solution,
        list(solution.inputs),
        reference.entry_point,
        record_time=True,
        output_not_none=reference.entry_point in FOUND_OR_NOT,
    )
    return found


def _sets(reference: EvalPlusReference) -> list[tuple[str, Sequence[Sequence[object]]]]:
    sets = [("base", reference.base_inputs), ("plus", reference.plus_inputs)]
    return [(name, inputs) for name, inputs in sets if inputs]


GRADER = LegacyEvalPlusGrader
