"""Base class of datasets whose answers are programs: grader, prompts, and golden completions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.core.protocols import Split
from harness.core.types import GoldenCompletion, Message, Problem, Sampling
from harness.graders.code import CodeGrader
from harness.graders.code.reference import ProgramReference
from harness.tasks._base.dataset import Dataset, DatasetConfig, Row
from harness.tasks._base.prompts import PROGRAMS, Prompt, program_format

# FlowRL's evaluation and training on code (section 4 and appendix).
EVALUATION = Sampling(max_tokens=8192, temperature=0.6, top_p=0.95)
TRAINING = Sampling(max_tokens=8192, temperature=0.6)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramsConfig(DatasetConfig):
    """Options of a dataset of programs."""

    prompt: str = "flowrl"


class Programs(Dataset[ProgramReference]):
    """A dataset whose answers are programs. `Row.more` holds the reference."""

    Config = ProgramsConfig
    PROMPTS = PROGRAMS
    SAMPLING: ClassVar[Sampling] = EVALUATION

    def __init__(self, config: ProgramsConfig) -> None:
        super().__init__(config, CodeGrader(CodeGrader.Config()), self.SAMPLING)

    def reference(self, row: Row) -> ProgramReference:
        reference: ProgramReference = row.more
        return reference

    def messages(self, prompt: Prompt, row: Row) -> tuple[Message, ...]:
        return prompt.messages(problem=row.problem, format=program_format(self.reference(row).starter_code))

    def test_facts(self, split: Split) -> Mapping[str, str]:
        """Describe the coverage of the tests, with the number of problems, and the problems that they can't decide."""
        rows = self._read(split)[0]
        asked = Counter(self.reference(row).coverage for row in self._selected(rows))
        undecided = ((row.id, because) for row in rows if (because := self.reference(row).excluded_because) is not None)
        covered = {coverage: f"{n} problems" for coverage, n in asked.items()}
        return {"tests": _joined(covered), "undecided": _joined(by_reason(undecided))}

    def golden_completions(self, problem: Problem[ProgramReference]) -> Sequence[GoldenCompletion]:
        """Return only replies that can't be correct: these data have no solutions."""
        if problem.reference.excluded_because is not None:
            return []
        return [*not_programs(), GoldenCompletion("a program that does nothing", "```python\npass\n```", "incorrect")]


def by_reason(undecided: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Group problem ids by reason."""
    found: dict[str, list[str]] = {}
    for key, reason in undecided:
        found.setdefault(reason, []).append(key)
    return {reason: f"{len(keys)} ({' '.join(sorted(keys))})" for reason, keys in found.items()}


def _joined(facts: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {text}" for name, text in sorted(facts.items()))


def not_programs() -> list[GoldenCompletion]:
    """Return replies without a program that parses."""
    return [
        GoldenCompletion("an empty reply", "", "incorrect"),
        GoldenCompletion("no program", "I could not solve this problem.", "incorrect"),
        GoldenCompletion("a program that does not parse", "```python\nreturn )\n```", "incorrect"),
    ]
