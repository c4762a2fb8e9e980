"""The reference of a multiple-choice problem."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChoiceReference:
    """The right letter, and the texts of the options in the order of the problem, A first."""

    letter: str
    options: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.letter not in self.letters:
            raise ValueError(f"the right letter must be one of {', '.join(self.letters)}, not {self.letter!r}")

    @property
    def letters(self) -> tuple[str, ...]:
        return tuple(chr(ord("A") + index) for index in range(len(self.options)))
