"""The four kinds of answers that rows of one's own may have, each with its grader, prompts and reference."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from harness.core.errors import DataError
from harness.core.protocols import Grader
from harness.core.types import GoldenCompletion
from harness.graders.choice import ChoiceGrader
from harness.graders.code import CodeGrader
from harness.graders.code.reference import HeldTests, ProgramReference
from harness.graders.exact import ExactGrader
from harness.graders.math import MathGrader
from harness.graders.math.reference import MathReference, typed_reference
from harness.graders.references.choice import ChoiceReference
from harness.tasks._base import golden_answers
from harness.tasks._base.maths import last_boxed
from harness.tasks._base.program_tests import function_name_of, tests_of
from harness.tasks._base.programs import not_programs
from harness.tasks._base.prompts import CHOICES, MATHS, PROGRAMS, QUESTIONS, Prompt, program_format

MOST_OPTIONS = 26
_FOUR = "A) {A}\nB) {B}\nC) {C}\nD) {D}"


@dataclass(frozen=True, slots=True)
class OwnColumns:
    """The columns of the answers."""

    answer: str
    choices: str
    tests: str
    extract: Literal["whole", "hashes", "boxed"]


def text_cell(record: Mapping[str, Any], column: str, where: str) -> str:
    """Return a cell as text. Numbers are texts; a cell that is absent, empty or something else raises DataError."""
    if column not in record:
        raise DataError(f"{where} has no column {column!r}; it has {', '.join(record)}")
    value = record[column]
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise DataError(
            f"{where} has {json.dumps(value, default=str)[:60]} for {column!r}, which must be text or a number"
        )
    text = str(value)
    if not text.strip():
        raise DataError(f"{where} has an empty {column!r}")
    return text


class AnswerKind(ABC):
    """How the answers of one grader are read from rows, asked for and shown."""

    grader: Grader[Any]
    prompts: ClassVar[Mapping[str, Prompt]]
    default_prompt: ClassVar[str]
    required: ClassVar[Sequence[str]] = ()
    """Placeholders besides the question that a template must have."""

    @abstractmethod
    def fields(self, columns: OwnColumns) -> Mapping[str, str]:
        """Return the columns that are read, each with its meaning."""

    def parse(self, record: Mapping[str, Any], columns: OwnColumns, where: str) -> tuple[str, Any]:
        """Return the answer as text, which the fingerprint covers, and any data besides. Raise DataError."""
        answer = text_cell(record, columns.answer, where)
        if columns.extract == "boxed":
            return last_boxed(answer, where), None
        if columns.extract == "hashes":
            _, mark, answer = answer.rpartition("####")
            if not mark or not answer.strip():
                raise DataError(f"{where} has no answer after #### in {columns.answer!r}")
        return answer.strip(), None

    @abstractmethod
    def reference(self, answer: str, more: Any, where: str) -> Any:
        """Return the grader's reference. Raise DataError if the grader can't read the answer."""

    def values(self, more: Any) -> Mapping[str, str]:  # noqa: ARG002
        """Return the placeholders of the prompt besides the question."""
        return {}

    @abstractmethod
    def describe(self, reference: Any) -> tuple[str, str]:
        """Return the kind of a reference, and its text with the kind for a reader."""

    def reply(self, answer: str, prompt: str) -> str:
        """Return the reply that a few-shot example without a solution shows."""
        return f"\\boxed{{{answer}}}" if "boxed" in prompt else f"Answer: {answer}"

    def golden(self, answer: str, reference: Any) -> str:  # noqa: ARG002
        """Return a reply that is the answer."""
        return f"The final answer is $\\boxed{{{answer}}}$."

    @abstractmethod
    def golden_completions(self, reference: Any) -> Sequence[GoldenCompletion]: ...


class MathAnswers(AnswerKind):
    prompts = MATHS
    default_prompt = "flowrl"

    def __init__(self) -> None:
        self.grader = MathGrader(MathGrader.Config())

    def fields(self, columns: OwnColumns) -> Mapping[str, str]:
        return {columns.answer: "the answer, read by its form: a number, a set, an interval, an expression, a text"}

    def reference(self, answer: str, more: Any, where: str) -> MathReference:  # noqa: ARG002
        try:
            return typed_reference(answer)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None

    def describe(self, reference: MathReference) -> tuple[str, str]:
        unit = f" in {reference.unit}" if reference.unit else ""
        return reference.kind, f"{reference.text}  ({reference.kind}{unit})"

    def golden_completions(self, reference: MathReference) -> Sequence[GoldenCompletion]:
        return golden_answers.golden_completions(reference)


class ExactAnswers(AnswerKind):
    prompts = QUESTIONS
    default_prompt = "simple"

    def __init__(self) -> None:
        self.grader = ExactGrader()

    def fields(self, columns: OwnColumns) -> Mapping[str, str]:
        return {columns.answer: "the text that a reply must be equal to, apart from white space at both ends"}

    def reference(self, answer: str, more: Any, where: str) -> str:  # noqa: ARG002
        return answer

    def describe(self, reference: str) -> tuple[str, str]:
        return "text", reference

    def reply(self, answer: str, prompt: str) -> str:  # noqa: ARG002
        return answer

    def golden(self, answer: str, reference: Any) -> str:  # noqa: ARG002
        return answer

    def golden_completions(self, reference: str) -> Sequence[GoldenCompletion]:
        return [
            GoldenCompletion("the answer", reference, "correct"),
            GoldenCompletion("an empty reply", "", "incorrect"),
            GoldenCompletion("the answer and more", f"{reference} .", "incorrect"),
        ]


class ChoiceAnswers(AnswerKind):
    prompts: ClassVar[Mapping[str, Prompt]] = {
        name: replace(prompt, user=prompt.user.replace(_FOUR, "{options}").replace("one of ABCD", "one of {letters}"))
        for name, prompt in CHOICES.items()
    }
    default_prompt = "simple"
    required = ("{options}",)

    def __init__(self) -> None:
        self.grader = ChoiceGrader(ChoiceGrader.Config())

    def fields(self, columns: OwnColumns) -> Mapping[str, str]:
        return {
            columns.choices: "the options, a list",
            columns.answer: "a letter, a number from 0, or an option's text",
        }

    def parse(self, record: Mapping[str, Any], columns: OwnColumns, where: str) -> tuple[str, Any]:
        options = record.get(columns.choices)
        if isinstance(options, str):  # a CSV file has no lists
            options = _json(options, where, columns.choices)
        if isinstance(options, Mapping) and isinstance(options.get("text"), list):  # {"text": [...], "label": [...]}
            options = options["text"]
        if not isinstance(options, list) or not 2 <= len(options) <= MOST_OPTIONS:
            raise DataError(f"{where} needs {columns.choices!r}, a list of 2 to {MOST_OPTIONS} options")
        texts = [text_cell({"option": option}, "option", where) for option in options]
        answer = text_cell(record, columns.answer, where).strip()
        letter = _letter(answer, texts)
        if letter is None:
            raise DataError(
                f"{where} has the answer {answer[:60]!r}, which is neither a letter, a number from 0 nor one of its "
                f"{len(texts)} options"
            )
        return "\n".join([letter, *texts]), (letter, tuple(texts))

    def reference(self, answer: str, more: Any, where: str) -> ChoiceReference:  # noqa: ARG002
        return ChoiceReference(*more)

    def values(self, more: Any) -> Mapping[str, str]:
        letters = [chr(ord("A") + place) for place in range(len(more[1]))]
        lines = [f"{letter}) {option}" for letter, option in zip(letters, more[1], strict=True)]
        return {"options": "\n".join(lines), "letters": "".join(letters)}

    def describe(self, reference: ChoiceReference) -> tuple[str, str]:
        text = reference.options[reference.letters.index(reference.letter)]
        return f"of {len(reference.options)} options", f"{reference.letter}) {text}"

    def reply(self, answer: str, prompt: str) -> str:
        return super().reply(answer.partition("\n")[0], prompt)

    def golden(self, answer: str, reference: ChoiceReference) -> str:  # noqa: ARG002
        return f"Answer: {reference.letter}"

    def golden_completions(self, reference: ChoiceReference) -> Sequence[GoldenCompletion]:
        other = next(letter for letter in reference.letters if letter != reference.letter)
        return [
            GoldenCompletion("the answer", f"Answer: {reference.letter}", "correct"),
            GoldenCompletion("another letter", f"Answer: {other}", "incorrect"),
            GoldenCompletion("an empty reply", "", "incorrect"),
        ]


def _letter(answer: str, options: Sequence[str]) -> str | None:
    """Return the letter of the right option: its text stands first, then the letter, then the number."""
    if options.count(answer) == 1:
        return chr(ord("A") + options.index(answer))
    letter = answer.strip("().").upper()
    if len(letter) == 1 and "A" <= letter < chr(ord("A") + len(options)):
        return letter
    return chr(ord("A") + int(answer)) if answer.isdecimal() and int(answer) < len(options) else None


class CodeAnswers(AnswerKind):
    prompts = PROGRAMS
    default_prompt = "simple"

    def __init__(self) -> None:
        self.grader = CodeGrader(CodeGrader.Config())

    def fields(self, columns: OwnColumns) -> Mapping[str, str]:
        return {columns.tests: "pairs of stdin and stdout, or arguments and values of the function `fn_name`"}

    def parse(self, record: Mapping[str, Any], columns: OwnColumns, where: str) -> tuple[str, Any]:
        tests = record.get(columns.tests)
        if isinstance(tests, str):
            tests = _json(tests, where, columns.tests)
        if not isinstance(tests, (list, Mapping)) or not tests:
            raise DataError(
                f"{where} needs {columns.tests!r}: a list of input and output, or lists of inputs and outputs"
            )
        if isinstance(tests, list) and not all(isinstance(test, Mapping) for test in tests):
            raise DataError(
                f"{where} has tests that are not pairs of input and output, such as asserts, in {columns.tests!r}"
            )
        parsed = tests_of(tests, "official", where)
        if not parsed:
            raise DataError(f"{where} has no tests in {columns.tests!r}")
        function = function_name_of(tests)
        starter = record.get("starter_code")
        if not isinstance(starter, str):
            starter = _signature(function, parsed[0].input) if function is not None else ""
        text = json.dumps([function, *((test.input, test.output) for test in parsed)])
        reference = ProgramReference(
            HeldTests(parsed), "own tests", function, starter if isinstance(starter, str) else ""
        )
        return text, reference

    def reference(self, answer: str, more: Any, where: str) -> ProgramReference:  # noqa: ARG002
        reference: ProgramReference = more
        return reference

    def values(self, more: Any) -> Mapping[str, str]:
        return {"format": program_format(more.starter_code)}

    def describe(self, reference: ProgramReference) -> tuple[str, str]:
        kind = f"function {reference.function_name}" if reference.function_name is not None else "program"
        return (
            "program" if reference.function_name is None else "function",
            f"{kind}, {len(reference.tests.read())} tests",
        )

    def golden_completions(self, reference: ProgramReference) -> Sequence[GoldenCompletion]:  # noqa: ARG002
        return not_programs()


def _signature(function: str, first_input: str) -> str:
    """Return the head of a function, so that a model learns its name. An input has a line for each argument."""
    arguments = ", ".join(f"argument_{number}" for number in range(1, len(first_input.splitlines()) + 1))
    return f"def {function}({arguments}):\n    "


def _json(text: str, where: str, column: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{where} has a {column!r} that is text and not JSON ({error})") from None


KINDS: Mapping[str, type[AnswerKind]] = {
    "math": MathAnswers,
    "exact": ExactAnswers,
    "choice": ChoiceAnswers,
    "code": CodeAnswers,
}
