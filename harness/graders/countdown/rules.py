"""The rules of the numbers-and-target game: parse a chain, replay it, enumerate all solutions.

An answer is a chain of steps such as `4*9=36;36+2=38`. Two chains are the same solution when they differ only by
commutativity and associativity. The canonical text of a solution (`2+4*9`) identifies it.
"""

from __future__ import annotations

import functools
import itertools
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

SMALLEST, LARGEST = 1, 99
MAX_CHARS = 1000

_STEP = re.compile(r" *{n} *([-+*/]) *{n} *= *{n} *".format(n="(0|[1-9][0-9]{0,5})"))
_OPERATIONS: Mapping[str, Callable[[int, int], int | Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": Fraction,
}


@dataclass(frozen=True, slots=True)
class CountdownReference:
    """The given numbers, the target, and the number of steps of an answer."""

    numbers: tuple[int, ...]
    target: int
    n_steps: int = 2
    is_running_total: ClassVar[bool] = False
    """Whether each step begins with the result of the step before it."""

    @property
    def allowed_steps(self) -> range:
        return range(self.n_steps, self.n_steps + 1)


@dataclass(frozen=True, slots=True)
class RunningTotalReference(CountdownReference):
    """A problem of a running total in `n_steps` to `max_steps` steps, as the answer chooses."""

    max_steps: int = 5
    is_running_total: ClassVar[bool] = True

    @property
    def allowed_steps(self) -> range:
        return range(self.n_steps, self.max_steps + 1)


@dataclass(frozen=True, slots=True)
class Step:
    """One step as the answer states it, right or wrong."""

    left: int
    operation: str
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left}{self.operation}{self.right}={self.result}"


class BrokenRuleError(Exception):
    """An answer that is not a solution. The message names the step and the rule it broke."""


# --- parsing and replaying --------------------------------------------------------------------------------------


def parse(text: str, allowed_steps: range | None = None) -> tuple[Step, ...]:
    """Parse a chain in linear time. Spaces around tokens are allowed, and nothing else is."""
    if len(text) > MAX_CHARS:
        raise BrokenRuleError(f"the answer is longer than {MAX_CHARS} characters")
    pieces = text.split(";")
    if allowed_steps is not None and len(pieces) not in allowed_steps:
        asked = " to ".join(map(str, sorted({allowed_steps[0], allowed_steps[-1]})))
        raise BrokenRuleError(f"{asked} steps are asked for, {len(pieces)} given")
    return tuple(_parse_step(piece, position) for position, piece in enumerate(pieces, 1))


def _parse_step(piece: str, position: int) -> Step:
    match = _STEP.fullmatch(piece)
    if match is None:
        raise BrokenRuleError(f"step {position} is not of the form a+b=c")
    left, operation, right, result = match.groups()
    return Step(int(left), operation, int(right), int(result))


def format_chain(steps: Iterable[Step]) -> str:
    """Return the chain without spaces."""
    return ";".join(map(str, steps))


def solve(steps: Sequence[Step], reference: CountdownReference) -> Expression:
    """Return the expression a chain computes. Raises BrokenRuleError unless it keeps every rule and hits the target."""
    if reference.is_running_total:
        _check_running_total(steps)
    expression = replay(steps, reference.numbers)
    if expression.value != reference.target:
        raise BrokenRuleError(f"the last value is {expression.value}, not the target {reference.target}")
    return expression


def _check_running_total(steps: Sequence[Step]) -> None:
    for position, (before, step) in enumerate(itertools.pairwise(steps), 2):
        if step.left != before.result:
            raise BrokenRuleError(
                f"step {position} begins with {step.left}, not with {before.result}, the result before"
            )


def canonical_text(text: str) -> str:
    """Return the canonical text of a legal chain, whatever numbers were given and whatever its value."""
    steps = parse(text)
    return replay(steps, [number for step in steps for number in (step.left, step.right)]).text


def replay(steps: Sequence[Step], numbers: Sequence[int]) -> Expression:
    """Return the expression a chain computes, whatever its value. Raises BrokenRuleError if it breaks a rule."""
    given = list(numbers)
    derived: list[tuple[int, Expression]] = []
    for position, step in enumerate(steps, 1):
        left = _take(step.left, given, derived, position)
        right = _take(step.right, given, derived, position)
        value = _value(step, position)
        derived.append((position, combine(left, step.operation, right, value)))
    if len(derived) != 1:
        position, unused = derived[0]
        raise BrokenRuleError(f"step {position}: its result {unused.value} is never used")
    return derived[0][1]


def _take(value: int, given: list[int], derived: list[tuple[int, Expression]], position: int) -> Expression:
    # A value may be both given and derived. Taking the derived one first gives each chain one canonical form.
    for index in reversed(range(len(derived))):
        if derived[index][1].value == value:
            return derived.pop(index)[1]
    if value not in given:
        raise BrokenRuleError(f"step {position} uses {value}, which is neither a number left nor a result left")
    given.remove(value)
    return number(value)


