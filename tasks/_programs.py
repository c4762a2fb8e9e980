"""What the data sets of programs share: the judge, the prompts, and replies that can't be right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.core.types import Message, Problem, Sampling, Specimen
from harness.graders._program_reference import ProgramReference
from harness.graders.code import CodeGrader
from harness.tasks._dataset import Dataset, DatasetConfig, Row
from harness.tasks._prompts import PROGRAMS, Prompt, program_format

# FlowRL's evaluation and training on code (section 4 and appendix).
EVALUATION = Sampling(max_tokens=8192, temperature=0.6, top_p=0.95)
TRAINING = Sampling(max_tokens=8192, temperature=0.6)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramsConfig(DatasetConfig):
    """Options of a data set of programs."""

    prompt: str = "flowrl"


class Programs(Dataset[ProgramReference]):
    """A data set whose answers are programs. `Row.more` holds the reference."""

    Config = ProgramsConfig
    PROMPTS = PROGRAMS
    SAMPLING: ClassVar[Sampling] = EVALUATION
    JUDGING: ClassVar[CodeGrader.Config] = CodeGrader.Config()

    def __init__(self, config: ProgramsConfig) -> None:
        super().__init__(config, CodeGrader(self.JUDGING), self.SAMPLING)

    def reference(self, row: Row) -> ProgramReference:
        reference: ProgramReference = row.more
        return reference

    def messages(self, prompt: Prompt, row: Row) -> tuple[Message, ...]:
        return prompt.messages(problem=row.problem, format=program_format(self.reference(row).starter_code))

    def specimens(self, problem: Problem[ProgramReference]) -> Sequence[Specimen]:
        """No solution comes with these data, so only replies that can't be right."""
        if problem.reference.excluded_because is not None:
            return []
        return [*not_programs(), Specimen("a program that does nothing", "```python\npass\n```", "incorrect")]


def not_programs() -> list[Specimen]:
    return [
        Specimen("an empty reply", "", "incorrect"),
        Specimen("no program", "I could not solve this problem.", "incorrect"),
        Specimen("a program that does not parse", "```python\nreturn )\n```", "incorrect"),
    ]
