"""Values and base class of the file formats that completions are imported from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from harness.core.errors import DataError
from harness.core.types import FinishReason, Verdict
from harness.data.rows import Record, RowFile

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ProblemKeys:
    """All that a row says about its problem. An absent key is None."""

    id: str | None = None
    number: int | None = None
    """Its position in the data set, counted from 0."""
    text: str | None = None
    """The question, or a prompt that contains it."""
    stem: str | None = None
    """The id without the sample number at its end, to try if no problem has the whole id."""

    def __str__(self) -> str:
        plain_id = _start(self.id) if self.id != self.text else None  # one column may be either
        named = {"id": plain_id, "number": self.number, "question": _start(self.text)}
        return ", ".join(f"{name} {value!r}" for name, value in named.items() if value is not None)


def _start(text: str | None) -> str | None:
    if text is None:
        return None
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:57] + "..."


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion in a file, not yet matched with a problem."""

    keys: ProblemKeys
    text: str | None
    """None if the tool got no completion for this problem."""
    index: int | None = None
    """Its number among the samples of the problem, if the file gives one."""
    finish_reason: FinishReason | None = None
    n_prompt: int | None = None
    n_completion: int | None = None
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    """The tool's own verdicts by name."""
    is_program: bool = False
    """Whether the text is a program and nothing else."""
    continues_prompt: bool = False
    """Whether the program goes on where the code in the prompt ends."""
    is_repeat: bool = False
    """Whether an earlier row has the same completion, so that only its verdicts are new."""
    step: int | None = None
    """The training step that it was sampled in."""


@dataclass(frozen=True, slots=True)
class Origin:
    """All that a file says about how its completions were made."""

    tool: str | None = None
    """The tool with its version, if the file has it."""
    model: str | None = None
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Known options of `harness.core.types.Sampling`, by name."""


class RowSource(Protocol):
    """A file as numbered rows."""

    @property
    def path(self) -> Path: ...

    def at(self, number: int) -> str:
        """Return the place of a row for a message."""
        ...

    def rows(self) -> Iterator[tuple[int, Record]]: ...


class Format(ABC):
    """One file format. `read` maps a row to samples; a row of another form raises ValueError, KeyError or TypeError."""

    name: ClassVar[str]
    title: ClassVar[str]

    @abstractmethod
    def recognises(self, rows: Sequence[Row]) -> bool:
        """Return whether the first rows of a file are of this format."""

    @abstractmethod
    def read(self, row: Row) -> Iterator[Sample]:
        """Yield the samples of a row."""

    def origin(self, path: Path, rows: Sequence[Row]) -> Origin:  # noqa: ARG002
        """Return what the file's first rows, its name and its neighbours say about the completions."""
        return Origin(self.title)

    def open(self, path: Path) -> RowSource:
        """Open a file of this format."""
        return RowFile.open(path)


# --- reading values ---------------------------------------------------------------------------------------------


def text_of(value: Any) -> str | None:
    """Return a completion as text: a string, or the last assistant turn of a conversation. None stays None."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        for key in ("text", "content", "generated_text"):
            if key in value:
                return text_of(value[key])
    if is_conversation(value):
        replies = [turn for turn in value if turn["role"] == "assistant"]
        if replies:
            return text_of(replies[-1]["content"])
    if isinstance(value, list) and value and all(_is_part(part) for part in value):
        return "".join(part["text"] for part in value if part.get("type") in (None, "text", "output_text"))
    raise ValueError(f"a completion is text, not {type(value).__name__} ({str(value)[:60]})")


def is_conversation(value: Any) -> bool:
    is_list = isinstance(value, list) and bool(value)
    return is_list and all(isinstance(turn, Mapping) and "role" in turn and "content" in turn for turn in value)


def _is_part(part: Any) -> bool:
    return isinstance(part, Mapping) and ("text" in part or part.get("type") == "reasoning")


def question_of(prompt: Any) -> str | None:
    """Return a prompt as text: a string, or the turns of a conversation before the reply."""
    if prompt is None or isinstance(prompt, str):
        return prompt
    if is_conversation(prompt):
        return "\n".join(str(text_of(turn["content"])) for turn in prompt if turn["role"] != "assistant")
    raise ValueError(f"a question is text or a list of messages, not {type(prompt).__name__}")


def verdict_of_score(score: Any, right: float = 1.0) -> Verdict:
    """Return a tool's score as a verdict: correct from `right` on; ungraded if there is none."""
    if score is None:
        return Verdict("ungraded", None, reason="not scored by the tool")
    number = float(score)
    if number != number:
        return Verdict("ungraded", None, reason="not scored by the tool")
    return Verdict("correct" if number >= right else "incorrect", number)


def whole(value: Any) -> int | None:
    """Return a count or a number in any of its usual forms, such as 3, 3.0 and "3"; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return int(value) if value == int(value) else None
    return int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() else None


def finish_reason_of(value: Any) -> FinishReason | None:
    """Return the finish reason in our words; None for one that is unknown here."""
    if value in ("length", "max_tokens", "model_length", "max_output_tokens"):
        return "length"
    return "stop" if value in ("stop", "end_turn", "eos", "eos_token", "stop_sequence") else None


def row_error(file: RowSource, number: int, form: str, error: Exception) -> DataError:
    what = f"has no field {error}" if isinstance(error, KeyError) else str(error)
    return DataError(f"{file.at(number)} is not a row of the format {form}: {what}")
