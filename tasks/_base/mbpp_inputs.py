"""Convert MBPP+'s inputs to Python values: JSON has no tuples, sets or complex numbers, only lists and strings.

The conversion of each problem is that of evalplus' reader (evalplus.data.mbpp).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Change = Callable[[Any], Any]


def _lists(change: Change) -> Change:
    return lambda value: [change(item) for item in value]


def _tuples(change: Change) -> Change:
    return lambda value: tuple(change(item) for item in value)


def _deep(value: Any) -> Any:
    return tuple(map(_deep, value)) if isinstance(value, list) else value


def _tuple_if_list(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _set_or_empty(value: Any) -> Any:
    """Convert a list to a set; the problem's own inputs have an empty dict in place of an empty set."""
    return set(value) if isinstance(value, list) and value else {}


def _values_as_tuples(value: Any) -> Any:
    return {key: tuple(item) for key, item in value.items()}


# The conversion of arguments by problem: one for all arguments, or one per position.
_EVERY: list[tuple[Change, Sequence[int]]] = [
    (
        tuple,
        (2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809),
    ),
    (_lists(tuple), (63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780)),
    (_tuples(tuple), (259, 401, 445)),
    (_tuples(_tuple_if_list), (278,)),
    (_deep, (580, 615, 791)),
]
_BY_POSITION: list[tuple[dict[int, Change], Sequence[int]]] = [
    ({0: _lists(tuple)}, (75, 413, 444, 753)),
    ({0: tuple}, (250, 307, 405, 446, 617, 720, 763, 808)),
    ({1: tuple}, (106, 750)),
    ({0: _lists(_set_or_empty)}, (115,)),
    ({0: float, 1: complex}, (124,)),
    ({0: complex}, (252,)),
    ({0: _values_as_tuples}, (722,)),
]
EVERY = {number: change for change, numbers in _EVERY for number in numbers}
BY_POSITION = {number: changes for changes, numbers in _BY_POSITION for number in numbers}


def python_values(problem_id: str, inputs: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """Return the arguments of every call with the types that the function expects."""
    number = int(problem_id.rpartition("/")[2])
    if number in EVERY:
        return [[EVERY[number](argument) for argument in arguments] for arguments in inputs]
    changes = BY_POSITION.get(number, {})
    return [
        [
            changes[position](argument) if position in changes else argument
            for position, argument in enumerate(arguments)
        ]
        for arguments in inputs
    ]
