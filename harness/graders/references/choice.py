"""What the letter of a multiple-choice answer is compared with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChoiceReference:
    """The right letter, and the texts of the options in the order that the problem shows them, A first."""

    letter: str
    options: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.letter not in self.letters:
            raise ValueError(f"the right letter is one of {', '.join(self.letters)}, not {self.letter!r}")

    @property
    def letters(self) -> tuple[str, ...]:
        return tuple(chr(ord("A") + index) for index in range(len(self.options)))
