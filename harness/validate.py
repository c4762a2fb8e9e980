"""`harness validate`: every reference graded against completions whose verdict is known, without a model.

A reference that its own grader does not accept, or that accepts its nearest wrong neighbour, is a fault of the data or
of the grader; either would be in every number made with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.errors import ConfigError
from harness.core.progress import Progress
from harness.core.protocols import SpecimenTask, Task
from harness.core.types import Completion, Problem, Specimen, Table, Tokens, Verdict
from harness.grading import Ungraded, in_order


@dataclass(frozen=True, slots=True)
class Finding:
    """One specimen and the verdict that it got."""

    problem_id: str
    specimen: Specimen
    verdict: Verdict

    @property
    def is_as_known(self) -> bool:
        return self.verdict.outcome == self.specimen.outcome

    @property
    def is_ungraded(self) -> bool:
        return self.verdict.outcome == "ungraded"


def validate(task_id: str, task: Task[Any], problems: Sequence[Problem[Any]], progress: Progress) -> list[Finding]:
    """Every specimen of every problem, graded."""
    if not isinstance(task, SpecimenTask):
        raise ConfigError(f"{task_id} has no specimens to validate with")
    specimens = [(problem, specimen) for problem in problems for specimen in task.specimens(problem)]
    asked = [Ungraded(problem, _completion(problem, specimen)) for problem, specimen in specimens]
    progress.begin(f"validate {task_id}", len(specimens))
    findings: list[Finding] = []
    n_surprises = 0
    for (problem, specimen), graded in zip(specimens, in_order(asked, task.grader, None), strict=True):
        findings.append(Finding(problem.id, specimen, graded.verdict))
        n_surprises += not findings[-1].is_as_known
        progress.advance(1, {"surprises": n_surprises})
    progress.end()
    return findings


def _completion(problem: Problem[Any], specimen: Specimen) -> Completion:
    return Completion(problem.id, 0, 0, specimen.text, "stop", Tokens(0, 0))


def summary(task_id: str, findings: Iterable[Finding]) -> Table:
    """How many specimens of each sort were judged as known."""
    total: Counter[tuple[str, str]] = Counter()
    right: Counter[tuple[str, str]] = Counter()
    ungraded: Counter[tuple[str, str]] = Counter()
    for finding in findings:
        key = (finding.specimen.what, finding.specimen.outcome)
        total[key] += 1
        right[key] += finding.is_as_known
        ungraded[key] += finding.is_ungraded
    rows = tuple((*key, count, right[key], ungraded[key]) for key, count in total.items())
    return Table(f"Validation of {task_id}", ("specimen", "known verdict", "graded", "as known", "ungraded"), rows)


def surprises(task_id: str, findings: Iterable[Finding]) -> Table:
    """The specimens that were judged otherwise than known, or could not be."""
    rows = tuple(
        (
            finding.problem_id,
            finding.specimen.what,
            " ".join(finding.specimen.text.split())[-60:],
            finding.verdict.outcome,
            finding.verdict.reason,
        )
        for finding in findings
        if not finding.is_as_known
    )
    return Table(f"Surprises in {task_id}", ("problem", "specimen", "ends in", "verdict", "reason"), rows)