def _value(step: Step, position: int) -> int:
    exact = _apply(step.left, step.operation, step.right)
    sides = f"step {position}: {step.left}{step.operation}{step.right}"
    if exact.denominator != 1:
        raise BrokenRuleError(f"{sides} is not a whole number")
    if not _is_allowed(exact):
        raise BrokenRuleError(f"{sides} is {exact}, outside {SMALLEST}..{LARGEST}")
    if exact != step.result:
        raise BrokenRuleError(f"{sides} is {exact}, not {step.result}")
    return int(exact)


def _apply(left: int, operation: str, right: int) -> int | Fraction:
    return _OPERATIONS[operation](left, right)


def _is_allowed(exact: int | Fraction) -> bool:
    return exact.denominator == 1 and SMALLEST <= exact <= LARGEST


# --- canonical form ---------------------------------------------------------------------------------------------

Part = tuple[bool, int, str]
"""A term or factor: whether it is inverse (subtracted or divided by), its value, its canonical text."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A value and its derivation, modulo commutativity and associativity; `text` identifies it.

    A sum stores its signed terms and a product its signed factors, flattened and sorted. x/1 is stored as x*1.
    """

    value: int
    kind: Literal["number", "sum", "product"]
    parts: tuple[Part, ...]
    text: str


def number(value: int) -> Expression:
    """Return the expression of a given number."""
    return Expression(value, "number", (), str(value))


def combine(left: Expression, operation: str, right: Expression, value: int) -> Expression:
    """Return the expression of one operation on two expressions, which has this value."""
    kind: Literal["sum", "product"] = "sum" if operation in "+-" else "product"
    right_parts = _parts(right, kind)
    if operation in "-/":
        right_parts = tuple(_invert(part, kind) for part in right_parts)
    parts = tuple(sorted(_parts(left, kind) + right_parts))
    signs = "+-" if kind == "sum" else "*/"
    # The first part is never an inverse, because every value is at least 1.
    text = "".join(signs[is_inverse] + part_text for is_inverse, _, part_text in parts)[1:]
    return Expression(value, kind, parts, text)


def _parts(expression: Expression, kind: Literal["sum", "product"]) -> tuple[Part, ...]:
    if expression.kind == kind:
        return expression.parts
    text = f"({expression.text})" if expression.kind == "sum" else expression.text
    return ((False, expression.value, text),)


def _invert(part: Part, kind: Literal["sum", "product"]) -> Part:
    is_inverse, value, text = part
    return (False if kind == "product" and value == 1 else not is_inverse, value, text)


# --- all solutions of two steps ------------------------------------------------------------------------

Writings = Mapping[str, tuple[str, ...]]
"""Canonical text of a solution -> every legal chain that maps to it."""


def writings(reference: CountdownReference) -> Writings:
    """Return every solution of a two-step problem, in a fixed order, each with all its chains."""
    if reference.n_steps != 2:
        raise ValueError(f"only two-step problems are enumerated, not {reference.n_steps} steps")
    # Two steps use three numbers, and the canonical text contains them, so no two triples share a solution.
    found: dict[str, tuple[str, ...]] = {}
    for triple in _triples(reference.numbers):
        found.update(chains_by_target(triple).get(reference.target, {}))
    return found


@functools.cache
def solution_counts(numbers: tuple[int, ...]) -> Mapping[int, int]:
    """Return the number of two-step solutions for each last value. The numbers must be sorted."""
    counts: Counter[int] = Counter()
    for triple in _triples(numbers):
        counts.update({value: len(solutions) for value, solutions in chains_by_target(triple).items()})
    return counts


@functools.cache
def chains_by_target(triple: tuple[int, ...]) -> Mapping[int, Writings]:
    """Return every legal two-step chain on three sorted numbers: last value -> solution -> chains, all sorted."""
    found: dict[int, dict[str, tuple[str, ...]]] = {}
    steps_of = {format_chain(steps): steps for steps in _two_steps(triple)}
    for chain in sorted(steps_of):
        expression = replay(steps_of[chain], triple)
        solutions = found.setdefault(expression.value, {})
        solutions[expression.text] = (*solutions.get(expression.text, ()), chain)
    return {value: dict(sorted(found[value].items())) for value in sorted(found)}


@functools.cache
def legal_chains(triple: tuple[int, ...]) -> tuple[str, ...]:
    """Return the same chains in one tuple, whatever their value."""
    return tuple(
        chain for solutions in chains_by_target(triple).values() for chains in solutions.values() for chain in chains
    )


@functools.lru_cache(maxsize=4096)
def _triples(numbers: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    return tuple(sorted(set(itertools.combinations(sorted(numbers), 3))))


def _two_steps(triple: tuple[int, ...]) -> Iterator[tuple[Step, Step]]:
    for a, b, c in itertools.permutations(triple):
        for first in legal_steps(a, b):
            for pair in ((first.result, c), (c, first.result)):
                yield from ((first, second) for second in legal_steps(*pair))


def legal_steps(left: int, right: int) -> Iterator[Step]:
    """Yield each step on two numbers whose result is allowed."""
    for operation in _OPERATIONS:
        exact = _apply(left, operation, right)
        if _is_allowed(exact):
            yield Step(left, operation, right, int(exact))
